"""The op table: one `OpDef` per canonical op.

Passes, backends and analyses ask the table instead of switching on op names:

    >>> from graphopt import ops
    >>> ops.definition("conv2d").operand_names
    ('x', 'weight', 'bias')

An op that is not in the table is *opaque*: legal, carried, run and exported, never rewritten. Its name
is that of the torch op (`aten.index_put.default`), its stored types are believed.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from graphopt.errors import IRError, TypeInferenceError
from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Operand, Value
from graphopt.ir.types import TensorType

__all__ = ["Call", "Effect", "OpDef", "call_of", "check_signature", "definition", "definitions", "infer_types", "is_canonical", "make_call", "register"]


class Effect(Enum):
    """What an op does besides computing its results."""

    PURE = "pure"
    """Nothing: same operands, same results; may be removed, merged, folded."""
    RANDOM = "random"
    """Draws random numbers when training; equal operands need not give equal results."""
    SIDE = "side"
    """Does something outside: may be neither removed nor merged."""


@dataclass(frozen=True, slots=True)
class Call:
    """One use of an op, as its rules see it: operands as types or literals, and attributes.

    `operands[i]` is a `TensorType` for a value, None for a missing optional operand, or a literal.
    """

    op: str
    operands: tuple[TensorType | Operand, ...]
    attrs: Mapping[str, Attribute]

    def type(self, index: int) -> TensorType:
        """Type of operand `index`, which has to be a tensor.

        Raises:
            TypeInferenceError: it is missing or a literal.
        """
        operand = self.operands[index] if index < len(self.operands) else None
        if not isinstance(operand, TensorType):
            raise TypeInferenceError(f"{self.op}: operand {index} is {operand!r}, needs a tensor")
        return operand

    def optional_type(self, index: int) -> TensorType | None:
        """Type of operand `index`, or None when it is missing."""
        operand = self.operands[index] if index < len(self.operands) else None
        return operand if isinstance(operand, TensorType) else None

    def tensor_types(self) -> tuple[TensorType, ...]:
        """Types of all operands that are tensors."""
        return tuple(operand for operand in self.operands if isinstance(operand, TensorType))

    def fail(self, what: str, fix: str | None = None) -> TypeInferenceError:
        """An error about this call, with the types of all operands."""
        shown = ", ".join(o.text if isinstance(o, TensorType) else str(o) for o in self.operands)
        return TypeInferenceError(f"{self.op}({shown}): {what}", fix=fix)


@dataclass(frozen=True, slots=True)
class OpDef:
    """Definition of a canonical op.

    `operands` are names: `x` is required, `bias?` may be `none`, `*xs` (last only) is any number.
    `attributes` are the names of all attributes; each must be present on a node.
    `infer` gives the types of the results. `flops` counts floating-point operations of one run (a
    multiply-add is 2), 0 for pure data movement. `view` is True when the result holds the operand's numbers
    in the same order of memory, so that no bytes need to move.
    """

    name: str
    family: str
    operands: tuple[str, ...]
    attributes: tuple[str, ...]
    infer: Callable[[Call], Sequence[TensorType]]
    flops: Callable[[Call, tuple[TensorType, ...]], Dim]
    summary: str
    effect: Effect = Effect.PURE
    view: bool = False

    @property
    def operand_names(self) -> tuple[str, ...]:
        """Names of the operands, without the `?` and `*` marks."""
        return tuple(name.strip("?*") for name in self.operands)

    @property
    def is_variadic(self) -> bool:
        """True when the last operand may repeat."""
        return bool(self.operands) and self.operands[-1].startswith("*")


_TABLE: dict[str, OpDef] = {}


def register(definition: OpDef) -> OpDef:
    """Add an op to the table.

    Raises:
        IRError: the name is taken.
    """
    if definition.name in _TABLE:
        raise IRError(f"op '{definition.name}' is registered twice")
    _TABLE[definition.name] = definition
    return definition


def definitions() -> tuple[OpDef, ...]:
    """All canonical ops, in order of registration."""
    return tuple(_TABLE.values())


def is_canonical(op: str) -> bool:
    """True when the op is in the table; everything else is opaque."""
    return op in _TABLE


def definition(op: str) -> OpDef:
    """The definition of a canonical op.

    Raises:
        IRError: the op is not in the table; the message lists near names.
    """
    found = _TABLE.get(op)
    if found is None:
        near = difflib.get_close_matches(op, _TABLE, n=3)
        raise IRError(f"'{op}' is not in the op table", fix=f"near names: {', '.join(near)}" if near else None)
    return found


def call_of(node: Node) -> Call:
    """The node as its op's rules see it."""
    return make_call(node.op, node.operands, node.attrs)


def make_call(op: str, operands: Sequence[Operand], attrs: Mapping[str, Attribute]) -> Call:
    """Operands and attributes as an op's rules see them; sparsity annotations are dropped."""
    types = tuple(TensorType(o.type.dtype, o.type.shape) if isinstance(o, Value) else o for o in operands)
    return Call(op, types, attrs)


def infer_types(op: str, operands: Sequence[Operand], attrs: Mapping[str, Attribute]) -> tuple[TensorType, ...]:
    """Types of the results that a canonical op gives.

    Raises:
        IRError: the op is opaque.
        TypeInferenceError: operands or attributes do not fit.
    """
    found = definition(op)
    call = make_call(op, operands, attrs)
    check_signature(found, call)
    return tuple(found.infer(call))


def check_signature(found: OpDef, call: Call) -> None:
    """Check number and presence of operands, and names of attributes.

    Raises:
        TypeInferenceError: they are not those of the op.
    """
    required = [name for name in found.operands if not name.startswith("*")]
    count = len(call.operands)
    if count < len(required) or (count > len(required) and not found.is_variadic):
        raise call.fail(f"takes the operands ({', '.join(found.operands)}), got {count}")
    for name, operand in zip(required, call.operands, strict=False):
        if operand is None and not name.endswith("?"):
            raise call.fail(f"operand '{name}' is missing")
    if set(call.attrs) != set(found.attributes):
        missing = sorted(set(found.attributes) - set(call.attrs))
        unknown = sorted(set(call.attrs) - set(found.attributes))
        raise call.fail(f"attributes do not fit: missing {missing}, unknown {unknown}")
