"""Elementwise work that rides on another kernel, or makes a kernel of its own.

    v0 = add(value, operand 0);  v1 = relu(v0)

A `Chain` is a straight line of elementwise ops on one value and further operands, all seen in the shape of the
value. A kernel that makes the value runs the chain on it in registers before it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from graphopt.backends.cuda.storage import Storage
from graphopt.ir.attributes import Attribute
from graphopt.ir.types import DType

__all__ = ["Argument", "Chain", "Constant", "FromOperand", "FromOperation", "Operation", "TheValue", "compute_dtype", "unary"]


def compute_dtype(dtype: DType) -> DType:
    """The dtype in which kernels compute on a stored one: f32 for the 16-bit floats, else itself."""
    return DType.f32 if dtype in (DType.f16, DType.bf16) else dtype


@dataclass(frozen=True, slots=True)
class TheValue:
    """What the kernel computed."""


@dataclass(frozen=True, slots=True)
class FromOperation:
    """The result of operation `index` of the chain."""

    index: int


@dataclass(frozen=True, slots=True)
class FromOperand:
    """An element of operand `index` of the chain."""

    index: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A number."""

    value: bool | int | float


Argument: TypeAlias = "TheValue | FromOperation | FromOperand | Constant"


@dataclass(frozen=True, slots=True)
class Operation:
    """A canonical elementwise op (`graphopt.ops`) with its arguments and the node's attributes.

    `computed` is the dtype in which the arguments meet, `dtype` that of the result, both as the IR says; 16-bit floats
    are computed in f32 and rounded to `dtype` after each op, as torch does.
    """

    op: str
    arguments: tuple[Argument, ...]
    computed: DType = DType.f32
    dtype: DType = DType.f32
    attrs: tuple[tuple[str, Attribute], ...] = ()

    def attribute(self, name: str) -> Attribute:
        """An attribute of the node."""
        return dict(self.attrs)[name]


@dataclass(frozen=True, slots=True)
class Chain:
    """Operations in order; the last one's result is stored, without any the value is.

    `operands` have the shape of the value; broadcast axes have stride 0 (`Storage.expand`). `value` is the IR dtype of
    the value itself: f32 also where it is stored in 16 bits.
    """

    operations: tuple[Operation, ...] = ()
    operands: tuple[Storage, ...] = ()
    value: DType = DType.f32

    def __bool__(self) -> bool:
        return bool(self.operations)

    @property
    def text(self) -> str:
        """` + add + relu`, behind a kernel's own description."""
        return "".join(f" + {operation.op}" for operation in self.operations)

    @property
    def dtype(self) -> DType:
        """The IR dtype of the result."""
        return self.operations[-1].dtype if self.operations else self.value

    @property
    def flops(self) -> int:
        """One per op for each element of the value."""
        return len(self.operations)

    def dtype_of(self, argument: Argument) -> DType | None:
        """The IR dtype of an argument, None for a number."""
        match argument:
            case Constant():
                return None
            case FromOperation(index):
                return self.operations[index].dtype
            case FromOperand(index):
                return self.operands[index].dtype
            case _:
                return self.value


def unary(names: Sequence[str], dtype: DType = DType.f32) -> Chain:
    """A chain of ops of one argument without attributes, one after the other."""
    operations: list[Operation] = []
    for name in names:
        argument: Argument = FromOperation(len(operations) - 1) if operations else TheValue()
        operations.append(Operation(name, (argument,), dtype, dtype))
    return Chain(tuple(operations), value=dtype)
