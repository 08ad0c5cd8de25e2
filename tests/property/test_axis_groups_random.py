"""Random graphs: groups are closed, cut to graphs that type, and come out the same every time."""

from __future__ import annotations

import numpy
import pytest
import torch

from graphopt import ops
from graphopt.analysis.axes import Removal, axis_groups, show_groups
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.graph import CallStructure, Graph
from graphopt.pipeline.poison import poison_check
from graphopt.rewrite.cut import cut
from graphopt.rewrite.rewriter import Rewriter
from tests.support.pass_constructs import construct_graph
from tests.support.random_graphs import random_graph

SEEDS = range(40)


def inputs_of(graph: Graph) -> list[torch.Tensor]:
    """Numbers for every input; symbolic sizes are 2."""
    generator = torch.Generator().manual_seed(0)
    found: list[torch.Tensor] = []
    for value in graph.inputs:
        shape = [dim if isinstance(dim, int) else 2 for dim in value.shape]
        dtype = getattr(torch, value.type.dtype.torch_name)
        found.append(torch.randn(shape, generator=generator).to(dtype) if dtype.is_floating_point else torch.ones(shape, dtype=dtype))
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", [random_graph, construct_graph], ids=["random", "constructs"])
def test_groups_of_random_graphs_are_closed_and_can_be_cut(make: object, seed: int) -> None:
    graph = random_graph(seed, nodes=25, symbolic=seed % 3 == 0, with_data=True) if make is random_graph else construct_graph(seed)
    # Only the last value is an output, so that there is something to cut.
    Rewriter(graph).set_outputs(graph.outputs[-1:], CallStructure.default(len(graph.inputs), 1))
    groups = axis_groups(graph, heads="whole" if seed % 2 else "inside")
    assert show_groups(graph, groups) == show_groups(graph.clone(), axis_groups(graph.clone(), heads="whole" if seed % 2 else "inside"))
    random = numpy.random.default_rng(seed)
    removal: Removal = {group: random.permutation(group.size) < group.size // 2 for group in groups}
    inputs = inputs_of(graph)
    assert poison_check(graph, groups, removal, inputs) == ()
    before = [tensor.shape for tensor in Interpreter(graph).run(*inputs)]
    cut(Rewriter(graph), groups, removal)
    ops.verify(graph)
    assert [tensor.shape for tensor in Interpreter(graph).run(*inputs)] == before
