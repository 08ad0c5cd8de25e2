"""Which channels of which values have to stay or go together.

    %a = conv2d(%x, ...)   %b = relu(%a)   %c = batch_norm(%b, ...)   %d = add(%c, %e)   %y = conv2d(%d, ...)

Channel i of %a, %b, %c, %d and %e is one *class*: it can only be taken out of all of them. A class starts at a
layer that makes channels (its output rows) and ends at layers that read them (their input columns). Any op that
is not known to keep channels apart pins the classes that it reads and makes. Numbers of classes are numpy arrays,
one entry per channel, joined by a union-find.

`graphopt.analysis.axes` answers a question of the same kind, and is not used here, for three reasons. Which channels are
zero has to be followed through values that can't be cut too, as an output that another layer reads, and the general
analysis drops axes that are fixed. It chooses one digit of a reshape or a grouped convolution for the whole graph by
preference, which may be one along which nothing is zero; here an op keeps channels apart or pins them, and there is
nothing to prefer. And this one looks at one axis of each value instead of all, for it runs in every round of `lossless`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy
from numpy.typing import NDArray

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops import ADAPTIVE_POOLS, AVERAGE_POOLS, BINARY, MAX_POOLS, REDUCTIONS, UNARY
from graphopt.passes.remove.absorb import CONVOLUTIONS, TRANSPOSED
from graphopt.passes.remove.common import ints_of, tuple_of

__all__ = ["ChannelClasses", "Kind", "Track", "channel_axis_of_layer", "kind_of"]

Indices: TypeAlias = "NDArray[numpy.int64]"
_POOLS = MAX_POOLS | AVERAGE_POOLS | ADAPTIVE_POOLS
_KEEPING = frozenset({"dropout", "feature_dropout", "flip", "roll"})


@dataclass(frozen=True, slots=True)
class Track:
    """The channels of one value: along which axis, and the class of each."""

    axis: int
    classes: Indices


class Kind:
    """How an op treats channels: it makes new ones (`LAYER`), keeps them (`DEPTHWISE`, `CHANNELWISE`), or neither (`OPAQUE`)."""

    LAYER = "layer"
    DEPTHWISE = "depthwise"
    CHANNELWISE = "channelwise"
    OPAQUE = "opaque"


def kind_of(node: Node) -> str:
    """Which of the kinds a node is; of a channelwise one, only whether its op may be."""
    graph = node.graph
    assert graph is not None, "questions are about nodes in a graph"
    if node.op == "linear" or node.op in CONVOLUTIONS or node.op in TRANSPOSED:
        if any(operand is not None and graph.state_of(operand) is None for operand in node.operands[1:3]):
            return Kind.OPAQUE
        groups = node.attrs.get("groups", 1)
        if groups == 1:
            return Kind.LAYER
        weight = node.value(1).type.static_shape
        depthwise = node.op in CONVOLUTIONS and weight[1] == 1 and weight[0] == groups
        return Kind.DEPTHWISE if depthwise else Kind.OPAQUE
    if node.op in UNARY or node.op in BINARY or node.op in _POOLS or node.op in _KEEPING or node.op in REDUCTIONS:
        return Kind.CHANNELWISE
    return Kind.CHANNELWISE if node.op in ("batch_norm", "concat", "reshape", "permute", "resize", "pad") else Kind.OPAQUE


def channel_axis_of_layer(node: Node, value: Value) -> int:
    """The axis of the operand or result of a layer that holds channels."""
    spatial = CONVOLUTIONS.get(node.op) or TRANSPOSED.get(node.op) or 0
    return len(value.shape) - 1 - spatial


class ChannelClasses:
    """Classes of all channels of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._parent: list[int] = []
        self._pinned: set[int] = set()
        self._tracks: dict[Value, Track] = {}
        self.blocked: dict[Value, str] = {}
        """Values whose channels are pinned, and by what."""
        for node in graph.nodes:
            self._visit(node)
        for operand in graph.outputs:
            if isinstance(operand, Value):
                self._pin(operand, f"%{operand.name} is an output")

    def track(self, value: Value) -> Track | None:
        """The channels of a value; None where nothing is known of them."""
        return self._tracks.get(value)

    def roots(self, track: Track) -> Indices:
        """The class that stands for each channel."""
        return numpy.array([self._find(int(number)) for number in track.classes], dtype=numpy.int64)

    def is_pinned(self) -> NDArray[numpy.bool_]:
        """For each class number that stands for a class: whether it has to stay."""
        pinned = numpy.zeros(len(self._parent), dtype=bool)
        for number in self._pinned:
            pinned[self._find(number)] = True
        return pinned

    def _find(self, number: int) -> int:
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def _fresh(self, count: int) -> Indices:
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return numpy.arange(start, start + count, dtype=numpy.int64)

    def _join(self, left: Indices, right: Indices) -> None:
        if left is right:
            return
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            self._parent[self._find(one)] = self._find(other)

    def _pin(self, value: Value, reason: str) -> None:
        track = self._tracks.get(value)
        if track is not None:
            self._pinned.update(track.classes.tolist())
            self.blocked.setdefault(value, reason)

    def _visit(self, node: Node) -> None:
        kind = kind_of(node)
        if kind == Kind.LAYER:
            self._layer(node)
            return
        track: Track | None = None
        if kind == Kind.DEPTHWISE:
            track = self._tracks.get(node.value(0))
            if track is not None and track.axis != channel_axis_of_layer(node, node.value(0)):
                track = None
        elif kind == Kind.CHANNELWISE and len(node.results) == 1:
            track = self._channelwise(node)
        if track is not None:
            self._tracks[node.result] = track
            return
        for operand in node.operands:
            if isinstance(operand, Value):
                self._pin(operand, f"%{node.name} is a {node.op} that mixes them" if node.op != "return" else "is an output")

    def _layer(self, node: Node) -> None:
        x = node.value(0)
        track = self._tracks.get(x)
        if track is not None and track.axis != channel_axis_of_layer(node, x):
            self._pin(x, f"%{node.name} reads them along another axis")
        axis = channel_axis_of_layer(node, node.result)
        size = node.result.shape[axis]
        if isinstance(size, int):
            self._tracks[node.result] = Track(axis, self._fresh(size))

    def _channelwise(self, node: Node) -> Track | None:
        if node.op in BINARY or node.op == "concat":
            return self._binary(node) if node.op in BINARY else self._concat(node)
        track = self._tracks.get(node.operands[0]) if isinstance(node.operands[0], Value) else None
        if track is None:
            return None
        axis = self._axis_behind(node, track.axis)
        return None if axis is None else Track(axis, track.classes)

    def _axis_behind(self, node: Node, axis: int) -> int | None:
        """Where the channels are behind a one-operand op; None where it mixes them."""
        inner, outer = node.value(0).shape, node.result.shape
        op = node.op
        if op in UNARY or op in ("dropout", "feature_dropout"):
            return axis
        if op in _POOLS:
            return axis if axis < len(inner) - int(op[-2]) else None
        if op in ("flip", "roll"):
            return None if axis in tuple_of(node.attrs["axes"]) else axis
        if op == "batch_norm":
            known = all(o is None or (self._graph.state_of(o) is not None) for o in node.operands[1:])
            return axis if axis == 1 and known and node.operands[3] is not None else None
        if op == "permute":
            return ints_of(node.attrs["axes"]).index(axis)
        if op == "resize":
            return axis if axis < 2 else None
        if op == "pad":
            pads = tuple_of(node.attrs["pads"])
            return axis if all(end == 0 for end in tuple_of(pads[axis])) else None
        if op in REDUCTIONS:
            axes = ints_of(node.attrs["axes"])
            return None if axis in axes else axis if node.attrs["keepdims"] else axis - sum(gone < axis for gone in axes)
        return _reshaped_axis(inner, outer, axis) if op == "reshape" else None

    def _binary(self, node: Node) -> Track | None:
        rank = len(node.result.shape)
        found: Track | None = None
        for operand in node.operands:
            track = self._tracks.get(operand) if isinstance(operand, Value) else None
            if track is None or not isinstance(operand, Value):
                continue
            aligned = track.axis + rank - len(operand.shape)
            if len(track.classes) != node.result.shape[aligned] or (found is not None and found.axis != aligned):
                return None
            if found is not None:
                self._join(found.classes, track.classes)
            found = found or Track(aligned, track.classes)
        if found is None:
            return None
        for operand in node.operands:
            if isinstance(operand, Value) and operand not in self._tracks and not self._follows(operand, found, rank):
                return None
        return found

    def _follows(self, operand: Value, track: Track, rank: int) -> bool:
        """True when an operand without channels is one number per channel or fewer: a state, or broadcast over them."""
        axis = track.axis - (rank - len(operand.shape))
        return axis < 0 or operand.shape[axis] == 1 or self._graph.state_of(operand) is not None

    def _concat(self, node: Node) -> Track | None:
        axis = node.attrs["axis"]
        tracks = [self._tracks.get(operand) if isinstance(operand, Value) else None for operand in node.operands]
        known = [track for track in tracks if track is not None]
        if not known or not isinstance(axis, int):
            return None
        if any(track.axis != axis for track in known):
            return None
        parts: list[Indices] = []
        for operand, track in zip(node.operands, tracks, strict=True):
            if track is None:
                size = operand.shape[axis] if isinstance(operand, Value) else None
                if not isinstance(size, int):
                    return None
                fresh = self._fresh(size)
                self._pinned.update(fresh.tolist())
                parts.append(fresh)
            else:
                parts.append(track.classes)
        return Track(axis, numpy.concatenate(parts))


def _reshaped_axis(inner: tuple[Dim, ...], outer: tuple[Dim, ...], axis: int) -> int | None:
    """Where a whole axis goes in a reshape; None where it is torn or merged with others."""
    from graphopt.passes.remove.channel_affine import map_axis

    place = map_axis(inner, outer, axis)
    return place[0] if place is not None and place[1:] == (1, 1) else None
