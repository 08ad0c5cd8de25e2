"""Elementwise work that rides on another kernel, or makes a kernel of its own.

    v0 = add(value, operand 0);  v1 = relu(v0)

A `Chain` is a straight line of elementwise ops on one value and further operands, all expanded to the
value's shape. A kernel that makes the value calls the chain on each vector before it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from graphopt.backends.cpu.storage import Storage
from graphopt.ir.attributes import Attribute

__all__ = ["Argument", "Chain", "Constant", "FromOperand", "FromOperation", "Operation", "TheValue"]


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

    value: float


Argument: TypeAlias = "TheValue | FromOperation | FromOperand | Constant"


@dataclass(frozen=True)
class Operation:
    """A canonical elementwise op (`graphopt.ops`): name, arguments, the node's attributes."""

    op: str
    arguments: tuple[Argument, ...]
    attrs: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute], hash=False)


@dataclass(frozen=True)
class Chain:
    """Operations in order, the last one's result is stored; without any, the value is. All f32.

    `operands` have the shape of the value; broadcast axes have stride 0 (`Storage.expand`).
    """

    operations: tuple[Operation, ...] = ()
    operands: tuple[Storage, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.operations)

    @property
    def text(self) -> str:
        """` + add + relu`, behind a kernel's own description."""
        return "".join(f" + {operation.op}" for operation in self.operations)
