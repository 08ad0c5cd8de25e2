"""Kinds of attribute values: what an op's attribute may hold.

    conv2d  stride: (int, int)    softmax  axis: int    clamp  minimum: number or none

A `Kind` is a predicate with a text for messages and for the table of ops. An `int` is also a `number`,
a symbolic dimension is a `dim` and a `number`; a `bool` is neither an `int` nor a `dim`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Expression
from graphopt.ir.types import DType

__all__ = [
    "AXIS",
    "BOOL",
    "DIM",
    "DIMS",
    "DTYPE",
    "INT",
    "INTS",
    "NUMBER",
    "SCALAR",
    "TEXT",
    "Kind",
    "choice",
    "dims",
    "ints",
    "is_dim",
    "numbers",
    "optional",
    "pairs",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """A set of attribute values: `text` names it, `accepts` decides."""

    text: str
    accepts: Callable[[Attribute], bool]


def is_dim(value: object) -> bool:
    """True for an integer or a symbolic dimension, not for a bool."""
    return isinstance(value, int | Expression) and not isinstance(value, bool)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Expression) and not isinstance(value, bool)


AXIS = Kind("int >= 0", lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0)
BOOL = Kind("bool", lambda value: isinstance(value, bool))
DIM = Kind("dim", is_dim)
DTYPE = Kind("dtype", lambda value: isinstance(value, DType))
INT = Kind("int", _is_int)
NUMBER = Kind("number", _is_number)
SCALAR = Kind("number or bool", lambda value: _is_number(value) or isinstance(value, bool))
TEXT = Kind("text", lambda value: isinstance(value, str))


def _tuple_of(item: Callable[[object], bool], name: str, length: int | None) -> Kind:
    text = f"tuple of {name}s" if length is None else f"({', '.join([name] * length)}{',' if length == 1 else ''})"
    return Kind(text, lambda value: isinstance(value, tuple) and (length is None or len(value) == length) and all(item(v) for v in value))


def ints(length: int | None = None) -> Kind:
    """A tuple of integers, of a fixed length where one is given."""
    return _tuple_of(_is_int, "int", length)


def dims(length: int | None = None) -> Kind:
    """A tuple of integers or symbolic dimensions, of a fixed length where one is given."""
    return _tuple_of(is_dim, "dim", length)


def numbers() -> Kind:
    """A tuple of numbers."""
    return _tuple_of(_is_number, "number", None)


def pairs() -> Kind:
    """A tuple of (low, high) pairs of dimensions."""

    def is_pair(value: object) -> bool:
        return isinstance(value, tuple) and len(value) == 2 and all(is_dim(item) for item in value)  # pyright: ignore[reportUnknownVariableType]

    return _tuple_of(is_pair, "(low, high) pair", None)


def choice(*allowed: str | None) -> Kind:
    """One of a few words, or none where it is listed."""
    text = " | ".join("none" if word is None else f'"{word}"' for word in allowed)
    return Kind(text, lambda value: (value is None or isinstance(value, str)) and value in allowed)


def optional(kind: Kind) -> Kind:
    """The same kind, or none."""
    return Kind(f"{kind.text} or none", lambda value: value is None or kind.accepts(value))


INTS = ints()
DIMS = dims()
