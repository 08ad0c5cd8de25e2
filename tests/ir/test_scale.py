"""Large graphs: no recursion, and cost about linear. `python -m tools.bench_scale` measures 100,000 nodes."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from graphopt.ir.diff import diff
from graphopt.ir.graph import Graph, GraphEditor
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.ir.verifier import verify_structure
from graphopt.ops import verify
from tools.bench_scale import SHAPES

NODES = 10_000


@contextmanager
def shallow(depth: int = 200) -> Generator[None]:
    """Little room to recurse: about `depth` frames from here."""
    frame, used = sys._getframe(), 0  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        frame, used = frame.f_back, used + 1
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(used + depth)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def text_of(shape: str, count: int) -> str:
    return "\n".join(["graph big(%x: f32[1,8]) {", *SHAPES[shape](count), "}"]) + "\n"


@pytest.mark.parametrize("shape", SHAPES)
def test_ten_thousand_nodes_without_recursion(shape: str) -> None:
    text = text_of(shape, NODES)
    with shallow():
        graph = parse(text)
        verify(graph)
        assert show(graph) == text
        copy = graph.clone()
        verify_structure(copy)
        assert diff(graph, copy).is_empty
        assert graph.node_count >= NODES - 3


def test_editing_a_large_graph_is_cheap_at_both_ends() -> None:
    graph = parse(text_of("chain", NODES))
    editor = GraphEditor(graph)
    last = graph.outputs[0]
    for index in range(2000):
        first = graph.first_node
        assert first is not None
        editor.insert("relu", (graph.inputs[0],), {}, [(graph.fresh_name("relu"), graph.inputs[0].type)], before=first)
        if index % 2:
            editor.erase(next(iter(graph.nodes)))
    assert graph.outputs[0] is last
    verify_structure(graph)


def test_fresh_names_stay_cheap() -> None:
    graph = Graph("names")
    editor = GraphEditor(graph)
    type_ = parse("graph g(%x: f32[1]) { return }").inputs[0].type
    for _ in range(NODES):
        editor.insert("f", (), {}, [(graph.fresh_name("same"), type_)])
    assert graph.has_value(f"same_{NODES - 1}")
