"""Dtype promotion against `torch.result_type`: all pairs of dtypes, in all classes of operands."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from graphopt import ops
from graphopt.errors import IRError, TypeInferenceError
from graphopt.ir.dims import symbol
from graphopt.ir.types import DType, TensorType
from graphopt.ops.promotion import promote, result_type

SHAPES = ((), (2,))
LITERALS: tuple[bool | int | float, ...] = (True, 3, 0.5)


def dtype_of(dtype: DType) -> torch.dtype:
    return getattr(torch, dtype.torch_name)


def to_torch(operand: Any) -> Any:
    return torch.zeros(operand.static_shape, dtype=dtype_of(operand.dtype)) if isinstance(operand, TensorType) else operand


def parse(dtype: torch.dtype) -> DType:
    return DType.parse(str(dtype).removeprefix("torch."))


def call(*operands: Any) -> ops.Call:
    return ops.Call("add", operands, {})


@pytest.mark.parametrize("left", list(DType), ids=lambda dtype: dtype.text)
def test_promote_is_torchs(left: DType) -> None:
    for right in DType:
        try:
            expected = parse(torch.promote_types(dtype_of(left), dtype_of(right)))
        except RuntimeError:
            expected = None
        assert promote(left, right) is expected, f"{left.text} with {right.text}"
        assert promote(right, left) is expected


@pytest.mark.parametrize("left", list(DType), ids=lambda dtype: dtype.text)
def test_result_type_is_torchs(left: DType) -> None:
    rights = [TensorType(dtype, shape) for dtype in DType for shape in SHAPES]
    for shape, right in itertools.product(SHAPES, (*rights, *LITERALS)):
        operand = TensorType(left, shape)
        try:
            expected = parse(torch.result_type(to_torch(operand), to_torch(right)))
        except (RuntimeError, IRError):  # no such promotion in torch, or to a dtype that the IR has not: complex32
            with pytest.raises(TypeInferenceError, match="have no common dtype"):
                result_type(call(operand, right), (operand, right))
            continue
        assert result_type(call(operand, right), (operand, right)) is expected, f"{operand.text} with {right}"
        assert result_type(call(right, operand), (right, operand)) is expected


def test_symbolic_dimensions_are_integers() -> None:
    batch = symbol("batch")
    assert result_type(call(), (TensorType(DType.i32, (2,)), batch)) is DType.i32
    assert result_type(call(), (TensorType(DType.boolean, (2,)), batch)) is DType.i64
    assert result_type(call(), (TensorType(DType.f16, (2,)), batch)) is DType.f16


def test_three_operands() -> None:
    """where: a tensor with axes, one without, a number."""
    types = (TensorType(DType.f16, (2,)), TensorType(DType.f64, ()), 0.5)
    assert result_type(call(), types) is DType.f16
    assert result_type(call(), (TensorType(DType.i64, (2,)), TensorType(DType.f64, ()), 3)) is DType.f64


def test_nothing_to_promote() -> None:
    with pytest.raises(TypeInferenceError, match="has no operand to take a dtype from"):
        result_type(call(None), (None,))


def test_error_names_both_dtypes() -> None:
    with pytest.raises(TypeInferenceError, match=r"add\(u16\[2\], i32\[2\]\): dtypes u16 and i32 have no common dtype"):
        ops.infer_call(call(TensorType(DType.u16, (2,)), TensorType(DType.i32, (2,))))
