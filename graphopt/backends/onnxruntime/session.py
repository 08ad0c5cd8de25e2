"""One segment as an ONNX Runtime session that reads its weights from memory that we own."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from graphopt.backends.onnxruntime.dtypes import from_onnx, has_numpy, numpy_dtype, onnx_dtype
from graphopt.backends.onnxruntime.options import SessionOptions
from graphopt.backends.onnxruntime.records import Array
from graphopt.errors import BackendError
from graphopt.ir.types import DType

__all__ = ["Session", "ort_value"]

_BITS = {1: np.uint8, 2: np.uint16}


def ort_value(array: Array, dtype: DType) -> onnxruntime.OrtValue:
    """An OrtValue on the same memory; the array has to outlive it."""
    if has_numpy(dtype):
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(_BITS[dtype.bytes]), onnx_dtype(dtype))


class Session:
    """A model that runs. `weights` are arrays by initializer name; they are shared with ONNX Runtime, not copied.

    Raises:
        BackendError: ONNX Runtime refuses the model.
    """

    def __init__(self, model: bytes, weights: Mapping[str, tuple[Array, DType]], options: SessionOptions) -> None:
        self.model = model
        self.weights = dict(weights)
        native = options.native()
        if weights:
            self._held = [ort_value(array, dtype) for array, dtype in weights.values()]
            native.add_external_initializers(list(weights), self._held)
        try:
            self._session = onnxruntime.InferenceSession(model, native, providers=list(options.providers))
        except Exception as error:  # its errors have no common base but this
            raise BackendError(
                f"ONNX Runtime refuses the model: {' '.join(str(error).split())[:500]}",
                fix="leave out session_config and providers, or lower it with target='reference'",
            ) from error
        self.inputs = [(entry.name, _dtype(entry.type)) for entry in self._session.get_inputs()]
        self.outputs = [(entry.name, _dtype(entry.type)) for entry in self._session.get_outputs()]
        self._plain = all(has_numpy(dtype) for _, dtype in (*self.inputs, *self.outputs))

    def run(self, feed: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        """Outputs by name, for inputs by name.

        Raises:
            BackendError: an op failed.
        """
        try:
            if self._plain:
                plain: list[Any] = list(self._session.run(list(names), dict(feed)))
                return plain
            types = dict(self.inputs)
            values = {name: ort_value(_contiguous(array), types[name]) for name, array in feed.items()}
            found = self._session.run_with_ort_values(list(names), values)
        except Exception as error:  # its errors have no common base but this
            raise BackendError(
                f"ONNX Runtime failed: {' '.join(str(error).split())[:500]}",
                fix="check the inputs: sizes, and whether indices are in range",
            ) from error
        outputs = dict(self.outputs)
        return [_array(value, outputs[name]) for name, value in zip(names, found, strict=True)]


_TYPES = {
    "tensor(float)": DType.f32,
    "tensor(double)": DType.f64,
    "tensor(float16)": DType.f16,
    "tensor(bfloat16)": DType.bf16,
    "tensor(float8e4m3fn)": DType.f8e4m3,
    "tensor(float8e5m2)": DType.f8e5m2,
    "tensor(bool)": DType.boolean,
    **{f"tensor(int{bits})": DType.parse(f"i{bits}") for bits in (8, 16, 32, 64)},
    **{f"tensor(uint{bits})": DType.parse(f"u{bits}") for bits in (8, 16, 32, 64)},
}


def _dtype(text: str) -> DType:
    found = _TYPES.get(text)
    if found is None:
        raise BackendError(f"a session has an input or output of type {text}, which the IR does not have")
    return found


def _contiguous(array: Array) -> Array:
    return array if array.flags.c_contiguous else array.copy()  # numpy's own function gives a scalar an axis


def _array(value: onnxruntime.OrtValue, dtype: DType) -> Array:
    if has_numpy(dtype):
        return value.numpy()
    bits = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()) if value.tensor_size_in_bytes() else b""
    assert from_onnx(value.element_type()) is dtype, "the session says so"
    return np.frombuffer(bytearray(bits), dtype=numpy_dtype(dtype)).reshape(value.shape())
