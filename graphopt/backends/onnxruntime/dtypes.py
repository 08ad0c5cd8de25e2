"""Element types in three worlds: the IR's `DType`, ONNX's `TensorProto` numbers and numpy's dtypes.

numpy has no bfloat16 and no float8; those arrays use the dtypes of `ml_dtypes`, which onnx brings along.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

from graphopt.errors import LoweringError
from graphopt.ir.types import DType

if TYPE_CHECKING:
    import torch

__all__ = ["from_numpy", "from_onnx", "has_numpy", "numpy_dtype", "onnx_dtype", "tensor_to_array", "widened"]

_ONNX: dict[DType, int] = {
    DType.f64: TensorProto.DOUBLE,
    DType.f32: TensorProto.FLOAT,
    DType.f16: TensorProto.FLOAT16,
    DType.bf16: TensorProto.BFLOAT16,
    DType.f8e4m3: TensorProto.FLOAT8E4M3FN,
    DType.f8e5m2: TensorProto.FLOAT8E5M2,
    DType.i64: TensorProto.INT64,
    DType.i32: TensorProto.INT32,
    DType.i16: TensorProto.INT16,
    DType.i8: TensorProto.INT8,
    DType.u8: TensorProto.UINT8,
    DType.u16: TensorProto.UINT16,
    DType.u32: TensorProto.UINT32,
    DType.u64: TensorProto.UINT64,
    DType.boolean: TensorProto.BOOL,
}
_FROM_ONNX = {number: dtype for dtype, number in _ONNX.items()}
_NARROW_INTEGERS = frozenset({DType.i8, DType.u8, DType.i16, DType.u16})
_NARROW_FLOATS = frozenset({DType.f16, DType.bf16, DType.f8e4m3, DType.f8e5m2})
_BITS = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16)}


def onnx_dtype(dtype: DType) -> int:
    """ONNX's number of a dtype.

    Raises:
        LoweringError: ONNX has no kernels for it (complex numbers).
    """
    found = _ONNX.get(dtype)
    if found is None:
        raise LoweringError(f"ONNX has no ops on {dtype.text}")
    return found


def from_onnx(number: int) -> DType:
    """The dtype of ONNX's number.

    Raises:
        LoweringError: the IR has no such dtype.
    """
    found = _FROM_ONNX.get(number)
    if found is None:
        raise LoweringError(f"ONNX element type {number} has no counterpart in the IR")
    return found


def numpy_dtype(dtype: DType) -> np.dtype[Any]:
    """The numpy dtype, one of `ml_dtypes` for bfloat16 and float8."""
    if dtype.kind == "complex":
        return np.dtype(dtype.torch_name)
    return np.dtype(helper.tensor_dtype_to_np_dtype(onnx_dtype(dtype)))


def has_numpy(dtype: DType) -> bool:
    """True when plain numpy has the dtype; others travel as bits."""
    return dtype not in (DType.bf16, DType.f8e4m3, DType.f8e5m2)


def from_numpy(dtype: np.dtype[Any]) -> DType | None:
    """The IR's dtype of a numpy dtype, or None."""
    return _by_numpy().get(dtype)


@functools.cache
def _by_numpy() -> dict[np.dtype[Any], DType]:
    return {numpy_dtype(dtype): dtype for dtype in (*_ONNX, DType.c64, DType.c128)}


def widened(dtype: DType, level: int) -> DType:
    """The dtype that an op computes in at a level of widening: 0 keeps it, 1 and 2 take wider ones.

    ONNX Runtime has few kernels for narrow types. Level 1 computes f16, bf16 and f8 in f32 and integers
    below 32 bits in i32; level 2 computes every integer in i64.
    """
    if level and dtype in _NARROW_FLOATS:
        return DType.f32
    if level == 1 and dtype in _NARROW_INTEGERS:
        return DType.i32
    if level == 2 and dtype.kind == "int" and dtype is not DType.u64:
        return DType.i64
    return dtype


def tensor_to_array(tensor: torch.Tensor, dtype: DType) -> np.ndarray[Any, Any]:
    """A CPU array on the same memory where the tensor is contiguous on the CPU, else a copy."""
    import torch

    held = tensor.detach().cpu().contiguous()
    if has_numpy(dtype):
        return held.numpy()
    bits = torch.uint8 if dtype.bytes == 1 else torch.int16
    return held.view(bits).numpy().view(_BITS[dtype.bytes]).view(numpy_dtype(dtype))
