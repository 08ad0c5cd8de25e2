"""Integers beyond 2**53, where a kernel that goes by way of float64 shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graphopt import ops
from graphopt.backends.onnxruntime import OnnxRuntimeBackend
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.parser import parse
from graphopt.ir.types import DType, TensorType

pytestmark = pytest.mark.onnxruntime

BIG = torch.tensor([2**53 + 1, 2**60 + 3, -(2**62) - 5, 2**31 + 7, -3, 9, 2**63 - 1, -(2**63) + 1])
SMALL = torch.tensor([3, 7, 5, -2, 2, -4, 11, 3])
OVER: dict[str, Any] = {"axes": (0,), "keepdims": False}

CALLS: list[tuple[str, list[Any], dict[str, Any]]] = [
    *((op, [BIG], OVER) for op in ("sum", "prod", "amax", "amin", "any", "all")),
    *((op, [BIG.reshape(2, 2, 2)], {"axes": (0, 2), "keepdims": keepdims}) for op in ("sum", "prod") for keepdims in (True, False)),
    *((op, [BIG[:0].reshape(0, 3)], {"axes": (0,), "keepdims": False}) for op in ("sum", "prod")),
    ("prod", [torch.full((39,), 3)], OVER),
    ("sum", [torch.tensor([2**31 - 1] * 3, dtype=torch.int32)], OVER),
    *((op, [BIG], {"axis": 0, "keepdims": False}) for op in ("argmax", "argmin")),
    ("cumsum", [BIG], {"axis": 0}),
    ("sort", [BIG], {"axis": 0, "descending": False, "stable": False}),
    ("topk", [BIG], {"axis": 0, "k": 3, "largest": True, "sorted": True}),
    *((op, [BIG], {}) for op in ("neg", "abs", "sign", "relu", "square", "bitwise_not")),
    ("clamp", [BIG], {"minimum": -5, "maximum": 2**60 + 1}),
    ("threshold", [BIG], {"threshold": 2**53, "value": 2**60 + 1}),
    *((op, [BIG, SMALL], {}) for op in sorted(ops.BINARY - {"div", "pow", "atan2", "bitwise_left_shift", "bitwise_right_shift"})),
    *((op, [BIG, 2**53 + 1], {}) for op in ("add", "mul", "maximum", "eq", "lt", "bitwise_and", "remainder")),
    *(("div", [BIG, other], {"rounding": rounding}) for other in (SMALL, 7, -7) for rounding in ("floor", "trunc")),
    *(("pow", [torch.tensor([3, -7, 5, 2**27 + 1]), exponent], {}) for exponent in (0, 1, 2, 3, 13, 39)),
    ("bitwise_left_shift", [SMALL, 60], {}),
    ("bitwise_left_shift", [SMALL, torch.tensor([62, 61, 63, 60, 1, 0, 5, 64])], {}),
    ("bitwise_right_shift", [BIG, 5], {}),
    ("bitwise_right_shift", [BIG, 63], {}),
    ("matmul", [BIG.reshape(2, 4), SMALL.reshape(4, 2)], {}),
    ("einsum", [BIG.reshape(2, 4), SMALL.reshape(4, 2)], {"equation": "ij,jk->ik"}),
    ("scatter", [BIG, torch.tensor([0, 0, 1]), torch.tensor([5, 2**53 + 1, 7])], {"axis": 0, "reduce": "add"}),
]


@pytest.mark.parametrize(("op", "operands", "attrs"), CALLS, ids=[f"{index}-{call[0]}" for index, call in enumerate(CALLS)])
def test_every_bit_is_kept(op: str, operands: list[Any], attrs: dict[str, Any]) -> None:
    builder = ops.builder(op)
    values: list[Any] = []
    for index, given in enumerate(operands):
        if isinstance(given, torch.Tensor):
            dtype = DType.parse(str(given.dtype).removeprefix("torch."))
            values.append(builder.input(f"x{index}", TensorType(dtype, tuple(given.shape))))
        else:
            values.append(given)
    builder.outputs(*builder.add(op, *values, **attrs).results)
    inputs = [given for given in operands if isinstance(given, torch.Tensor)]
    executable = OnnxRuntimeBackend().lower(builder.graph, threads=1)
    assert executable.report == ()
    for found, wanted in zip(executable.run(inputs), Interpreter(builder.graph).run(*inputs), strict=True):
        assert torch.equal(found, wanted)


DYNAMIC = """
graph g(%x: i64[n,3]) where n in [0, 9] {
  %s: i64[3] = sum(%x) {axes=(0,), keepdims=false}
  %t: i64[1,1] = sum(%x) {axes=(0, 1), keepdims=true}
  return %s, %t
}
"""


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_sum_along_a_symbolic_axis(rows: int) -> None:
    x = torch.full((rows, 3), 2**60 + 1)
    graph = parse(DYNAMIC)
    executable = OnnxRuntimeBackend().lower(graph, threads=1)
    assert executable.report == ()
    for found, wanted in zip(executable.run([x]), Interpreter(graph).run(x), strict=True):
        assert torch.equal(found, wanted)


def test_power_of_computed_exponents_runs_in_the_reference() -> None:
    graph = parse("graph g(%x: i64[2], %y: i64[2]) {\n  %z: i64[2] = pow(%x, %y)\n  return %z\n}")
    executable = OnnxRuntimeBackend().lower(graph, threads=1)
    assert "a power of integers" in executable.report[0]
    x, y = torch.tensor([3, 7]), torch.tensor([39, 20])
    assert torch.equal(executable.run([x, y])[0], x**y)
