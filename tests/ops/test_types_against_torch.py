"""Every type rule against torch: random calls run there on real small tensors, shapes and dtypes compared.

Where torch refuses a call the rule has to refuse it too, and the other way round.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from graphopt import ops
from graphopt.errors import TypeInferenceError
from graphopt.ir.types import DType, TensorType
from tests.ops.random_calls import DRAW, draw
from tests.ops.torch_calls import TORCH

CALLS = 100

STRICTER = {
    "pow": "torch takes booleans where the exponent is the number 1",
    "conv_transpose1d": "torch takes results of size 0 in some of its kernels",
    "conv_transpose2d": "torch takes results of size 0 in some of its kernels",
    "conv_transpose3d": "torch takes results of size 0 in some of its kernels",
}
"""Ops whose rule may refuse what torch happens to accept."""


def torch_dtype(dtype: DType) -> torch.dtype:
    found = getattr(torch, dtype.torch_name)
    assert isinstance(found, torch.dtype)
    return found


def to_torch(op: str, value: object) -> Any:
    """A tensor of a type, filled with ones, or zeros where it is an index; a torch dtype of a dtype; else itself."""
    match value:
        case TensorType():
            if op in ops.GATHERS and value.dtype in (DType.i64, DType.i32):
                return torch.zeros(value.static_shape, dtype=torch_dtype(value.dtype))
            return torch.ones(value.static_shape, dtype=torch_dtype(value.dtype))
        case DType():
            return torch_dtype(value)
        case _:
            return value


def run_torch(op: str, operands: list[Any], attrs: dict[str, Any]) -> tuple[TensorType, ...] | str:
    """Types of torch's results, or its refusal."""
    try:
        results = TORCH[op]([to_torch(op, o) for o in operands], {key: to_torch(op, value) for key, value in attrs.items()})
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
        return f"torch refuses: {str(error).splitlines()[0]}"
    flat = results if isinstance(results, tuple | list) else (results,)
    return tuple(TensorType(DType.parse(str(t.dtype).removeprefix("torch.")), tuple(t.shape)) for t in flat)


def infer(op: str, operands: list[Any], attrs: dict[str, Any]) -> tuple[TensorType, ...] | str:
    """Types by our rule, or its refusal."""
    try:
        return ops.infer_call(ops.Call(op, tuple(operands), attrs))
    except TypeInferenceError as error:
        return f"the rule refuses: {error}"


@pytest.mark.parametrize("op", sorted(DRAW))
def test_rule_agrees_with_torch(op: str) -> None:
    torch.manual_seed(0)
    accepted = 0
    for seed in range(CALLS):
        operands, attrs = draw(op, seed)
        expected, found = run_torch(op, operands, attrs), infer(op, operands, attrs)
        shown = f"{op}({', '.join(map(str, operands))}) {attrs}\n  torch: {expected}\n  rule: {found}"
        if isinstance(expected, str):
            assert isinstance(found, str), shown
        elif isinstance(found, str):
            empty = any(isinstance(operand, TensorType) and operand.elements == 0 for operand in operands)
            assert op in STRICTER or empty, shown  # torch checks less where there is nothing to compute
        else:
            assert found == expected, shown
            accepted += 1
    assert accepted >= CALLS // 4, f"{op}: only {accepted} of {CALLS} random calls are right, the drawing is too wild"


def test_every_op_is_compared() -> None:
    assert {found.name for found in ops.definitions()} - DRAW.keys() == {"cond"}


def test_random_calls_repeat() -> None:
    assert draw("conv2d", 3) == draw("conv2d", 3)
    assert random.Random("a").random() == random.Random("a").random()
