"""Fold batch norms into the convolutions and linear layers beside them.

    %conv = conv2d(%x, %w, %b) {...}
    %bn = batch_norm(%conv, %gamma, %beta, %mean, %var) {eps=1e-05, mode="follow", ...}
    -> %bn = conv2d(%x, %w_folded, %b_folded) {...}

    %bn = batch_norm(%x, ...)          %y = linear(%bn, %w, %b)
    -> %y = linear(%x, %w_folded, %b_folded)

At inference a batch norm is `scale * x + shift` with scale = gamma / sqrt(var + eps) and
shift = beta - mean * scale, for each channel. It goes up into the layer before it (any conv, transposed conv,
linear, norm or embedding, each branch of a concat on its own, through reshapes, permutes and average pools)
or, where that can't be, down into all the layers that read it; down through a zero padding only without shift.

Numeric class: rounding; weights are computed in float64 and rounded once. Stage: deploy, since the batch
statistics are gone. A batch norm that finds no layer stays: as mul and add it would be two nodes for one.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node
from graphopt.passes.remove.channel_affine import affine_of_batch_norm, unusable
from graphopt.passes.remove.push import Plan, build_down, build_up, plan_down, plan_up
from graphopt.passes.remove.states import drop_orphans, state_operands
from graphopt.pipeline.passes import NumericClass, RulePass, Stage
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import NoMatch, Rule

__all__ = ["BatchNormToWeights", "FoldBatchNorm", "Site"]


@dataclass(frozen=True, slots=True)
class Site:
    """A batch norm, and the layers that take it in: those before it (`up`) or those behind it."""

    norm: Node
    plan: Plan
    up: bool


class BatchNormToWeights(Rule[Site]):
    """Fold one batch norm into the layers before or behind it."""

    ops = frozenset({"batch_norm"})

    def match(self, node: Node) -> Site | NoMatch:
        """The layers that can take the batch norm in, or why none can."""
        affine = affine_of_batch_norm(node)
        if isinstance(affine, NoMatch):
            return affine
        graph = node.graph
        assert graph is not None, "rules see nodes that are in a graph"
        if (reason := unusable(affine, graph)) is not None:
            return reason
        up = plan_up(node.value(0), affine)
        if isinstance(up, Plan):
            return Site(node, up, up=True)
        down = plan_down(node.result, affine)
        if isinstance(down, Plan):
            return Site(node, down, up=False)
        return NoMatch(f"before it: {up.reason}; behind it: {down.reason}")

    def rewrite(self, site: Site, rewriter: Rewriter) -> None:
        """Make the layers again with folded weights, without the batch norm."""
        read = state_operands(site.norm, *(step.node for step in site.plan.steps))
        if site.up:
            build_up(rewriter, site.plan, site.norm)
        else:
            build_down(rewriter, site.plan, site.norm, site.norm.value(0))
        drop_orphans(rewriter, read)


@dataclass(frozen=True)
class FoldBatchNorm(RulePass):
    """Fold batch norms into the weights of the layers beside them."""

    name = "fold-batch-norm"
    numeric = NumericClass.ROUNDING
    stage = Stage.DEPLOY
    consumes = frozenset({"batch_norm"})
    rules = (BatchNormToWeights(),)
