"""Take out channels that are zero, or that nobody looks at.

    %a = conv2d(%x, %w1, none)   rows 2 and 5 of %w1 are zero        f32[1,8,6,6]
    %b = relu(%a)
    %y = conv2d(%b, %w2, none)   column 7 of %w2 is zero
    -> %a: f32[1,5,6,6] = conv2d(%x, %w1_folded, none)     without rows 2, 5 and 7
       %b: f32[1,5,6,6] = relu(%a)
       %y = conv2d(%b, %w2_folded, none)                   without columns 2, 5 and 7

Channels padded with zeros to a multiple of eight and channels that pruning has zeroed go this way. A channel goes
through batch norms, elementwise ops, pools, depthwise convolutions, concats and residual additions, and is taken
out only where every layer that reads it reads a zero or multiplies it by zero.

Numeric class: rounding; terms 0 * x are left out, which is the same for finite x (0 * inf and 0 * nan are NaN), and
sums of fewer terms may round in another order. Stage: deploy; a zero weight can still learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy
from numpy.typing import NDArray

from graphopt.analysis.sparsity_patterns import sparsity_left
from graphopt.analysis.table import counted
from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Graph, Node, Operand, State, Value
from graphopt.ir.types import TensorType
from graphopt.ops import BINARY
from graphopt.passes.remove.absorb import TRANSPOSED, folded_name
from graphopt.passes.remove.channel_classes import ChannelClasses, Kind, channel_axis_of_layer, kind_of
from graphopt.passes.remove.states import drop_orphans, state_operands
from graphopt.passes.remove.zero_channels import ZeroChannels
from graphopt.pipeline.passes import NumericClass, Outcome, Pass, Stage
from graphopt.rewrite.rewriter import Rewriter

if TYPE_CHECKING:
    import torch

__all__ = ["RemoveZeroChannels"]

Mask: TypeAlias = "NDArray[numpy.bool_]"

_SHOWN = 8
"""Channels that a reason names; a layer may have thousands."""


@dataclass(frozen=True)
class RemoveZeroChannels(Pass):
    """Take out channels that are zero or never read, and the weights that belong to them."""

    name = "remove-zero-channels"
    numeric = NumericClass.ROUNDING
    stage = Stage.DEPLOY

    def apply(self, rewriter: Rewriter) -> Outcome:
        """Find the channels, then make every node that has them again."""
        graph = rewriter.graph
        classes = ChannelClasses(graph)
        zeros = ZeroChannels(graph, classes)
        removable = _removable(graph, classes, zeros)
        skipped = tuple(_reasons(graph, classes, zeros, removable))
        if not removable.any():
            return Outcome(0, skipped)
        count = int(removable.sum())
        _Surgeon(rewriter, classes, removable).operate()
        return Outcome(count, skipped, (f"{counted(count, 'channel')} taken out",))


def _removable(graph: Graph, classes: ChannelClasses, zeros: ZeroChannels) -> Mask:
    """For each class: it may go."""
    pinned = classes.is_pinned()
    removable = numpy.zeros(len(pinned), dtype=bool)
    needed = pinned
    for node in graph.nodes:
        track = classes.track(node.value(0)) if kind_of(node) == Kind.LAYER else None
        if track is None or track.axis != channel_axis_of_layer(node, node.value(0)):
            continue  # along another axis the layer reads all of them, which the classes know
        roots = classes.roots(track)
        columns = zeros.columns(node)
        unread = zeros.of(node.value(0)) if columns is None else zeros.of(node.value(0)) | columns
        removable[roots] = True
        needed[roots[~unread]] = True
    removable &= ~needed
    if removable.any():
        _keep_one(graph, classes, removable)
    return removable


def _keep_one(graph: Graph, classes: ChannelClasses, removable: Mask) -> None:
    """Leave every value at least one channel: a tensor without any is legal and slow to reason about."""
    changed = True
    while changed:
        changed = False
        for node in graph.nodes:
            track = classes.track(node.results[0]) if node.results else None
            if track is not None and len(track.classes) and (roots := classes.roots(track)).size and removable[roots].all():
                removable[roots[0]] = False
                changed = True


def _reasons(graph: Graph, classes: ChannelClasses, zeros: ZeroChannels, removable: Mask) -> list[tuple[str, str]]:
    """For each layer with zero channels that stay: why."""
    by_class: dict[int, str] = {}
    for value, reason in classes.blocked.items():
        track = classes.track(value)
        if track is not None and len(track.classes):
            for root in classes.roots(track).tolist():
                by_class.setdefault(root, reason)
    found: list[tuple[str, str]] = []
    for node in graph.nodes:
        track = classes.track(node.results[0]) if node.results else None
        if track is None or kind_of(node) != Kind.LAYER or not zeros.of(node.result).any():
            continue
        roots = classes.roots(track)
        staying = zeros.of(node.result) & ~removable[roots]
        if staying.any():
            channels: list[int] = staying.nonzero()[0].tolist()
            they, are, ones = ("them", "they are", "ones") if len(channels) > 1 else ("it", "it is", "one")
            read = f"a layer reads {they} where {are} no longer zero, or {are} the only {ones}"
            why = by_class.get(int(roots[channels[0]]), read)
            found.append((node.name, f"{_listed(channels)} zero, but {why}"))
    return found


def _listed(channels: list[int]) -> str:
    if len(channels) == 1:
        return f"channel {channels[0]} is"
    more = f" and {len(channels) - _SHOWN} more" if len(channels) > _SHOWN else ""
    return f"channels {', '.join(map(str, channels[:_SHOWN]))}{more} are"


class _Surgeon:
    """Makes the nodes again whose values lose channels."""

    def __init__(self, rewriter: Rewriter, classes: ChannelClasses, removable: Mask) -> None:
        self._rewriter = rewriter
        self._classes = classes
        self._removable = removable
        self._new: dict[Value, Value] = {}
        self._slices: dict[tuple[str, int, bytes], Value] = {}
        self._states: dict[str, State] = {}

    def operate(self) -> None:
        """Go through the graph once, then remove what is no longer read."""
        old: list[Node] = []
        for node in list(self._rewriter.graph.nodes):
            keep = self._kept(node.result) if len(node.results) == 1 else None
            if keep is None and not any(isinstance(operand, Value) and operand in self._new for operand in node.operands):
                continue
            self._states.update((state.name, state) for state in state_operands(node))
            made = self._make(node, keep)
            if keep is None:
                self._rewriter.replace(node, made.result)
            else:
                self._new[node.result] = made.result
                old.append(node)
        self._rewriter.erase_unused(*reversed(old))
        drop_orphans(self._rewriter, self._states.values())

    def _kept(self, value: Value) -> Mask | None:
        """The channels that stay; None where all do."""
        track = self._classes.track(value)
        if track is None or not len(track.classes):
            return None
        keep = ~self._removable[self._classes.roots(track)]
        return None if keep.all() else keep

    def _make(self, node: Node, keep: Mask | None) -> Node:
        operands: list[Operand] = [self._new.get(o, o) if isinstance(o, Value) else o for o in node.operands]
        attrs: dict[str, Attribute] = dict(node.attrs)
        kind = kind_of(node)
        track = self._classes.track(node.result)
        if kind == Kind.LAYER:
            self._slice_layer(node, operands, keep)
        elif kind == Kind.DEPTHWISE and keep is not None:
            operands[1:3] = [self._slice(operand, 0, keep) for operand in operands[1:3]]
            attrs["groups"] = int(keep.sum())
        elif node.op == "batch_norm" and keep is not None:
            operands[1:5] = [self._slice(operand, 0, keep) for operand in operands[1:5]]
        elif node.op in BINARY and keep is not None and track is not None:
            rank = len(node.result.shape)
            for index, operand in enumerate(operands):
                if isinstance(operand, Value) and self._rewriter.graph.state_of(operand) is not None:
                    operands[index] = self._slice(operand, track.axis - rank + len(operand.shape), keep)
        elif node.op == "reshape" and keep is not None and track is not None:
            shape = list(node.result.shape)
            shape[track.axis] = int(keep.sum())
            attrs["shape"] = tuple(shape)
        return self._rewriter.create(node.op, operands, attrs, before=node, name=None if keep is None else node.name, source=node.source)

    def _slice_layer(self, node: Node, operands: list[Operand], keep: Mask | None) -> None:
        rows, columns = (1, 0) if node.op in TRANSPOSED else (0, 1)
        inputs = self._kept(node.value(0))
        if inputs is not None:
            operands[1] = self._slice(operands[1], columns, inputs)
        if keep is not None:
            operands[1] = self._slice(operands[1], rows, keep)
            operands[2] = self._slice(operands[2], 0, keep)

    def _slice(self, operand: Operand, axis: int, keep: Mask) -> Operand:
        """A state without the channels that go; made once for all that need the same."""
        state = self._rewriter.graph.state_of(operand)
        if state is None or axis < 0 or state.type.shape[axis] == 1 != len(keep):
            return operand
        key = (state.name, axis, keep.tobytes())
        if key not in self._slices:
            shape = list(state.type.static_shape)
            shape[axis] = int(keep.sum())
            self._states[state.name] = state
            take = _taker(axis, keep)
            type_ = TensorType(state.type.dtype, tuple(shape), sparsity_left(state, take))
            self._slices[key] = self._rewriter.derive(
                folded_name(state.name), take, (state.value,), type_, exact=True, kind=state.kind, trainable=state.trainable
            )
        return self._slices[key]


def _taker(axis: int, keep: Mask) -> Callable[[torch.Tensor], torch.Tensor]:
    """Picks the kept indices along an axis."""
    indices: list[int] = keep.nonzero()[0].tolist()

    def take(tensor: torch.Tensor) -> torch.Tensor:
        import torch

        return tensor.index_select(axis, torch.tensor(indices, dtype=torch.int64, device=tensor.device))

    return take
