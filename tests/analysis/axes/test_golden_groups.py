"""Groups of small networks, member by member, and the proofs that they are right.

`GRAPHOPT_UPDATE_GOLDEN=1 pytest tests/analysis/axes` writes the files anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy
import pytest
import torch

from graphopt import ops
from graphopt.analysis.axes import Removal, axis_groups, show_groups
from graphopt.analysis.axes.groups import AxisGroups
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.graph import Graph
from graphopt.pipeline.poison import poison_check
from graphopt.rewrite.cut import cut
from graphopt.rewrite.rewriter import Rewriter
from tests.support.axis_cases import CASES
from tests.support.random_graphs import fill

GOLDEN = Path(__file__).with_name("golden")


def inputs_of(graph: Graph) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(value.type.static_shape, generator=generator, dtype=torch.float64).to(getattr(torch, value.type.dtype.torch_name))
        if value.type.dtype.is_float
        else torch.randint(0, 4, value.type.static_shape, generator=generator)
        for value in graph.inputs
    ]


def half(groups: AxisGroups, seed: int = 0) -> Removal:
    """Every group loses half of its units."""
    random = numpy.random.default_rng(seed)
    return {group: random.permutation(group.size) < group.size // 2 for group in groups}


@pytest.mark.parametrize("name", CASES)
def test_groups_are_as_written_down(name: str) -> None:
    graph = CASES[name]()
    text = show_groups(graph, axis_groups(graph))
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GRAPHOPT_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("heads", ["whole", "inside"])
@pytest.mark.parametrize("name", CASES)
def test_groups_are_closed(name: str, heads: str) -> None:
    graph = CASES[name]()
    fill(graph)
    groups = axis_groups(graph, heads="whole" if heads == "whole" else "inside")
    assert len(groups)
    assert poison_check(graph, groups, half(groups), inputs_of(graph)) == ()


@pytest.mark.parametrize("heads", ["whole", "inside"])
@pytest.mark.parametrize("name", CASES)
def test_units_of_zeros_leave_the_output_unchanged(name: str, heads: str) -> None:
    """Weights of the units that go are zeroed, then the units are taken out: the same numbers, in float64."""
    graph = CASES[name]()
    fill(graph)
    groups = axis_groups(graph, heads="whole" if heads == "whole" else "inside")
    removal = {group: gone for group, gone in half(groups).items() if not group.renormalised}
    assert removal
    kill(graph, removal)
    expected = Interpreter(graph, precise=True).run(*inputs_of(graph))
    cut(Rewriter(graph), groups, removal)
    ops.verify(graph)
    found = Interpreter(graph, precise=True).run(*inputs_of(graph))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def kill(graph: Graph, removal: Removal) -> None:
    """Set what the removed units write and read to zero."""
    from dataclasses import replace

    from graphopt.ir.data import TensorData
    from graphopt.ir.graph import GraphEditor

    editor = GraphEditor(graph)
    for group, gone in removal.items():
        padded = numpy.append(gone, False)
        for member in group.members:
            state = graph.state_of(member.value)
            if state is not None and state.data is not None:
                places = torch.from_numpy(padded[member.units].nonzero()[0])
                editor.update_state(replace(state, data=TensorData(state.data.tensor().index_fill(member.axis, places, 0))))
