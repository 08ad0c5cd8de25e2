"""Pieces that the lossless passes share: two kinds of site, rules that rewrite them, and questions about operands.

Most local rewrites have one of two forms, so most rules only have to decide:

    Forward    every use of %y becomes %x               (a node that changes nothing)
    Remake     %y = f(%x) {...}  ->  %y = g(%z) {...}   (one node in the place of one or more)

Numeric class and stage are those of the passes that use these rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.errors import IRError
from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Dim, Expression
from graphopt.ir.graph import Node, Operand, Value
from graphopt.ir.types import TensorType
from graphopt.ops.registry import infer_types
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import NoMatch, Rule

__all__ = [
    "Forward",
    "LocalRule",
    "Remake",
    "dim_of",
    "dims_of",
    "fits",
    "float_of",
    "forward",
    "inferred",
    "int_of",
    "ints_of",
    "is_floating",
    "is_integer",
    "is_smaller",
    "only_reader",
    "producer_of",
    "sole_producer",
    "tuple_of",
]


@dataclass(frozen=True, slots=True)
class Forward:
    """Readers of the node's result can read `operand` instead."""

    node: Node
    operand: Operand


@dataclass(frozen=True, slots=True)
class Remake:
    """One new node in the place of `node`; what only fed the old one goes too."""

    node: Node
    op: str
    operands: tuple[Operand, ...]
    attrs: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])


class LocalRule(Rule[Forward | Remake]):
    """A rule whose `match` says all: what to read instead, or which node to make instead."""

    def rewrite(self, site: Forward | Remake, rewriter: Rewriter) -> None:
        """Do what the site says and remove the producers that nobody reads any more."""
        node = site.node
        fed = tuple(operand.producer for operand in node.operands if isinstance(operand, Value))
        if isinstance(site, Forward):
            rewriter.replace(node, site.operand)
        else:
            made = rewriter.create(site.op, site.operands, site.attrs, before=node)
            rewriter.replace(node, *made.results)
        rewriter.erase_unused(*fed)


def forward(node: Node, operand: Operand) -> Forward | NoMatch:
    """Forward a value to the readers of `node`, unless that would change the type they see."""
    if isinstance(operand, Value) and (operand.type.dtype, operand.type.shape) != (node.result.type.dtype, node.result.type.shape):
        return NoMatch(f"the result is {node.result.type.text} and %{operand.name} is {operand.type.text}, needs the same type")
    return Forward(node, operand)


def producer_of(operand: Operand, *ops: str) -> Node | None:
    """The node that makes the operand, if its op is one of `ops` (any op when none is named)."""
    if not isinstance(operand, Value) or operand.producer is None:
        return None
    producer = operand.producer
    return producer if not ops or producer.op in ops else None


def sole_producer(operand: Operand, *ops: str) -> Node | None:
    """Like `producer_of`, and nobody else reads the operand, so the producer goes when its reader does."""
    producer = producer_of(operand, *ops)
    return producer if producer is not None and isinstance(operand, Value) and operand.use_count == 1 else None


def only_reader(value: Value) -> Node | None:
    """The one node that reads the value at one place; None when there are more, none, or it is an output."""
    if value.use_count != 1:
        return None
    reader = value.users[0]
    return None if reader.is_return else reader


def inferred(op: str, operands: Sequence[Operand], attrs: Mapping[str, Attribute]) -> tuple[TensorType, ...]:
    """Result types that a node would have; empty when operands or attributes do not fit."""
    try:
        return infer_types(op, operands, attrs)
    except IRError:
        return ()


def fits(node: Node, op: str, operands: Sequence[Operand], attrs: Mapping[str, Attribute]) -> bool:
    """True when the new call gives a result of the same dtype and shape as the node has."""
    wanted = tuple((result.type.dtype, result.type.shape) for result in node.results)
    return tuple((type_.dtype, type_.shape) for type_ in inferred(op, operands, attrs)) == wanted


def float_of(operand: Operand) -> float | None:
    """The number that a literal operand stands for; None for values, symbols and booleans."""
    if isinstance(operand, bool) or not isinstance(operand, int | float):
        return None
    try:
        return float(operand)
    except OverflowError:
        return math.inf if operand > 0 else -math.inf


def int_of(attribute: Attribute) -> int:
    """An attribute that the op table promises to be an integer.

    Raises:
        IRError: it is something else.
    """
    if isinstance(attribute, bool) or not isinstance(attribute, int):
        raise IRError(f"attribute is {attribute!r}, needs an integer")
    return attribute


def is_integer(attribute: Attribute) -> bool:
    """True for an integer known before the graph runs, as opposed to a symbolic dimension."""
    return isinstance(attribute, int) and not isinstance(attribute, bool)


def tuple_of(attribute: Attribute) -> tuple[Attribute, ...]:
    """An attribute that the op table promises to be a tuple.

    Raises:
        IRError: it is something else.
    """
    if not isinstance(attribute, tuple):
        raise IRError(f"attribute is {attribute!r}, needs a tuple")
    return attribute


def ints_of(attribute: Attribute) -> tuple[int, ...]:
    """An attribute that the op table promises to be a tuple of integers."""
    return tuple(int_of(item) for item in tuple_of(attribute))


def dim_of(attribute: Attribute) -> Dim:
    """An attribute that the op table promises to be a size.

    Raises:
        IRError: it is something else.
    """
    if isinstance(attribute, Expression):
        return attribute
    return int_of(attribute)


def dims_of(attribute: Attribute) -> tuple[Dim, ...]:
    """An attribute that the op table promises to be a tuple of sizes."""
    return tuple(dim_of(item) for item in tuple_of(attribute))


def is_smaller(left: Dim, right: Dim) -> bool:
    """True when `left` is known to be smaller; for symbolic sizes when it divides `right`."""
    if isinstance(left, int) and isinstance(right, int):
        return left < right
    return left != 0 and left != right and right % left == 0


def is_floating(value: Value) -> bool:
    """True when the value holds real floating-point numbers."""
    return value.type.dtype.is_float
