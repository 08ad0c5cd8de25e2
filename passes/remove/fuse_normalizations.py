"""Recognise layer norm and RMS norm that are written out in arithmetic.

    (x - mean(x)) / sqrt(mean((x - mean(x))**2) + eps)            -> layer_norm(x, none, none)
    (x - mean(x)) * rsqrt(var(x) {correction=0} + eps)            -> layer_norm(x, none, none)
    x * rsqrt(mean(x**2) + eps)                                   -> rms_norm(x, none)
    layer_norm(x, none, none) * w + b                             -> layer_norm(x, w, b)

    %s: f32[2,8] = square(%x)
    %m: f32[2,1] = mean(%s) {axes=(1,), keepdims=true}
    %e: f32[2,1] = add(%m, 1e-06)
    %r: f32[2,1] = rsqrt(%e)
    %y: f32[2,8] = mul(%x, %r)
    -> %y: f32[2,8] = rms_norm(%x, none) {eps=1e-06, normalized_shape=(8,)}

The mean has to run over the last axes.

Numeric class: rounding. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Node, Operand, Value
from graphopt.passes.remove.common import LocalRule, Remake, fits, float_of, ints_of, producer_of, sole_producer
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["FuseNormalizations"]


def _squared(operand: Operand) -> Value | None:
    """`%d` when the operand is d squared in one of three ways."""
    node = producer_of(operand, "square", "pow", "mul")
    if node is None or not isinstance(node.operands[0], Value):
        return None
    same = node.op == "square" or (node.op == "mul" and node.operands[0] is node.operands[1])
    return node.operands[0] if same or (node.op == "pow" and float_of(node.operands[1]) == 2) else None


def _deviation(node: Node) -> tuple[Value, Node, float] | None:
    """(numerator, statistic, eps) of numerator / sqrt(statistic + eps), with `*` and rsqrt as well."""
    for numerator, other in (node.operands, tuple(reversed(node.operands))):
        root = sole_producer(other, "rsqrt" if node.op == "mul" else "sqrt")
        total = sole_producer(root.operands[0], "add") if root is not None else None
        if total is None or not isinstance(numerator, Value):
            continue
        for statistic, number in (total.operands, tuple(reversed(total.operands))):
            eps = float_of(number)
            found = sole_producer(statistic, "mean", "var")
            if found is not None and eps is not None:
                return numerator, found, eps
        return None
    return None


def _normalized_shape(x: Value, statistic: Node) -> tuple[Attribute, ...] | NoMatch:
    """The sizes of the last axes, over which the statistic runs."""
    axes = ints_of(statistic.attrs["axes"])
    if statistic.attrs["keepdims"] is not True:
        return UNRELATED
    if tuple(sorted(axes)) != tuple(range(x.type.rank - len(axes), x.type.rank)):
        return NoMatch(f"normalises over axes {axes} of {x.type.rank}, needs the last ones")
    return x.shape[x.type.rank - len(axes) :]


class DeviationToNorm(LocalRule):
    """x over its root mean square, or its deviation over its standard deviation."""

    ops = frozenset({"mul", "div"})

    def match(self, node: Node) -> Remake | NoMatch:
        """Follow the formula upwards from its last operation."""
        found = _deviation(node)
        if found is None:
            return UNRELATED
        numerator, statistic, eps = found
        shape = _normalized_shape(numerator, statistic)
        if isinstance(shape, NoMatch):
            return shape
        attrs: dict[str, Attribute] = {"normalized_shape": shape, "eps": eps}
        if statistic.op == "mean" and _squared(statistic.operands[0]) is numerator and not _is_centred(numerator):
            return Remake(node, "rms_norm", (numerator, None), attrs) if fits(node, "rms_norm", (numerator, None), attrs) else UNRELATED
        centred = producer_of(numerator, "sub")
        mean = producer_of(centred.operands[1], "mean") if centred is not None else None
        if centred is None or mean is None or centred.operands[0] is not mean.operands[0]:
            return UNRELATED
        if (mean.attrs["axes"], mean.attrs["keepdims"]) != (statistic.attrs["axes"], True):
            return NoMatch(f"the mean is over axes {mean.attrs['axes']}, the variance over {statistic.attrs['axes']}, needs the same")
        x = mean.value(0)
        if statistic.op == "var":
            if statistic.operands[0] is not x and statistic.operands[0] is not numerator:
                return UNRELATED
            if statistic.attrs["correction"] != 0:
                return NoMatch(f"the variance has correction {statistic.attrs['correction']}, needs 0")
        elif not _is_same_deviation(_squared(statistic.operands[0]), numerator, centred):
            return UNRELATED
        operands = (x, None, None)
        return Remake(node, "layer_norm", operands, attrs) if fits(node, "layer_norm", operands, attrs) else UNRELATED


def _is_centred(value: Value) -> bool:
    """True for x - mean(x), which makes the formula a layer norm."""
    centred = producer_of(value, "sub")
    mean = producer_of(centred.operands[1], "mean") if centred is not None else None
    return centred is not None and mean is not None and mean.operands[0] is centred.operands[0]


def _is_same_deviation(squared: Value | None, numerator: Value, centred: Node) -> bool:
    """True when what is squared is the numerator, or computed from the same operands."""
    if squared is None:
        return False
    other = producer_of(squared, "sub")
    return squared is numerator or (other is not None and other.operands == centred.operands)


class ScaleIntoNorm(LocalRule):
    """A norm without weight times a vector of the normalised shape."""

    ops = frozenset({"mul"})

    def match(self, node: Node) -> Remake | NoMatch:
        """One operand is the norm, which nobody else reads, the other the weight."""
        for norm_value, weight in (node.operands, tuple(reversed(node.operands))):
            norm = sole_producer(norm_value, "layer_norm", "rms_norm")
            if norm is None or not isinstance(weight, Value):
                continue
            if norm.operands[1] is not None or any(operand is not None for operand in norm.operands[2:]):
                return NoMatch("the norm has a weight or bias already")
            if weight.shape != norm.attrs["normalized_shape"] or weight.producer is not None:
                return NoMatch(f"%{weight.name} is {weight.type.text}, needs a state of shape {norm.attrs['normalized_shape']}")
            operands = (norm.operands[0], weight, *norm.operands[2:])
            return Remake(node, norm.op, operands, norm.attrs) if fits(node, norm.op, operands, norm.attrs) else UNRELATED
        return UNRELATED


class ShiftIntoNorm(LocalRule):
    """A layer norm with weight and without bias plus a vector of the normalised shape."""

    ops = frozenset({"add"})

    def match(self, node: Node) -> Remake | NoMatch:
        """One operand is the norm, which nobody else reads, the other the bias."""
        for norm_value, bias in (node.operands, tuple(reversed(node.operands))):
            norm = sole_producer(norm_value, "layer_norm")
            if norm is None or not isinstance(bias, Value) or norm.operands[1] is None or norm.operands[2] is not None:
                continue
            if bias.shape != norm.attrs["normalized_shape"] or bias.producer is not None:
                continue
            operands = (*norm.operands[:2], bias)
            return Remake(node, "layer_norm", operands, norm.attrs) if fits(node, "layer_norm", operands, norm.attrs) else UNRELATED
        return UNRELATED


@dataclass(frozen=True)
class FuseNormalizations(RulePass):
    """Replace written-out layer norm and RMS norm by the op, weight and bias included."""

    name = "fuse-normalizations"
    numeric = NumericClass.ROUNDING
    rules = (DeviationToNorm(), ScaleIntoNorm(), ShiftIntoNorm())
