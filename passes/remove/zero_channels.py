"""Which channels are zero whatever the input: a forward analysis over the numbers of the weights.

A layer's channel is zero when its weights are zero for every input channel that is not zero itself, and its bias is
zero. Ops with f(0) = 0 keep it, a batch norm keeps it when its shift is zero and makes it where scale and shift are.
"Whatever the input" means finite inputs: 0 * inf is NaN in torch and taken as 0 here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy
from numpy.typing import NDArray

from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.ops import ADAPTIVE_POOLS, AVERAGE_POOLS, MAX_POOLS
from graphopt.passes.remove.absorb import TRANSPOSED
from graphopt.passes.remove.channel_affine import affine_of_batch_norm
from graphopt.passes.remove.channel_classes import ChannelClasses, Kind, channel_axis_of_layer, kind_of
from graphopt.rewrite.rule import NoMatch

if TYPE_CHECKING:
    import torch

__all__ = ["ZeroChannels"]

Mask: TypeAlias = "NDArray[numpy.bool_]"
# fmt: off
_FROM_ZERO_TO_ZERO = frozenset({
    "relu", "silu", "tanh", "hardswish", "mish", "selu", "softsign", "neg", "abs", "sign", "expm1", "log1p", "sqrt", "square", "sin",
    "tan", "asin", "atan", "sinh", "asinh", "atanh", "erf", "floor", "ceil", "round", "trunc", "frac", "gelu", "elu", "celu",
    "leaky_relu", "hardshrink", "softshrink", "cast", "dropout", "feature_dropout", "permute", "reshape", "flip", "roll", "resize",
    "mean", "sum", "prod", "amax", "amin", "vector_norm",
})
# fmt: on
_POOLS = MAX_POOLS | AVERAGE_POOLS | ADAPTIVE_POOLS


class ZeroChannels:
    """Masks over the channels that `classes` tracks; only made where numbers are there."""

    def __init__(self, graph: Graph, classes: ChannelClasses) -> None:
        self._graph = graph
        self._classes = classes
        self._zeros: dict[Value, Mask] = {}
        self._columns: dict[Node, Mask] = {}
        for node in graph.nodes:
            if len(node.results) == 1 and classes.track(node.result) is not None:
                self._visit(node)
            elif kind_of(node) == Kind.LAYER:
                self._layer(node)

    def of(self, value: Value) -> Mask:
        """For each channel of a tracked value: known to be zero."""
        found = self._zeros.get(value)
        if found is None:
            track = self._classes.track(value)
            assert track is not None, "asked about tracked values only"
            found = numpy.zeros(len(track.classes), dtype=bool)
        return found

    def columns(self, layer: Node) -> Mask | None:
        """For each input channel of a layer: all its weights are zero. None where the weights have no numbers."""
        return self._columns.get(layer)

    def _numbers(self, operand: Operand) -> torch.Tensor | None:
        state = self._graph.state_of(operand)
        return None if state is None or state.data is None else state.data.tensor().detach()

    def _visit(self, node: Node) -> None:
        kind = kind_of(node)
        found = self._layer(node) if kind == Kind.LAYER else self._depthwise(node) if kind == Kind.DEPTHWISE else self._keeps(node)
        if found is not None and found.any():
            self._zeros[node.result] = found

    def _layer(self, node: Node) -> Mask | None:
        """Rows that are zero; columns are noted on the way."""
        weight = self._numbers(node.operands[1])
        if weight is None:
            return None
        filled = (weight != 0) if weight.dim() == 2 else (weight != 0).flatten(2).any(2)
        matrix = filled.t() if node.op in TRANSPOSED else filled  # [outputs, inputs]
        self._columns[node] = (~matrix.any(0)).cpu().numpy()
        track = self._classes.track(node.value(0))
        zeros = self._zeros.get(node.value(0))
        if zeros is not None and track is not None and track.axis == channel_axis_of_layer(node, node.value(0)):
            matrix = matrix[:, [not zero for zero in zeros.tolist()]]
        return self._without_bias(node, (~matrix.any(1)).cpu().numpy())

    def _without_bias(self, node: Node, rows: Mask) -> Mask | None:
        if node.operands[2] is None:
            return rows
        bias = self._numbers(node.operands[2])
        return None if bias is None else rows & (bias == 0).cpu().numpy()

    def _depthwise(self, node: Node) -> Mask | None:
        weight = self._numbers(node.operands[1])
        if weight is None:
            return None
        return self._without_bias(node, ~(weight != 0).flatten(1).any(1).cpu().numpy() | self.of(node.value(0)))

    def _keeps(self, node: Node) -> Mask | None:
        match node.op:
            case "batch_norm":
                return self._batch_norm(node)
            case "add" | "sub" | "maximum" | "minimum":
                return self._both(node)
            case "mul":
                masks = [self.of(o) for o in node.operands if isinstance(o, Value) and self._classes.track(o) is not None]
                return numpy.logical_or.reduce(masks)
            case "concat":
                return numpy.concatenate([self._part(operand, node) for operand in node.operands])
            case "clamp":
                low, high = node.attrs["minimum"], node.attrs["maximum"]
                keeps = not (isinstance(low, int | float) and low > 0) and not (isinstance(high, int | float) and high < 0)
                return self.of(node.value(0)) if keeps else None
            case "pad":
                padded = node.attrs["mode"] == "constant" and node.attrs["value"] != 0
                return None if padded else self.of(node.value(0))
            case op if op in _FROM_ZERO_TO_ZERO or op in _POOLS:
                return self.of(node.value(0))
            case _:
                return None

    def _batch_norm(self, node: Node) -> Mask | None:
        affine = affine_of_batch_norm(node)
        numbers = None if isinstance(affine, NoMatch) else affine.numbers(self._graph)
        if numbers is None:
            return None
        scale, shift = ((vector == 0).cpu().numpy() for vector in numbers)
        return shift & (scale | self.of(node.value(0)))

    def _both(self, node: Node) -> Mask | None:
        """Zero where both sides are; a literal counts by its number."""
        found: Mask | None = None
        for operand in node.operands:
            if isinstance(operand, Value):
                if self._classes.track(operand) is None:
                    return None
                mask = self.of(operand)
                found = mask if found is None else found & mask
            elif operand != 0:
                return None
        return found

    def _part(self, operand: Operand, node: Node) -> Mask:
        assert isinstance(operand, Value), "the op table promises values"
        if self._classes.track(operand) is not None:
            return self.of(operand)
        axis = node.attrs["axis"]
        size = operand.shape[axis] if isinstance(axis, int) else 0
        return numpy.zeros(size if isinstance(size, int) else 0, dtype=bool)
