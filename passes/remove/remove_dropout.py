"""Remove dropout from a graph that will only be used for inference.

    %y: f32[4] = dropout(%x) {mode="follow", p=0.5}
    -> every use of %y becomes %x

Numeric class: exact (in eval mode dropout returns its input). Stage: deploy, since training would lose
its regularisation. A dropout that is pinned to train mode draws numbers in inference too and stays.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node
from graphopt.passes.remove.common import Forward, LocalRule, forward
from graphopt.pipeline.passes import NumericClass, RulePass, Stage
from graphopt.rewrite.rule import NoMatch

__all__ = ["RemoveDropout"]


class DropoutToInput(LocalRule):
    """Forward the input of a dropout that inference skips."""

    ops = frozenset({"dropout", "feature_dropout", "alpha_dropout"})

    def match(self, node: Node) -> Forward | NoMatch:
        """Any dropout that is not pinned to train mode."""
        if node.attrs["mode"] == "train":
            return NoMatch('mode is "train", which draws random numbers in inference too; needs "follow" or "eval"')
        return forward(node, node.operands[0])


@dataclass(frozen=True)
class RemoveDropout(RulePass):
    """Drop dropout, feature dropout and alpha dropout."""

    name = "remove-dropout"
    numeric = NumericClass.EXACT
    stage = Stage.DEPLOY
    rules = (DropoutToInput(),)
