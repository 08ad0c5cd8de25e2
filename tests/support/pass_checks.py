"""What the test of every lossless pass checks: text, numbers by numeric class, types, and that a second run does nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.ops import verify
from graphopt.pipeline.passes import NumericClass, Pass, PassResult
from graphopt.pipeline.probes import plant_special_values, random_inputs
from tests.support.folding import filled, largest_difference

__all__ = ["assert_same_bits", "check_kept", "check_numbers", "check_rewrite"]


def assert_same_bits(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> None:
    """Equal dtypes, shapes and bits; NaN in the same places, whatever its payload; zeros of the same sign."""
    for one, two in zip(left, right, strict=True):
        assert one.dtype == two.dtype
        assert one.shape == two.shape
        if not one.is_floating_point():
            assert torch.equal(one, two)
            continue
        nan = one.isnan()
        assert torch.equal(nan, two.isnan())
        assert torch.equal(one[~nan], two[~nan])
        assert torch.equal(one[~nan].signbit(), two[~nan].signbit())


def check_numbers(before: Graph, after: Graph, numeric: NumericClass) -> None:
    """Run both graphs: equal bits for exact, on special values as well, 1e-9 in float64 for rounding."""
    if numeric is NumericClass.ROUNDING:
        for seed in (1, 2):
            assert largest_difference(before, after, seed=seed) <= 1e-9
        return
    plain = random_inputs(before, seed=3)
    for inputs in (plain, plant_special_values(plain, seed=4)):
        assert_same_bits(Interpreter(before).run(*inputs), Interpreter(after).run(*inputs))


def check_rewrite(pass_: Pass, before: str, after: str, *, fired: int | None = 1) -> PassResult:
    """The pass turns one text into the other, in `fired` steps, and the numbers stay within its class."""
    graph = filled(before)
    original = graph.clone()
    result = pass_.run(graph)
    verify(graph)
    assert show(graph) == show(parse(after))
    assert fired is None or result.rewritten == fired
    check_numbers(original, graph, pass_.numeric)
    assert pass_.run(graph).rewritten == 0, "a second run has to find nothing"
    return result


def check_kept(pass_: Pass, text: str, *reasons: str) -> PassResult:
    """The pass leaves the graph as it is, and each of `reasons` is part of some reason that it gives; none where none are named."""
    graph = parse(text)
    verify(graph)
    result = pass_.run(graph)
    assert result.rewritten == 0
    assert show(graph) == show(parse(text))
    given = [reason for _, reason in result.skipped]
    for reason in reasons:
        assert any(reason in one for one in given), given
    if not reasons:
        assert not given
    return result
