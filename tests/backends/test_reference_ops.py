"""Every op of the table: the lowering against a direct torch call, and the float64 world."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graphopt import ops
from graphopt.backends.reference.interpreter import Interpreter, precise_dtype
from graphopt.backends.reference.lowering import LOWERINGS
from graphopt.capture.module import to_module
from graphopt.ir.graph import Value
from graphopt.ir.types import DType, TensorType
from tests.ops.torch_calls import TORCH
from tests.support.op_samples import OPS, cond_samples, equal, graph_of, samples, torch_dtype

CALLS = 12


def direct(op: str, given: list[Any], attrs: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    results = TORCH[op](given, {name: torch_dtype(value) if isinstance(value, DType) else value for name, value in attrs.items()})
    return tuple(results) if isinstance(results, tuple | list) else (results,)


def test_every_op_has_a_lowering() -> None:
    assert set(LOWERINGS) == {found.name for found in ops.definitions()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("op", OPS)
@torch.no_grad()
def test_lowering_is_the_torch_call(op: str) -> None:
    count = 0
    for graph, inputs, given, attrs in samples(op, CALLS):
        if op == "avg_pool1d" and attrs["divisor_override"] is not None:
            continue  # torch has no such call, see test_average_pool_with_a_divisor
        torch.manual_seed(0)
        expected = direct(op, given, attrs)
        torch.manual_seed(0)
        found = Interpreter(graph).run(*inputs)
        torch.manual_seed(0)
        module = to_module(graph, flat=True)(*inputs)
        assert len(found) == len(expected) == len(module), str(graph)
        for a, b, c in zip(expected, found, module, strict=True):
            assert equal(a, b), f"{graph}\n{a}\n{b}"
            assert equal(b, c), f"{graph}\n{b}\n{c}"
        count += 1
    assert count >= 3


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("op", OPS)
def test_precise_run_is_float64(op: str) -> None:
    for graph, inputs, _, _ in samples(op, CALLS):
        torch.manual_seed(0)
        found = Interpreter(graph).run(*inputs)
        torch.manual_seed(0)
        precise = Interpreter(graph, precise=True).run(*inputs)
        for a, b, value in zip(found, precise, graph.outputs, strict=True):
            assert isinstance(value, Value)
            assert a.dtype == torch_dtype(value.type.dtype), str(graph)
            assert b.dtype == precise_dtype(a.dtype), str(graph)
            assert a.shape == b.shape
    assert torch.get_default_dtype() == torch.float32


def test_average_pool_with_a_divisor() -> None:
    attrs: dict[str, Any] = {"kernel": (3,), "stride": (2,), "padding": (1,), "ceil_mode": False, "count_include_pad": False}
    x = torch.randn(2, 3, 9)
    (found,) = Interpreter(graph_of("avg_pool1d", [TensorType(DType.f32, (2, 3, 9))], {**attrs, "divisor_override": 2})).run(x)
    padded = torch.nn.functional.pad(x, (1, 1))
    assert torch.allclose(found, padded.unfold(2, 3, 2).sum(-1) / 2)


def test_cond_runs_the_branch() -> None:
    for graph, inputs in cond_samples():
        y, z = Interpreter(graph).run(*inputs)
        x = inputs[1]
        assert torch.equal(y, x * 2 if bool(inputs[0]) else x)
        assert torch.equal(z, (x * 2 if bool(inputs[0]) else -x - 1).T)
        assert Interpreter(graph, precise=True).run(*inputs)[0].dtype == torch.float64
        assert all(torch.equal(a, b) for a, b in zip(to_module(graph)(*inputs), (y, z), strict=True))
