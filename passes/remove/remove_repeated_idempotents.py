"""Remove operations that a value has already been through.

    relu(relu(%x))   abs(abs(%x))   floor(round(%x))   tril(tril(%x))      -> the inner one
    relu(sigmoid(%x))   abs(exp(%x))   relu(softmax(%x))                   -> the inner one, it is never negative

    %a: f32[4] = relu(%x)
    %b: f32[4] = relu(%a)
    -> every use of %b becomes %a

NaN passes through all of them, and none of the inner results can be -0.0 where the outer op is `abs`.

Numeric class: exact. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node
from graphopt.passes.remove.common import Forward, LocalRule, forward, producer_of
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["RemoveRepeatedIdempotents"]

_POSITIVE = ("abs", "exp", "exp2", "sigmoid", "softmax", "square", "hardsigmoid")
"""Never below 0 and never -0.0."""

_WHOLE = ("ceil", "floor", "round", "sign", "trunc")

_ABSORBED_AFTER: dict[str, tuple[str, ...]] = {
    "relu": ("relu", *_POSITIVE),
    "abs": _POSITIVE,
    "ceil": _WHOLE,
    "floor": _WHOLE,
    "round": _WHOLE,
    "trunc": _WHOLE,
    "sign": ("sign",),
    "tril": ("tril",),
    "triu": ("triu",),
}


class RepeatedToInner(LocalRule):
    """Forward the inner result where the outer op can't change it."""

    ops = frozenset(_ABSORBED_AFTER)

    def match(self, node: Node) -> Forward | NoMatch:
        """The producer is one of the ops that make this one superfluous."""
        inner = producer_of(node.operands[0], *_ABSORBED_AFTER[node.op])
        if inner is None:
            return UNRELATED
        if node.op in ("tril", "triu") and inner.attrs["diagonal"] != node.attrs["diagonal"]:
            return NoMatch(f"diagonal is {node.attrs['diagonal']} after {inner.attrs['diagonal']}, needs the same")
        if not node.result.type.dtype.is_float and inner.op != node.op:
            return UNRELATED
        return forward(node, inner.result)


@dataclass(frozen=True)
class RemoveRepeatedIdempotents(RulePass):
    """Drop the second of two equal idempotent ops, and sign fixes of what is never negative."""

    name = "remove-repeated-idempotents"
    numeric = NumericClass.EXACT
    rules = (RepeatedToInner(),)
