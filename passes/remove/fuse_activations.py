"""Recognise activations that are written out in arithmetic.

    %s: f32[4] = sigmoid(%x)
    %y: f32[4] = mul(%x, %s)
    -> %y: f32[4] = silu(%x)

    clamp(x + 3, 0, 6) / 6          -> hardsigmoid(x)       1 / (1 + exp(-x))       -> sigmoid(x)
    x * clamp(x + 3, 0, 6) / 6      -> hardswish(x)         x / (1 + exp(-x))       -> silu(x)
    x * hardsigmoid(x)              -> hardswish(x)         x * tanh(softplus(x))   -> mish(x)
    maximum(x, 0)                   -> relu(x)

Not here: log(sigmoid(x)), log(1 + exp(x)) and log(softmax(x)); their written-out forms overflow where the
fused ones do not, which is another function.

Numeric class: rounding; `maximum(x, 0)` may differ in the sign of a zero. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node, Operand, Value
from graphopt.passes.remove.common import LocalRule, Remake, fits, float_of, producer_of
from graphopt.passes.remove.products import is_near, product_of, sum_with_number
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["FuseActivations"]


def _remake(node: Node, op: str, x: Value) -> Remake | NoMatch:
    if not x.type.dtype.is_float or not fits(node, op, (x,), {}):
        return UNRELATED
    return Remake(node, op, (x,))


def _shifted_clamp(value: Operand) -> Value | None:
    """`%x` when the value is clamp(x + 3, 0, 6)."""
    clamp = producer_of(value, "clamp")
    if clamp is None or (clamp.attrs["minimum"], clamp.attrs["maximum"]) != (0, 6):
        return None
    return sum_with_number(clamp.operands[0], 3.0)


class ShiftedClampToHardSigmoid(LocalRule):
    """clamp(x + 3, 0, 6) / 6, alone or times x."""

    ops = frozenset({"mul", "div"})

    def match(self, node: Node) -> Remake | NoMatch:
        """A product of 1/6, the clamp and perhaps x."""
        product = product_of(node.result)
        if product is None or len(product.factors) > 2:
            return UNRELATED
        for factor in product.factors:
            x = _shifted_clamp(factor)
            rest = product.without((factor,))
            if x is None or rest not in ((), (x,)):
                continue
            if not is_near(product.scale, 1 / 6):
                return NoMatch(f"clamp(x + 3, 0, 6) is scaled by {product.scale}, needs 1/6")
            return _remake(node, "hardswish" if rest else "hardsigmoid", x)
        return UNRELATED


class GateTimesInput(LocalRule):
    """x * sigmoid(x), x * hardsigmoid(x), x * tanh(softplus(x))."""

    ops = frozenset({"mul"})

    def match(self, node: Node) -> Remake | NoMatch:
        """One operand is a gate computed from the other."""
        for gate, x in (node.operands, tuple(reversed(node.operands))):
            if not isinstance(x, Value):
                continue
            found = producer_of(gate, "sigmoid", "hardsigmoid", "tanh")
            if found is None:
                continue
            if found.op == "tanh":
                inner = producer_of(found.operands[0], "softplus")
                if inner is not None and inner.operands[0] is x and (inner.attrs["beta"], inner.attrs["threshold"]) == (1, 20):
                    return _remake(node, "mish", x)
            elif found.operands[0] is x:
                return _remake(node, "silu" if found.op == "sigmoid" else "hardswish", x)
        return UNRELATED


class LogisticToSigmoid(LocalRule):
    """1 / (1 + exp(-x)), and x over the same."""

    ops = frozenset({"div", "reciprocal"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The denominator is 1 + exp(-x)."""
        numerator, denominator = node.operands if node.op == "div" else (1, node.operands[0])
        if node.attrs.get("rounding") is not None:
            return UNRELATED
        exponential = producer_of(sum_with_number(denominator, 1.0), "exp")
        negation = producer_of(exponential.operands[0], "neg") if exponential is not None else None
        if negation is None:
            return UNRELATED
        x = negation.value(0)
        if numerator is x:
            return _remake(node, "silu", x)
        return _remake(node, "sigmoid", x) if float_of(numerator) == 1 else UNRELATED


class MaximumOfZeroToRelu(LocalRule):
    """maximum(x, 0)."""

    ops = frozenset({"maximum"})

    def match(self, node: Node) -> Remake | NoMatch:
        """One operand is the number 0."""
        left, right = node.operands
        if isinstance(right, Value):
            left, right = right, left
        return _remake(node, "relu", left) if isinstance(left, Value) and float_of(right) == 0 else UNRELATED


@dataclass(frozen=True)
class FuseActivations(RulePass):
    """Replace written-out silu, hardswish, hardsigmoid, sigmoid, mish and relu by the op."""

    name = "fuse-activations"
    numeric = NumericClass.ROUNDING
    rules = (ShiftedClampToHardSigmoid(), GateTimesInput(), LogisticToSigmoid(), MaximumOfZeroToRelu())
