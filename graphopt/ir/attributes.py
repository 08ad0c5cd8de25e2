"""Attribute values: the literals that a node can carry, and their text.

    none  true  1  1e-05  "reflect"  f32  batch*49  (1, 1)  [$0, none]  {"logits": $0}

`$0` is a `Ref`: a place filled by the node's operand of that number (opaque ops), or by the graph's
input or output of that number (call and return structure).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from graphopt.errors import IRError
from graphopt.ir.dims import Dim, Expression, evaluate_dim
from graphopt.ir.types import DType

__all__ = [
    "MAX_DEPTH",
    "MAX_INTEGER",
    "RESERVED_WORDS",
    "Attribute",
    "Ref",
    "Scalar",
    "attribute_text",
    "evaluate_attribute",
    "freeze_attribute",
    "refs_of",
]

MAX_INTEGER = 2**64 - 1
"""Largest integer in an attribute; the smallest is -2**63."""

MAX_DEPTH = 32
"""Deepest nesting of brackets that text may have; protects the readers from hostile files."""

RESERVED_WORDS = frozenset({"none", "true", "false", "inf", "nan", "min", "max"} | {dtype.text for dtype in DType})
"""Bare words that can't name a symbolic dimension."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A place in a structure, filled by operand, input or output number `index`."""

    index: int


Scalar: TypeAlias = "bool | int | float | Expression"
Attribute: TypeAlias = (
    "bool | int | float | str | DType | Expression | Ref | tuple[Attribute, ...] | list[Attribute] | Mapping[str, Attribute] | None"
)


def attribute_text(value: Attribute) -> str:
    """Canonical text of an attribute value.

    Raises:
        IRError: the value is of a type that attributes can't have.
    """
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return _float_text(value)
        case str():
            return json.dumps(value, ensure_ascii=True)
        case DType():
            return value.text
        case Expression():
            return value.text
        case Ref():
            return f"${value.index}"
        case tuple():
            items = [attribute_text(item) for item in value]
            return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
        case list():
            return f"[{', '.join(attribute_text(item) for item in value)}]"
        case Mapping():
            items = [f"{json.dumps(key, ensure_ascii=True)}: {attribute_text(item)}" for key, item in value.items()]
            return f"{{{', '.join(items)}}}"
    raise IRError(
        f"an attribute can't be a {type(value).__name__}", fix="use none, numbers, strings, dtypes, dims, tuples, lists or dicts of them"
    )


_FROZEN = frozenset({type(None), bool, float, DType, Expression, Ref})


def freeze_attribute(value: object, *, depth: int = 0) -> Attribute:
    """Check a value and return it as an attribute; containers are copied.

    Raises:
        IRError: a type that attributes can't have, a dict key that is no string, or nesting deeper than 32.
    """
    if type(value) in _FROZEN:
        return value  # pyright: ignore[reportReturnType]  # one of the types that the next match would let through
    if depth > MAX_DEPTH:
        raise IRError(f"attribute is nested deeper than {MAX_DEPTH}")
    match value:
        case int():
            if not -(2**63) <= value <= MAX_INTEGER:
                raise IRError(f"attribute {value} does not fit 64 bits")
            return int(value)
        case float():
            return float(value)
        case str():
            if not value.isascii() and any(0xD800 <= ord(character) <= 0xDFFF for character in value):
                raise IRError(f"attribute {value!r} holds half of a surrogate pair and can't be written as text")
            return str(value)
        case tuple():
            return tuple(freeze_attribute(item, depth=depth + 1) for item in value)  # pyright: ignore[reportUnknownVariableType]
        case list():
            return [freeze_attribute(item, depth=depth + 1) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case Mapping():
            result: dict[str, Attribute] = {}
            for key, item in value.items():  # pyright: ignore[reportUnknownVariableType]
                if not isinstance(key, str):
                    raise IRError(f"attribute dict has the key {key!r}, needs strings")
                result[key] = freeze_attribute(item, depth=depth + 1)
            return result
        case _:
            raise IRError(f"an attribute can't be a {type(value).__name__}: {value!r}")


def evaluate_attribute(value: Attribute, dims: Mapping[str, Dim]) -> Attribute:
    """Replace symbolic dimensions inside a value by their sizes."""
    match value:
        case Expression():
            return evaluate_dim(value, dims)
        case tuple():
            return tuple(evaluate_attribute(item, dims) for item in value)
        case list():
            return [evaluate_attribute(item, dims) for item in value]
        case Mapping():
            return {key: evaluate_attribute(item, dims) for key, item in value.items()}
        case _:
            return value


def refs_of(value: Attribute) -> Iterator[int]:
    """Numbers of all `Ref`s inside a value, in order."""
    match value:
        case Ref():
            yield value.index
        case tuple() | list():
            for item in value:
                yield from refs_of(item)
        case Mapping():
            for item in value.values():
                yield from refs_of(item)
        case _:
            return


def _float_text(value: float) -> str:
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return float.__repr__(value)
