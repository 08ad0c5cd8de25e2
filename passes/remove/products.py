"""A tree of multiplications as one number and a bag of factors, for rules that recognise formulas.

    %h: f32[4] = mul(%x, 0.5)
    %y: f32[4] = mul(%h, %e)      ->  scale 0.5, factors (%x, %e)

`div` by a number and `pow(%x, 2)`, `pow(%x, 3)`, `square(%x)` count as well. Which order the formula was written
in does not matter then. The rules that use this are of numeric class rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir.graph import Node, Operand, Value
from graphopt.passes.remove.common import float_of

__all__ = ["Product", "is_near", "product_of", "sum_with_number"]

_LARGEST = 16
"""Formulas have few multiplications; what is further up counts as a factor, which bounds the cost per node."""


def is_near(found: float, wanted: float) -> bool:
    """Equal to ten digits: a constant that was rounded to float32 on the way is not the formula's."""
    return math.isclose(found, wanted, rel_tol=1e-10)


@dataclass(frozen=True, slots=True)
class Product:
    """`scale` times all `factors` (a factor that occurs twice stands twice)."""

    scale: float
    factors: tuple[Value, ...]

    def without(self, taken: Sequence[Value]) -> tuple[Value, ...] | None:
        """The factors that are left when `taken` are divided out; None when one of them is missing."""
        rest = list(self.factors)
        for value in taken:
            if value not in rest:
                return None
            rest.remove(value)
        return tuple(rest)


def _split(node: Node) -> tuple[float, tuple[Value, ...]] | None:
    """The number and the factors of one node, None when it is not a product."""
    operands = node.operands
    values = tuple(operand for operand in operands if isinstance(operand, Value))
    if node.op == "square":
        return 1.0, (values[0], values[0])
    if node.op == "mul":
        if len(values) == 2:
            return 1.0, values
        number = float_of(operands[1] if isinstance(operands[0], Value) else operands[0])
        return None if number is None else (number, values)
    if not isinstance(operands[0], Value) or len(operands) != 2:
        return None
    number = float_of(operands[1])
    if node.op == "div" and number and node.attrs["rounding"] is None:
        return 1.0 / number, values
    if node.op == "pow" and number in (2.0, 3.0):
        return 1.0, (values[0],) * int(number)
    return None


def product_of(operand: Operand) -> Product | None:
    """The product that ends at `operand`; inner results with other readers count as factors. None for a plain number."""
    if not isinstance(operand, Value):
        return None
    dtype = operand.type.dtype
    scale = 1.0
    factors: list[Value] = []
    pending = [operand]
    opened_nodes = 0
    while pending:
        value = pending.pop()
        opened = None
        if value.producer is not None and value.type.dtype is dtype and (value is operand or value.use_count == 1):
            opened = _split(value.producer)
        if opened is None or opened_nodes == _LARGEST:
            factors.append(value)
        else:
            opened_nodes += 1
            scale *= opened[0]
            pending.extend(reversed(opened[1]))
    return Product(scale, tuple(factors))


def sum_with_number(operand: Operand, number: float) -> Value | None:
    """`%x` when the operand is `add(%x, number)` in either order, else None."""
    node = operand.producer if isinstance(operand, Value) else None
    if node is None or node.op != "add":
        return None
    for value, literal in (node.operands, tuple(reversed(node.operands))):
        found = float_of(literal)
        if isinstance(value, Value) and found is not None and is_near(found, number):
            return value
    return None
