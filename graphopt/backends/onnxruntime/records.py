"""What is emitted, before it becomes protobuf: light records of nodes and of initializers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from graphopt.backends.onnxruntime.dtypes import onnx_dtype
from graphopt.ir.types import DType

__all__ = ["INLINE_BYTES", "Array", "Initializer", "OnnxAttribute", "OnnxNode"]

Array: TypeAlias = "np.ndarray[Any, Any]"
OnnxAttribute: TypeAlias = "int | float | str | Sequence[int] | Sequence[float] | Sequence[str] | GraphProto"

INLINE_BYTES = 1024
"""Initializers up to this size stand inside the model; larger ones are handed over beside it."""


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """One node of an ONNX graph. `regions` are sub-graphs by attribute name, kept as records until the end."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, OnnxAttribute] = field(default_factory=dict[str, OnnxAttribute])

    def proto(self) -> NodeProto:
        """The node as protobuf; trailing missing inputs are left out."""
        inputs = list(self.inputs)
        while inputs and not inputs[-1]:
            inputs.pop()
        attributes: list[AttributeProto] = [helper.make_attribute(name, value) for name, value in self.attributes.items()]
        node = helper.make_node(self.op, inputs, list(self.outputs), name=self.outputs[0])
        node.attribute.extend(attributes)
        return node

    def renamed(self, names: Mapping[str, str]) -> OnnxNode:
        """The node with inputs and outputs renamed."""
        return replace(
            self,
            inputs=tuple(names.get(name, name) for name in self.inputs),
            outputs=tuple(names.get(name, name) for name in self.outputs),
        )


@dataclass(frozen=True, slots=True)
class Initializer:
    """A constant of an ONNX graph. Numbers come from `array()`, which for a weight shares torch's memory.

    `state` is the name of the IR state whose numbers these are; `permutation` says that the axes were
    permuted, so that the state can be had back without storing it twice.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    array: Callable[[], Array]
    state: str | None = None
    permutation: tuple[int, ...] | None = None

    @property
    def bytes(self) -> int:
        """Size of the numbers."""
        total = self.dtype.bytes
        for size in self.shape:
            total *= size
        return total

    def inline(self) -> TensorProto:
        """The initializer with its numbers inside."""
        proto = TensorProto(name=self.name, data_type=onnx_dtype(self.dtype), dims=self.shape)
        proto.raw_data = np.ascontiguousarray(self.array()).tobytes()
        return proto

    def external(self, location: str, offset: int) -> TensorProto:
        """The initializer with its numbers at a place in a file, or in memory under that name."""
        proto = TensorProto(name=self.name, data_type=onnx_dtype(self.dtype), dims=self.shape)
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(self.bytes))):
            proto.external_data.add(key=key, value=value)
        return proto
