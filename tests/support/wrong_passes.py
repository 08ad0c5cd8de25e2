"""Passes that are wrong on purpose, one kind of mistake each: the net that catches them is what is tested.

Each rewrites the graph of `NETWORK`, and each declares something it does not keep.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from graphopt.ir.graph import Node
from graphopt.ir.types import DType
from graphopt.pipeline.passes import NumericClass, Outcome, Pass, Stage
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["NETWORK", "WRONG_PASSES"]

NETWORK = """graph net(%x: f32[2,3,8,8]) {
  param %conv.weight: f32[4,3,3,3]
  param %conv.bias: f32[4]
  param %tied: f32[16,16] tied ("head.weight",)
  param %head.bias: f32[16]
  %conv: f32[2,4,8,8] = conv2d(%x, %conv.weight, %conv.bias) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
  %act: f32[2,4,8,8] = relu(%conv)
  %pool: f32[2,4,2,2] = max_pool2d(%act) {ceil_mode=false, dilation=(1, 1), kernel=(4, 4), padding=(0, 0), stride=(4, 4)}
  %flat: f32[2,16] = reshape(%pool) {shape=(2, 16)}
  %soft: f32[2,16] = softmax(%flat) {axis=1}
  %zero: f32[2,3,8,8] = mul(%x, 0.0)
  %rest: f32[2] = sum(%zero) {axes=(1, 2, 3), keepdims=false}
  %fc: f32[2,16] = linear(%soft, %tied, none)
  %drop: f32[2,16] = dropout(%fc) {mode="follow", p=0.5}
  %head: f32[2,16] = linear(%drop, %tied, %head.bias)
  return %head, %rest
}
"""


def _node(rewriter: Rewriter, op: str) -> Node:
    return next(node for node in rewriter.graph.nodes if node.op == op)


def _remake(rewriter: Rewriter, node: Node, operands: tuple[Any, ...] | None = None, **attrs: Any) -> Outcome:
    """The node again with other operands or attributes."""
    made = rewriter.create(node.op, operands or node.operands, {**node.attrs, **attrs}, before=node)
    rewriter.replace(node, *made.results)
    return Outcome(1)


@dataclass(frozen=True)
class DropBias(Pass):
    """Forgets a bias."""

    name = "wrong-drop-bias"
    numeric = NumericClass.ROUNDING

    def apply(self, rewriter: Rewriter) -> Outcome:
        node = _node(rewriter, "conv2d")
        return _remake(rewriter, node, (*node.operands[:2], None))


@dataclass(frozen=True)
class WrongAxis(Pass):
    """Normalises along the other axis."""

    name = "wrong-axis"
    numeric = NumericClass.EXACT

    def apply(self, rewriter: Rewriter) -> Outcome:
        return _remake(rewriter, _node(rewriter, "softmax"), axis=0)


@dataclass(frozen=True)
class ShiftedPad(Pass):
    """Pads one side by one more and cuts it off at the wrong end."""

    name = "wrong-pad"
    numeric = NumericClass.ROUNDING

    def apply(self, rewriter: Rewriter) -> Outcome:
        node = _node(rewriter, "conv2d")
        padded = rewriter.emit("pad", node.operands[0], before=node, pads=((0, 0), (0, 0), (2, 0), (1, 1)), mode="constant", value=0.0)
        return _remake(rewriter, node, (padded, *node.operands[1:]), padding=(0, 0))


@dataclass(frozen=True)
class FoldNaN(Pass):
    """Folds `x * 0` to 0, which it is not for NaN, infinities and negative numbers."""

    name = "wrong-fold-nan"
    numeric = NumericClass.EXACT

    def apply(self, rewriter: Rewriter) -> Outcome:
        node = _node(rewriter, "mul")
        type_ = node.result.type
        rewriter.replace(node, rewriter.emit("full", before=node, shape=type_.shape, value=0.0, dtype=type_.dtype))
        return Outcome(1)


@dataclass(frozen=True)
class FoldNaNByAbs(Pass):
    """Hides the sign that gives `FoldNaN` away: right on all finite inputs, wrong on NaN and infinities."""

    name = "wrong-fold-special"
    numeric = NumericClass.EXACT

    def apply(self, rewriter: Rewriter) -> Outcome:
        node = _node(rewriter, "sum")
        type_ = node.result.type
        rewriter.replace(node, rewriter.emit("full", before=node, shape=type_.shape, value=0.0, dtype=type_.dtype))
        return Outcome(1)


@dataclass(frozen=True)
class WrongDType(Pass):
    """Goes through half precision."""

    name = "wrong-dtype"
    numeric = NumericClass.ROUNDING

    def apply(self, rewriter: Rewriter) -> Outcome:
        node = _node(rewriter, "softmax")
        half = rewriter.emit("cast", node.operands[0], before=node, dtype=DType.f16)
        made = rewriter.create("softmax", (half,), node.attrs, before=node, types=(node.result.type,))
        rewriter.replace(node, made.result)
        return Outcome(1)


@dataclass(frozen=True)
class BrokenUse(Pass):
    """Reads a value before it is computed."""

    name = "wrong-use"
    numeric = NumericClass.EXACT

    def apply(self, rewriter: Rewriter) -> Outcome:
        late = rewriter.graph.value("head")
        rewriter.set_operand(_node(rewriter, "dropout"), 0, late)
        return Outcome(1)


@dataclass(frozen=True)
class BreakTie(Pass):
    """Gives one of two tied layers a parameter of its own."""

    name = "wrong-tie"
    numeric = NumericClass.EXACT

    def apply(self, rewriter: Rewriter) -> Outcome:
        tied = rewriter.graph.states["tied"]
        copy = rewriter.derive("head.weight", torch.clone, [tied.value], tied.type, exact=True)
        rewriter.update_state(replace(tied, tied=()))
        rewriter.set_operand(_node(rewriter, "linear"), 1, copy)
        return Outcome(1)


@dataclass(frozen=True)
class WrongName(Pass):
    """Renames the input, so that calls by keyword fail."""

    name = "wrong-name"
    numeric = NumericClass.EXACT

    def apply(self, rewriter: Rewriter) -> Outcome:
        rewriter.rename(rewriter.graph.inputs[0], "input_1")
        return Outcome(1)


@dataclass(frozen=True)
class WrongStage(Pass):
    """Calls itself training-safe and removes dropout."""

    name = "wrong-stage"
    numeric = NumericClass.EXACT
    stage = Stage.TRAINING_SAFE

    def apply(self, rewriter: Rewriter) -> Outcome:
        node = _node(rewriter, "dropout")
        rewriter.replace(node, node.operands[0])
        return Outcome(1)


@dataclass(frozen=True)
class SwapOutputs(Pass):
    """Returns something else than before, by way of the outputs."""

    name = "wrong-output"
    numeric = NumericClass.EXACT

    def apply(self, rewriter: Rewriter) -> Outcome:
        rewriter.set_outputs((rewriter.graph.value("drop"), rewriter.graph.value("rest")))
        return Outcome(1)


def _nearly(tensor: torch.Tensor) -> torch.Tensor:
    return tensor * torch.tensor(1.000001, dtype=tensor.dtype)


@dataclass(frozen=True)
class WrongWeights(Pass):
    """Derives a weight that is off by one part in a million."""

    name = "wrong-weights"
    numeric = NumericClass.ROUNDING
    stage = Stage.DEPLOY

    def apply(self, rewriter: Rewriter) -> Outcome:
        node = _node(rewriter, "conv2d")
        weight = node.value(1)
        scaled = rewriter.derive("scaled", _nearly, [weight], weight.type)
        return _remake(rewriter, node, (node.operands[0], scaled, *node.operands[2:]))


@dataclass(frozen=True)
class Raises(Pass):
    """Fails half-way through its edits."""

    name = "wrong-raise"
    numeric = NumericClass.EXACT

    def apply(self, rewriter: Rewriter) -> Outcome:
        _remake(rewriter, _node(rewriter, "softmax"), axis=0)
        raise ZeroDivisionError("of the pass's own making")


WRONG_PASSES: tuple[Pass, ...] = (
    DropBias(),
    WrongAxis(),
    ShiftedPad(),
    FoldNaN(),
    FoldNaNByAbs(),
    WrongDType(),
    BrokenUse(),
    BreakTie(),
    WrongName(),
    WrongStage(),
    SwapOutputs(),
    WrongWeights(),
    Raises(),
)
