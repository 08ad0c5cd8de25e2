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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from graphopt.errors import IRError, TypeInferenceError
from graphopt.ir.attributes import Attribute, attribute_text
from graphopt.ir.dims import Dim, Expression
from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.ir.types import DType, TensorType
from graphopt.ops.axes.links import AxisLink
from graphopt.ops.kinds import Kind

__all__ = [
    "AxisRule",
    "Call",
    "CallOperand",
    "Effect",
    "FlopRule",
    "Infer",
    "OpDef",
    "call_of",
    "check_signature",
    "definition",
    "definitions",
    "family",
    "infer_call",
    "infer_types",
    "is_canonical",
    "make_call",
    "register",
]


class Effect(Enum):
    """What an op does besides computing its results."""

    PURE = "pure"
    """Nothing: same operands, same results; may be removed, merged, folded."""
    RANDOM = "random"
    """Draws random numbers when training; equal operands need not give equal results."""
    SIDE = "side"
    """Does something outside: may be neither removed nor merged."""


CallOperand: TypeAlias = "TensorType | bool | int | float | Expression | None"
"""What a type rule sees of an operand: a type, a missing optional operand, or a literal."""


@dataclass(frozen=True, slots=True)
class Call:
    """One use of an op, as its rules see it: operands as types or literals, and attributes.

    `operands[i]` is a `TensorType` for a value, None for a missing optional operand, or a literal.
    """

    op: str
    operands: tuple[CallOperand, ...]
    attrs: Mapping[str, Attribute]
    regions: tuple[Graph, ...] = ()

    def integer(self, name: str) -> int:
        """Attribute `name`, whose kind is an integer."""
        value = self.attrs[name]
        if not isinstance(value, int):
            raise self.fail(f"{name} is {attribute_text(value)}, needs an integer")
        return value

    def dim(self, name: str) -> Dim:
        """Attribute `name`, whose kind is an integer or symbolic dimension."""
        value = self.attrs[name]
        if not isinstance(value, int | Expression):
            raise self.fail(f"{name} is {attribute_text(value)}, needs a dimension")
        return value

    def dims(self, name: str) -> tuple[Dim, ...]:
        """Attribute `name`, whose kind is a tuple of dimensions."""
        value = self.attrs[name]
        if not isinstance(value, tuple):
            raise self.fail(f"{name} is {attribute_text(value)}, needs a tuple of dimensions")
        return tuple(item for item in value if isinstance(item, int | Expression))

    def integers(self, name: str) -> tuple[int, ...]:
        """Attribute `name`, whose kind is a tuple of integers."""
        value = self.attrs[name]
        if not isinstance(value, tuple):
            raise self.fail(f"{name} is {attribute_text(value)}, needs a tuple of integers")
        return tuple(item for item in value if isinstance(item, int))

    def text(self, name: str) -> str:
        """Attribute `name`, whose kind is a word."""
        value = self.attrs[name]
        if not isinstance(value, str):
            raise self.fail(f"{name} is {attribute_text(value)}, needs a text")
        return value

    def dtype(self, name: str) -> DType:
        """Attribute `name`, whose kind is a dtype."""
        value = self.attrs[name]
        if not isinstance(value, DType):
            raise self.fail(f"{name} is {attribute_text(value)}, needs a dtype")
        return value

    def type(self, index: int) -> TensorType:
        """Type of operand `index`, which has to be a tensor.

        Raises:
            TypeInferenceError: it is missing or a literal.
        """
        operand = self.operands[index] if index < len(self.operands) else None
        if not isinstance(operand, TensorType):
            raise self.fail(f"operand {index} is {'missing' if operand is None else attribute_text(operand)}, needs a tensor")
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
        shown = ", ".join(o.text if isinstance(o, TensorType) else attribute_text(o) for o in self.operands)
        return TypeInferenceError(f"{self.op}({shown}): {what}", fix=fix)


Infer: TypeAlias = Callable[[Call], Sequence[TensorType]]
"""A type rule: the types of a call's results, or a `TypeInferenceError`."""

FlopRule: TypeAlias = Callable[[Call, tuple[TensorType, ...]], Dim]
"""Counts the floating-point operations of a call with these results; see `graphopt.ops.flops`."""

AxisRule: TypeAlias = Callable[[Call], Iterable[AxisLink]]
"""Says how axes of a call's operands and results hang together; see `graphopt.ops.axes.links`."""


@dataclass(frozen=True, slots=True)
class OpDef:
    """Definition of a canonical op.

    `operands` are names: `x` is required, `bias?` may be `none`, `*xs` (last only) is any number.
    `kinds` has the kind of each attribute by name; each must be present on a node. `literals` are the
    operands that may be a number instead of a tensor. `regions` is the number of sub-graphs.
    `infer` gives the types of the results. `flops` counts floating-point operations of one run (a
    multiply-add is 2), 0 for pure data movement. `view` is True when the result holds the operand's numbers
    in the same order of memory, so that no bytes need to move. `axes` says which positions of which axes can only
    go together; without a rule no axis of a call can be cut.
    """

    name: str
    family: str
    operands: tuple[str, ...]
    infer: Infer
    flops: FlopRule
    summary: str
    kinds: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    effect: Effect = Effect.PURE
    view: bool = False
    literals: frozenset[str] = frozenset()
    regions: int = 0
    axes: AxisRule | None = None

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of all attributes."""
        return tuple(self.kinds)

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


def family(*names: str) -> frozenset[str]:
    """Names of all ops of some families; ask once the families' modules are imported."""
    return frozenset(op.name for op in _TABLE.values() if op.family in names)


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
    return make_call(node.op, node.operands, node.attrs, node.regions)


def make_call(op: str, operands: Sequence[Operand], attrs: Mapping[str, Attribute], regions: Sequence[Graph] = ()) -> Call:
    """Operands and attributes as an op's rules see them; sparsity annotations are dropped."""
    types = tuple(TensorType(o.type.dtype, o.type.shape) if isinstance(o, Value) else o for o in operands)
    return Call(op, types, attrs, tuple(regions))


def infer_types(
    op: str, operands: Sequence[Operand], attrs: Mapping[str, Attribute], regions: Sequence[Graph] = ()
) -> tuple[TensorType, ...]:
    """Types of the results that a canonical op gives.

    Raises:
        IRError: the op is opaque.
        TypeInferenceError: operands or attributes do not fit.
    """
    return infer_call(make_call(op, operands, attrs, regions))


def infer_call(call: Call) -> tuple[TensorType, ...]:
    """Types of the results of a call; operands are types, no values are needed.

    Raises:
        IRError: the op is opaque.
        TypeInferenceError: operands or attributes do not fit.
    """
    found = definition(call.op)
    check_signature(found, call)
    return tuple(found.infer(call))


def check_signature(found: OpDef, call: Call) -> None:
    """Check number and presence of operands, names and kinds of attributes, and number of regions.

    Raises:
        TypeInferenceError: they are not those of the op.
    """
    required = [name for name in found.operands if not name.startswith("*")]
    count = len(call.operands)
    if count < len(required) or (count > len(required) and not found.is_variadic):
        raise call.fail(f"takes the operands ({', '.join(found.operands)}), got {count}")
    for index, operand in enumerate(call.operands):
        name = found.operands[min(index, len(found.operands) - 1)]
        bare = name.strip("?*")
        if operand is None and not name.endswith("?"):
            raise call.fail(f"operand '{bare}' is missing")
        if operand is not None and not isinstance(operand, TensorType) and bare not in found.literals:
            raise call.fail(f"operand '{bare}' is {attribute_text(operand)}, needs a tensor")
    if call.attrs.keys() != found.kinds.keys():
        missing = sorted(found.kinds.keys() - call.attrs.keys())
        unknown = sorted(call.attrs.keys() - found.kinds.keys())
        raise call.fail(f"attributes do not fit: missing {missing}, unknown {unknown}")
    for name, kind in found.kinds.items():
        value = call.attrs[name]
        if not kind.accepts(value):
            raise call.fail(f"attribute {name} is {attribute_text(value)}, needs {kind.text}")
    if len(call.regions) != found.regions:
        raise call.fail(f"has {len(call.regions)} regions, needs {found.regions}")
