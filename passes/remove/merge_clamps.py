"""Merge chains of relu and clamp into one.

    %a: f32[4] = relu(%x)
    %b: f32[4] = clamp(%a) {maximum=6.0, minimum=none}
    -> %b = clamp(%x) {maximum=6.0, minimum=0.0}

    clamp(clamp(%x))       -> one clamp, with the bounds that both together have
    clamp(%x) {minimum=0}  -> relu(%x)
    minimum(%x, 6.0)       -> clamp(%x) {maximum=6.0}      (a number other than 0)

With clamp(x) = min(max(x, low), high) the chain of (l1, h1) and (l2, h2) has low = max(l1, l2) and
high = min(max(h1, l2), h2). NaN passes through all of them; torch keeps the sign of a zero that sits on a bound.

Numeric class: exact. Stage: training-safe (gradients agree except exactly on a bound).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Node, Operand, Value
from graphopt.passes.remove.common import Forward, LocalRule, Remake, fits, float_of, producer_of
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["MergeClamps"]

_Bound = int | float | None


def _bound(attribute: Attribute | Operand) -> _Bound:
    """A bound that is a number or missing; NaN and symbolic bounds are no numbers to compare."""
    if isinstance(attribute, bool) or not isinstance(attribute, int | float):
        return None
    return attribute


def _bounds(node: Node) -> tuple[_Bound, _Bound] | None:
    """Low and high of a relu or clamp; None where a bound is symbolic, NaN or -0.0."""
    if node.op == "relu":
        return 0, None
    found = node.attrs["minimum"], node.attrs["maximum"]
    for attribute in found:
        if attribute is None:
            continue
        number = _bound(attribute)
        if number is None or math.isnan(number) or (number == 0 and math.copysign(1.0, number) < 0):
            return None
    return _bound(found[0]), _bound(found[1])


def _larger(left: _Bound, right: _Bound) -> _Bound:
    return right if left is None else left if right is None else max(left, right)


def _together(first: tuple[_Bound, _Bound], second: tuple[_Bound, _Bound]) -> tuple[_Bound, _Bound]:
    """Bounds of two clamps in a row."""
    low = _larger(first[0], second[0])
    high = first[1] if first[1] is None or second[0] is None else max(first[1], second[0])
    if second[1] is not None:
        high = second[1] if high is None else min(high, second[1])
    return low, high


def _as_node(node: Node, x: Value, bounds: tuple[_Bound, _Bound]) -> Remake | NoMatch:
    """A relu or clamp with these bounds in the place of `node`."""
    low, high = bounds
    if low == 0 and high is None and fits(node, "relu", (x,), {}):
        return Remake(node, "relu", (x,))
    attrs: dict[str, Attribute] = {"minimum": low, "maximum": high}
    return Remake(node, "clamp", (x,), attrs) if fits(node, "clamp", (x,), attrs) else NoMatch("the merged clamp would have another dtype")


class ClampOfClamp(LocalRule):
    """One pair of bounds for two nodes."""

    ops = frozenset({"relu", "clamp"})

    def match(self, node: Node) -> Forward | Remake | NoMatch:
        """The producer is a relu or clamp too."""
        inner = producer_of(node.operands[0], "relu", "clamp")
        if inner is None:
            return UNRELATED
        first, second = _bounds(inner), _bounds(node)
        if first is None or second is None:
            return NoMatch("a bound is symbolic, NaN or -0.0, needs plain numbers")
        together = _together(first, second)
        if together == first and inner.result.type == node.result.type:
            return Forward(node, inner.result)
        return _as_node(node, inner.value(0), together)


class ClampAtZeroToRelu(LocalRule):
    """Write a clamp from 0 upwards as the relu that it is."""

    ops = frozenset({"clamp"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The lower bound is 0 and there is no upper one."""
        if node.attrs["maximum"] is not None or _bounds(node) != (0, None):
            return UNRELATED
        return Remake(node, "relu", (node.operands[0],)) if fits(node, "relu", node.operands, {}) else UNRELATED


class ExtremumWithNumberToClamp(LocalRule):
    """The larger of a tensor and a number is a clamp."""

    ops = frozenset({"maximum", "minimum"})

    def match(self, node: Node) -> Remake | NoMatch:
        """One operand is a number."""
        left, right = node.operands
        if isinstance(right, Value):
            left, right = right, left
        number = float_of(right)
        if not isinstance(left, Value) or number is None or math.isnan(number):
            return UNRELATED
        if number == 0 and left.type.dtype.is_float:
            return NoMatch("which zero maximum and minimum pick of 0.0 and -0.0 depends on how it is vectorised")
        return _as_node(node, left, (_bound(right), None) if node.op == "maximum" else (None, _bound(right)))


@dataclass(frozen=True)
class MergeClamps(RulePass):
    """One clamp for a chain of relu, clamp, minimum and maximum with numbers."""

    name = "merge-clamps"
    numeric = NumericClass.EXACT
    rules = (ExtremumWithNumberToClamp(), ClampOfClamp(), ClampAtZeroToRelu())
