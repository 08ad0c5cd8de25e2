"""Recognise attention that is written out as two matrix products around a softmax.

    %k.t: f32[1,2,8,5] = permute(%k) {axes=(0, 1, 3, 2)}
    %a: f32[1,2,5,5] = matmul(%q, %k.t)
    %b: f32[1,2,5,5] = div(%a, 2.8284271247461903)
    %c: f32[1,2,5,5] = add(%b, %mask)                       (optional)
    %p: f32[1,2,5,5] = softmax(%c) {axis=3}
    %y: f32[1,2,5,8] = matmul(%p, %v)
    -> %y = scaled_dot_product_attention(%q, %k, %v, %mask) {causal=false, dropout_p=0.0, grouped=false, scale=0.353...}

Declined: a row whose mask is -inf everywhere is NaN written out and 0 fused, so a mask that is made of
-inf literals is left alone; scores or probabilities that something else reads; dropout in between.

Numeric class: rounding. Stage: training-safe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Node, Operand, Value
from graphopt.passes.remove.common import float_of, ints_of, producer_of, sole_producer
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

__all__ = ["FuseAttention"]

_MASK_DEPTH = 8
"""How far up a mask's making is searched for -inf."""


@dataclass(frozen=True, slots=True)
class Site:
    """The parts of one attention; `transposed` is the keys as the first product reads them."""

    last: Node
    query: Value
    transposed: Value
    value: Value
    mask: Value | None
    scale: float


def _is_unsafe_mask(mask: Value) -> bool:
    """True when -inf is seen in the making of the mask."""
    pending: list[Operand] = [mask]
    for _ in range(_MASK_DEPTH):
        if not pending:
            return False
        operand = pending.pop(0)
        node = producer_of(operand)
        if node is None:
            continue
        if node.op == "full" and node.attrs["value"] == -math.inf:
            return True
        if any(float_of(item) == -math.inf for item in node.operands):
            return True
        pending += node.operands
    return False


def _swaps_last_two(node: Node) -> bool:
    axes = ints_of(node.attrs["axes"])
    rank = len(axes)
    return rank >= 2 and axes == (*range(rank - 2), rank - 1, rank - 2)


class ProductsAroundSoftmax(Rule[Site]):
    """matmul(softmax(matmul(q, k.T) * scale + mask), v)."""

    ops = frozenset({"matmul"})

    def match(self, node: Node) -> Site | NoMatch:
        """Follow the formula upwards from the second product."""
        soft = sole_producer(node.operands[0], "softmax", "dropout")
        if soft is None:
            return UNRELATED
        if soft.op == "dropout":
            inner = producer_of(soft.operands[0], "softmax")
            return NoMatch("dropout between softmax and the values, needs remove-dropout first") if inner is not None else UNRELATED
        if soft.attrs["axis"] != soft.result.type.rank - 1:
            return NoMatch(f"softmax runs over axis {soft.attrs['axis']}, needs the last")
        scores, mask = soft.operands[0], None
        total = sole_producer(scores, "add")
        if total is not None:
            scored = [operand for operand in total.operands if sole_producer(operand, "mul", "div", "matmul") is not None]
            if not scored or not all(isinstance(operand, Value) for operand in total.operands):
                return UNRELATED
            scores = scored[0]
            mask = next(operand for operand in total.operands if isinstance(operand, Value) and operand is not scores)
        scale = 1.0
        scaling = sole_producer(scores, "mul", "div")
        if scaling is not None:
            number = float_of(scaling.operands[1])
            if not number or scaling.attrs.get("rounding") is not None:
                return UNRELATED
            scale = number if scaling.op == "mul" else 1 / number
            scores = scaling.operands[0]
        product = sole_producer(scores, "matmul")
        if product is None:
            return UNRELATED
        return self._checked(Site(node, product.value(0), product.value(1), node.value(1), mask, scale))

    def _checked(self, site: Site) -> Site | NoMatch:
        ranks = site.query.type.rank, site.transposed.type.rank, site.value.type.rank
        if len(set(ranks)) > 1 or ranks[0] not in (3, 4):
            return NoMatch(f"q, k and v have {ranks} axes, needs 3 or 4 each")
        if (
            site.query.shape[:-2] != site.value.shape[:-2]
            or site.transposed.shape[:-2] != site.value.shape[:-2]
            or site.last.result.shape[:-2] != site.query.shape[:-2]
        ):
            return NoMatch("q, k and v have different batch axes, needs the same")
        if site.mask is not None:
            if site.mask.type.dtype is not site.query.type.dtype:
                return NoMatch(f"the mask is {site.mask.type.dtype.text}, needs {site.query.type.dtype.text}")
            if _is_unsafe_mask(site.mask):
                return NoMatch("the mask has -inf: a row of nothing else is NaN written out and 0 fused")
        return site

    def rewrite(self, site: Site, rewriter: Rewriter) -> None:
        """Undo the transposition of the keys, or transpose once more, and make the one node."""
        node = site.last
        transposition = producer_of(site.transposed, "permute")
        if transposition is not None and _swaps_last_two(transposition):
            keys = transposition.value(0)
        else:
            rank = site.transposed.type.rank
            keys = rewriter.emit("permute", site.transposed, before=node, axes=(*range(rank - 2), rank - 1, rank - 2))
        attrs: dict[str, Attribute] = {"causal": False, "dropout_p": 0.0, "grouped": False, "scale": site.scale}
        operands = (site.query, keys, site.value, site.mask)
        made = rewriter.create("scaled_dot_product_attention", operands, attrs, before=node)
        probabilities = node.value(0).producer
        rewriter.replace(node, made.result)
        rewriter.erase_unused(probabilities)


@dataclass(frozen=True)
class FuseAttention(RulePass):
    """Replace written-out attention by scaled_dot_product_attention."""

    name = "fuse-attention"
    numeric = NumericClass.ROUNDING
    rules = (ProductsAroundSoftmax(),)
