"""Graphs with numbers for the tests of passes that compute new weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor
from graphopt.ir.parser import parse
from graphopt.ops import verify
from graphopt.pipeline.passes import Pass, PassResult
from graphopt.pipeline.probes import random_inputs

__all__ = ["check_pass", "filled", "largest_difference", "set_state"]


def filled(text: str, seed: int = 0) -> Graph:
    """The graph of a text, verified, with random numbers in its states: running variances positive, scales not 1."""
    graph = parse(text)
    verify(graph)
    generator = torch.Generator().manual_seed(seed)
    for state in graph.states.values():
        dtype = getattr(torch, state.type.dtype.torch_name)
        shape = state.type.static_shape
        if dtype.is_floating_point:
            numbers = torch.randn(shape, generator=generator, dtype=torch.float64)
            if "var" in state.name:
                numbers = numbers.abs() + 0.1
        else:
            numbers = torch.randint(0, 2, shape, generator=generator)
        set_state(graph, state.name, numbers.to(dtype))
    return graph


def set_state(graph: Graph, name: str, tensor: torch.Tensor) -> None:
    """Give a state its numbers."""
    GraphEditor(graph).update_state(replace(graph.states[name], data=TensorData(tensor)))


def largest_difference(before: Graph, after: Graph, seed: int = 1) -> float:
    """max|after - before| over max|before| in float64 on random inputs; NaN has to be in the same places."""
    inputs = random_inputs(before, seed=seed)
    worst = 0.0
    old = Interpreter(before, precise=True).run(*inputs)
    new = Interpreter(after, precise=True).run(*inputs)
    for left, right in zip(old, new, strict=True):
        assert left.shape == right.shape
        assert left.dtype == right.dtype
        assert torch.equal(left.isnan(), right.isnan())
        left, right = left.nan_to_num(), right.nan_to_num()
        if left.numel():
            worst = max(worst, float((left - right).abs().max() / left.abs().max().clamp_min(1e-30)))
    return worst


def check_pass(pass_: Pass, graph: Graph, *, rewritten: int = 1, tolerance: float = 1e-9) -> PassResult:
    """Run the pass in place; check the count, the types, and the numbers in float64 against the graph before."""
    before = graph.clone()
    result = pass_.run(graph)
    assert result.rewritten == rewritten, result.skipped
    verify(graph)
    assert largest_difference(before, graph) <= tolerance
    return result
