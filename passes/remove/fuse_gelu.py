"""Recognise gelu that is written out in arithmetic.

    0.5 * x * (1 + erf(x / sqrt(2)))                              -> gelu(x) {approximate="none"}
    0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))    -> gelu(x) {approximate="tanh"}

    %a: f32[4] = mul(%x, 0.7071067811865476)
    %b: f32[4] = erf(%a)
    %c: f32[4] = add(%b, 1.0)
    %d: f32[4] = mul(%x, %c)
    %e: f32[4] = mul(%d, 0.5)
    -> %e: f32[4] = gelu(%x) {approximate="none"}

The factors may come in any order. Constants have to agree to ten digits: one that was rounded to float32
or written as 1.41421 is another function at 1e-9.

Numeric class: rounding. Stage: training-safe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.ir.graph import Node, Value
from graphopt.passes.remove.common import LocalRule, Remake, producer_of
from graphopt.passes.remove.products import is_near, product_of, sum_with_number
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["FuseGelu"]

_CUBIC = 0.044715


def _erf_argument(x: Value, operand: Value) -> NoMatch | None:
    """None when the operand is x / sqrt(2), else why not."""
    product = product_of(operand)
    if product is None or product.factors != (x,):
        return UNRELATED
    if not is_near(product.scale, math.sqrt(0.5)):
        return NoMatch(f"erf is of {product.scale!r} * x, needs sqrt(1/2) = {math.sqrt(0.5)!r} to ten digits")
    return None


def _is_scaled(value: Value | None, wanted: float, factors: tuple[Value, ...]) -> bool:
    product = product_of(value)
    return product is not None and product.factors == factors and is_near(product.scale, wanted)


def _is_cubic(x: Value, factors: tuple[Value, ...]) -> bool:
    """True for x + 0.044715 x**3, and for x * (1 + 0.044715 x**2)."""
    if len(factors) == 1:
        total = producer_of(factors[0], "add")
        if total is None:
            return False
        terms = [term for term in total.operands if isinstance(term, Value)]
        return len(terms) == 2 and any(one is x and _is_scaled(two, _CUBIC, (x, x, x)) for one, two in (terms, terms[::-1]))
    rest = [factor for factor in factors if factor is not x]
    return len(factors) == 2 and len(rest) == 1 and _is_scaled(sum_with_number(rest[0], 1.0), _CUBIC, (x, x))


def _tanh_argument(x: Value, operand: Value) -> NoMatch | None:
    """None when the operand is sqrt(2 / pi) * (x + 0.044715 x**3), else why not."""
    product = product_of(operand)
    if product is None or not _is_cubic(x, product.factors):
        return UNRELATED
    wanted = math.sqrt(2 / math.pi)
    if not is_near(product.scale, wanted):
        return NoMatch(f"tanh is of {product.scale!r} * (x + 0.044715 x**3), needs sqrt(2/pi) = {wanted!r} to ten digits")
    return None


class FormulaToGelu(LocalRule):
    """A product of 1/2, x and 1 + erf(...) or 1 + tanh(...)."""

    ops = frozenset({"mul", "div"})

    def match(self, node: Node) -> Remake | NoMatch:
        """Take the factors apart, then look into the bracket."""
        product = product_of(node.result)
        if product is None or len(product.factors) != 2 or not node.result.type.dtype.is_float:
            return UNRELATED
        for x, bracket in (product.factors, product.factors[::-1]):
            inner = producer_of(sum_with_number(bracket, 1.0), "erf", "tanh")
            if inner is None or x.type != node.result.type:
                continue
            why = _erf_argument(x, inner.value(0)) if inner.op == "erf" else _tanh_argument(x, inner.value(0))
            if why is not None:
                return why
            if not is_near(product.scale, 0.5):
                return NoMatch(f"the product is scaled by {product.scale!r}, needs 0.5")
            return Remake(node, "gelu", (x,), {"approximate": "none" if inner.op == "erf" else "tanh"})
        return UNRELATED


@dataclass(frozen=True)
class FuseGelu(RulePass):
    """Replace both written-out forms of gelu by the op."""

    name = "fuse-gelu"
    numeric = NumericClass.ROUNDING
    rules = (FormulaToGelu(),)
