"""Attention whose batch and heads are one axis gets them as two, as it is written where they were never merged.

    %h: f32[L,B*H,D] = reshape(%q)                           from [L,B,H*D]; k and v likewise
    %m: f32[B*H,L,D] = permute(%h) {axes=(1, 0, 2)}
    %a: f32[B*H,L,D] = scaled_dot_product_attention(%m, ...)
    %y: f32[L,B*H,D] = permute(%a) {axes=(1, 0, 2)}
    ->
    %h: f32[L,B,H,D] = reshape(%q)
    %m: f32[B,H,L,D] = permute(%h) {axes=(1, 2, 0, 3)}
    %a: f32[B,H,L,D] = scaled_dot_product_attention(%m, ...)
    %p: f32[L,B,H,D] = permute(%a) {axes=(2, 0, 1, 3)}
    %y: f32[L,B*H,D] = reshape(%p)

torch.nn.MultiheadAttention computes like that when it is asked for its weights, which is its default. With the axes apart heads can
be told from the batch: passes that take out heads find them, and kernels for attention read them where they lie.

Declined: masks of which every head of every sample has its own, operands that come from elsewhere.

Numeric class: rounding, as a backend may take another kernel for four axes than for three. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node, Value
from graphopt.passes.remove.common import float_of, ints_of, only_reader, producer_of
from graphopt.passes.remove.merge_permutes import compose
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

__all__ = ["SplitAttentionHeads"]

_SWAP = (1, 0, 2)
"""[L, B*H, D] and [B*H, L, D]."""


@dataclass(frozen=True, slots=True)
class Site:
    """One attention: `sources` are q, k and v as [L, B, H*D], `after` is the permute that reads the result."""

    node: Node
    after: Node
    sources: tuple[Value, ...]
    heads: int
    scale: float


def _unscaled(query: Value) -> tuple[Value, float]:
    """The queries, and a number that they are multiplied by, which may as well be part of the scale."""
    scaling = producer_of(query, "mul")
    number = None if scaling is None else float_of(scaling.operands[1])
    if scaling is None or number is None or scaling.value(0).type.dtype is not query.type.dtype:
        return query, 1.0
    return scaling.value(0), number


def _source(operand: Value) -> Value | None:
    """The value [L, B, H*D] that an operand [B*H, L, D] was made from; None if it was not."""
    merged, axes = operand, (0, 1, 2)
    while (permute := producer_of(merged, "permute")) is not None:
        merged, axes = permute.value(0), compose(ints_of(permute.attrs["axes"]), axes)
    reshape = producer_of(merged, "reshape") if axes == _SWAP else None
    if reshape is None:
        return None
    source = reshape.value(0)
    size = operand.shape[2]
    if source.type.rank != 3 or source.shape[0] != operand.shape[1] or not isinstance(size, int) or size == 0:
        return None
    heads = source.shape[2] // size
    return source if isinstance(heads, int) and source.shape[2] == heads * size and operand.shape[0] == source.shape[1] * heads else None


class MergedBatchAndHeads(Rule[Site]):
    """scaled_dot_product_attention between permutes and reshapes that merge batch and heads."""

    ops = frozenset({"scaled_dot_product_attention"})

    def match(self, node: Node) -> Site | NoMatch:
        """All three operands come from [L, B, H*D] with the same B and H, and one permute reads the result."""
        query, factor = _unscaled(node.value(0))
        if query.type.rank != 3:
            return UNRELATED
        if node.attrs["grouped"]:
            return NoMatch("its heads are grouped")
        sources = tuple(source for operand in (query, node.value(1), node.value(2)) if (source := _source(operand)) is not None)
        if len(sources) != 3:
            return UNRELATED
        after = only_reader(node.result)
        if after is None or after.op != "permute" or ints_of(after.attrs["axes"]) != _SWAP:
            return NoMatch("the result is not put back to [L, B*H, D] by one permute")
        size, batch = query.shape[2], sources[0].shape[1]
        assert isinstance(size, int), "sources are only found for whole sizes"
        heads = sources[0].shape[2] // size
        widths = (size, node.value(1).shape[2], node.value(2).shape[2])
        fitting = all(source.shape[1:] == (batch, heads * width) for source, width in zip(sources, widths, strict=True))
        if not isinstance(heads, int) or heads < 2 or not fitting:
            return UNRELATED
        mask = node.operands[3]
        if isinstance(mask, Value) and mask.type.rank > 2 and mask.shape[0] != 1:
            return NoMatch("the mask has its own numbers for each head of each sample")
        scale = size**-0.5 if node.attrs["scale"] is None else node.attrs["scale"]
        if not isinstance(scale, int | float):
            return NoMatch("its scale depends on a size")
        return Site(node, after, sources, heads, factor * scale)

    def rewrite(self, site: Site, rewriter: Rewriter) -> None:
        """Split, attend, and merge behind the permute."""
        node, operands = site.node, list(site.node.operands)
        for place, source in enumerate(site.sources):
            length, batch, width = source.shape
            split = rewriter.emit("reshape", source, before=node, shape=(length, batch, site.heads, width // site.heads))
            operands[place] = rewriter.emit("permute", split, before=node, axes=(1, 2, 0, 3))
        made = rewriter.create("scaled_dot_product_attention", tuple(operands), {**node.attrs, "scale": site.scale}, before=node)
        turned = rewriter.emit("permute", made.result, before=node, axes=(2, 0, 1, 3))
        merged = rewriter.emit("reshape", turned, before=node, shape=site.after.result.shape)
        rewriter.replace(site.after, merged)
        rewriter.erase_unused(node)


@dataclass(frozen=True)
class SplitAttentionHeads(RulePass):
    """Attention on [batch * heads, length, size] becomes attention on [batch, heads, length, size]."""

    name = "split-attention-heads"
    numeric = NumericClass.ROUNDING
    rules = (MergedBatchAndHeads(),)
