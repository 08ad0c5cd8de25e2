"""Merge multiplications and additions of constants into the layers beside them, or into each other.

    %linear = linear(%x, %w, %b)       %scaled = mul(%linear, %gamma)
    -> %scaled = linear(%x, %w_folded, %b_folded)

    %shifted = add(%x, %c)             %conv = conv2d(%shifted, %w, none) {padding=(0, 0), ...}
    -> %conv = conv2d(%x, %w, %b_folded) {...}

    %a = mul(%x, 2.0)    %b = add(%a, 1.0)    %c = mul(%b, 0.5)
    -> %c = add(%x, 0.5)

A chain of `add`, `sub`, `mul`, `div` whose other operand is a literal or a state that varies along one axis at
most is one map `scale * x + shift` (layer scale, scaled queries, input normalisation). It moves as a batch norm
does in `fold-batch-norm`; where no layer takes it, a chain of more than two nodes becomes `mul` and `add`.

Numeric class: rounding; numbers are computed in float64 and rounded once. Stage: deploy, since a folded scale
trains differently.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.ir.graph import Node, Operand, Value
from graphopt.ir.types import TensorType
from graphopt.passes.remove.absorb import folded_name
from graphopt.passes.remove.channel_affine import ChannelAffine, affine_of_elementwise, unusable
from graphopt.passes.remove.push import Plan, build_down, build_up, plan_down, plan_up
from graphopt.passes.remove.states import drop_orphans, state_operands
from graphopt.pipeline.passes import NumericClass, RulePass, Stage
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

if TYPE_CHECKING:
    import torch

__all__ = ["AffineToWeights", "MergeAffine", "Site"]


@dataclass(frozen=True, slots=True)
class Site:
    """A chain of affine nodes from first to last, its input and map, and where the map goes.

    `plan` is None where the chain itself becomes shorter.
    """

    chain: tuple[Node, ...]
    x: Value
    affine: ChannelAffine
    plan: Plan | None
    up: bool


@dataclass(frozen=True, slots=True)
class AffineToWeights(Rule[Site]):
    """Fold a chain of affine nodes into layers, or into two nodes.

    `copy_bytes` is the largest weight that gets a copy of its own when another node reads it too.
    """

    copy_bytes: int

    ops = frozenset({"add", "sub", "mul", "div"})

    def match(self, node: Node) -> Site | NoMatch:
        """The chain that ends at `node`, and what can take it in."""
        graph = node.graph
        assert graph is not None, "rules see nodes that are in a graph"
        found = affine_of_elementwise(node)
        if found is None or _continues(node, found[1]):
            return UNRELATED
        chain, x, affine = _chain(node, *found)
        if (reason := unusable(affine, graph)) is not None:
            return reason
        up = plan_up(x, affine, copy_bytes=self.copy_bytes)
        if isinstance(up, Plan):
            return Site(chain, x, affine, up, up=True)
        down = plan_down(node.result, affine, copy_bytes=self.copy_bytes)
        if isinstance(down, Plan):
            return Site(chain, x, affine, down, up=False)
        if len(chain) > affine.has_scale + affine.has_shift:
            return Site(chain, x, affine, None, up=False)
        return NoMatch(f"before it: {up.reason}; behind it: {down.reason}")

    def rewrite(self, site: Site, rewriter: Rewriter) -> None:
        """Make the layers again without the chain, or the chain shorter."""
        layers = [step.node for step in site.plan.steps] if site.plan is not None else []
        read = state_operands(*site.chain, *layers)
        last = site.chain[-1]
        if site.plan is None:
            _shorten(site, rewriter)
        elif site.up:
            build_up(rewriter, site.plan, last)
        else:
            build_down(rewriter, site.plan, last, site.x)
        rewriter.erase_unused(*reversed(site.chain))
        drop_orphans(rewriter, read)


@dataclass(frozen=True)
class MergeAffine(RulePass):
    """Merge multiplications and additions of constants into layers and into each other.

    A weight that another node reads too is copied up to `max_copy_bytes`.
    """

    name = "merge-affine"
    numeric = NumericClass.ROUNDING
    stage = Stage.DEPLOY

    max_copy_bytes: int = field(default=1 << 20, metadata={"minimum": 0, "help": "largest shared weight that may be copied"})

    def active_rules(self) -> tuple[AffineToWeights]:
        """The rule, with the option in it."""
        return (AffineToWeights(self.max_copy_bytes),)


def _continues(node: Node, affine: ChannelAffine) -> bool:
    """True when the chain goes on behind the node, so that a later node stands for it."""
    if node.result.use_count != 1 or node.result.users[0].is_return:
        return False
    following = affine_of_elementwise(node.result.users[0])
    return following is not None and following[0] is node.result and affine.then(following[1]) is not None


def _chain(node: Node, x: Value, affine: ChannelAffine) -> tuple[tuple[Node, ...], Value, ChannelAffine]:
    """The longest chain of affine nodes that ends at `node`, its input and its map."""
    nodes = [node]
    maps = [affine]
    axis = affine
    while x.use_count == 1 and x.producer is not None:
        found = affine_of_elementwise(x.producer)
        joined = None if found is None else found[1].then(axis)
        if found is None or joined is None:
            break
        nodes.append(x.producer)
        maps.append(found[1])
        x = found[0]
        axis = found[1] if axis.axis is None else axis
    return tuple(reversed(nodes)), x, _compose(maps[::-1])


def _compose(maps: list[ChannelAffine]) -> ChannelAffine:
    """One map for a chain of maps, first to last; flat, so that a long chain is no deep one."""
    if len(maps) == 1:
        return maps[0]
    wide = next((item for item in maps if item.axis is not None), maps[0])
    counts = [len(item.sources) for item in maps]
    functions = [item.compute for item in maps]

    def compute(*sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        start = counts[0]
        scale, shift = functions[0](*sources[:start])
        for count, function in zip(counts[1:], functions[1:], strict=True):
            factor, term = function(*sources[start : start + count])
            scale, shift = scale * factor, shift * factor + term
            start += count
        return scale, shift

    flags = (any(item.has_scale for item in maps), any(item.has_shift for item in maps))
    return ChannelAffine(tuple(source for item in maps for source in item.sources), compute, wide.axis, wide.length, *flags)


def _shorten(site: Site, rewriter: Rewriter) -> None:
    """The chain as `mul` and `add`."""
    last, affine = site.chain[-1], site.affine
    value = site.x
    for op, wanted, part, neutral in (("mul", affine.has_scale, 0, 1.0), ("add", affine.has_shift, 1, 0.0)):
        if wanted and (constant := _constant(site, rewriter, op, part)) != neutral:
            value = rewriter.emit(op, value, constant, before=last)
    rewriter.replace(last, value)


def _constant(site: Site, rewriter: Rewriter, op: str, part: int) -> Operand:
    """The scale (part 0) or shift (part 1) as a literal where it came from literals, else as a new state."""
    affine, last = site.affine, site.chain[-1]
    if not affine.sources:
        return float(affine.compute()[part])
    shape = (affine.length, *[1] * (len(site.x.shape) - 1 - affine.axis)) if affine.axis is not None else ()

    def numbers(*sources: torch.Tensor) -> torch.Tensor:
        return affine.compute(*sources)[part].expand(affine.length if affine.axis is not None else ()).reshape(shape)

    type_ = TensorType(last.result.type.dtype, shape)
    trainable = any(state.trainable for source in affine.sources if (state := rewriter.graph.state_of(source)) is not None)
    kinds = {state.kind for source in affine.sources if (state := rewriter.graph.state_of(source)) is not None}
    kind = "param" if "param" in kinds else "constant"
    return rewriter.derive(folded_name(f"{last.name}.{op}"), numbers, affine.sources, type_, kind=kind, trainable=trainable)
