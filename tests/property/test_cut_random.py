"""Cuts of graphs that nobody wrote for them: types fit, dead units leave the outputs, records apply again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from graphopt.analysis.axes import axis_groups
from graphopt.ir.graph import Graph
from graphopt.ops import verify
from graphopt.rewrite.cut import CutRecord, cut, replay
from graphopt.rewrite.rewriter import Rewriter
from tests.support.cutting import by_name, half_of, with_dead_units
from tests.support.folding import largest_difference
from tests.support.pass_constructs import construct_graph
from tests.support.random_graphs import random_graph

_SEEDS = 16


def _graphs() -> Iterator[Graph]:
    for seed in range(_SEEDS):
        yield random_graph(seed, nodes=25, symbolic=seed % 2 == 0, with_data=True)
        yield construct_graph(seed, symbolic=seed % 2 == 1)


@pytest.mark.parametrize("heads", ["whole", "inside"])
def test_half_of_every_group_goes(heads: str) -> None:
    cuts = 0
    for number, graph in enumerate(_graphs()):
        copy = graph.clone()
        groups = axis_groups(copy, heads="inside" if heads == "inside" else "whole")
        removal = half_of(groups, number)
        cuts += len(removal)
        record = cut(Rewriter(copy), groups, removal)
        verify(copy)
        assert [(value.name, value.type) for value in copy.inputs] == [(value.name, value.type) for value in graph.inputs]
        assert str(replay(graph, CutRecord.from_json(record.to_json()))) == str(copy)
    assert cuts > 15


def test_dead_units_leave_the_outputs_as_they_are() -> None:
    cuts = 0
    for number, graph in enumerate(_graphs()):
        copy = graph.clone()
        groups = axis_groups(copy)
        removal = half_of(groups, number, renormalised=False)
        cuts += len(removal)
        dead = with_dead_units(graph, by_name(removal, axis_groups(graph)))
        record = cut(Rewriter(copy), groups, removal)
        assert largest_difference(dead, replay(dead, record)) <= 1e-9
    assert cuts > 15


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: threads cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
