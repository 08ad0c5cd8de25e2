"""What a cut changed: which layers read other values than before, and which positions of their results are left.

before:  %c = conv2d(%x, %w1)   %y = linear(%c, %w2)
after:   %c = conv2d(%x, %w1)   fewer rows of %w1: what is left of %c is as it was
         %y = linear(%c, %w2)   reads less than before: has to make up for it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch

from graphopt.analysis.axes.bundles import Bundles
from graphopt.ir.graph import Graph, Node, Value
from graphopt.passes.shrink.compensation.owned import part_of

__all__ = ["Kept", "LeftAxes", "changed_values", "select_kept", "twin_of"]

Kept = Mapping[str, Sequence[tuple[int, Sequence[int]]]]
"""State name -> (axis, positions that are kept), as in `graphopt.rewrite.cut.CutRecord.states`."""

_OUTPUT_AXES = {"conv1d": 0, "conv2d": 0, "conv3d": 0, "linear": 0, "matmul": 1}


def twin_of(before: Graph, node: Node) -> Node | None:
    """The node that computed values of the same names before, or None."""
    if not node.results or not before.has_value(node.name):
        return None
    twin = before.value(node.name).producer
    same = twin is not None and twin.op == node.op and [r.name for r in twin.results] == [r.name for r in node.results]
    return twin if same else None


def changed_values(before: Graph, after: Graph) -> set[Value]:
    """The values of `after` that are no longer what they were: those of changed nodes, and whatever depends on them.

    A node has changed where its op, attributes, operands or the numbers of its states have. Linear in nodes.
    """
    changed: set[Value] = set()
    for node in after.nodes:
        twin = twin_of(before, node)
        same = (
            twin is not None
            and twin.attrs == node.attrs
            and len(twin.operands) == len(node.operands)
            and all(_same(before, after, old, new) for old, new in zip(twin.operands, node.operands, strict=True))
            and not any(operand in changed for operand in node.operands if isinstance(operand, Value))
        )
        if not same:
            changed.update(node.results)
    return changed


def _same(before: Graph, after: Graph, old: object, new: object) -> bool:
    if not isinstance(old, Value) or not isinstance(new, Value):
        return type(old) is type(new) and old == new
    was, now = before.state_of(old), after.state_of(new)
    return old.name == new.name and (was is None) == (now is None) and (was is None or now is None or was.data is now.data)


class LeftAxes:
    """Which positions of the axes of a result are left.

    Channels are found by the states of the node. Other axes get shorter too, as where a layer works along tokens and channels
    are what others see as samples: there an axis of a state that is the same axis position by position says it.
    """

    def __init__(self, before: Graph, kept: Kept) -> None:
        self._before = before
        self._kept = kept

    def of(self, node: Node, twin: Node, channels: int) -> dict[int, tuple[int, ...]] | None:
        """By axis, where some positions of the twin's result are gone; None where that can't be told. `channels` is an axis."""
        was, now = twin.result.shape, node.result.shape
        if len(was) != len(now):
            return None
        left: dict[int, tuple[int, ...]] = {}
        for axis in (axis for axis in range(len(was)) if was[axis] != now[axis]):
            positions = (_channels_left(self._kept, node, twin) if axis == channels else None) or self._tied(twin.result, axis)
            if positions is None or len(positions) != now[axis]:
                return None
            left[axis] = positions
        return left

    def _tied(self, value: Value, axis: int) -> tuple[int, ...] | None:
        bundles, known = self._bundles
        return known.get(bundles.find(bundles.number(value, axis)))

    @cached_property
    def _bundles(self) -> tuple[Bundles, Mapping[int, tuple[int, ...]]]:
        bundles = Bundles(self._before)
        states = self._before.states
        cuts = ((states[name].value, axis, positions) for name, axes in self._kept.items() for axis, positions in axes)
        return bundles, {bundles.find(bundles.number(value, axis)): tuple(positions) for value, axis, positions in cuts}


def _channels_left(kept: Kept, node: Node, twin: Node) -> tuple[int, ...] | None:
    """The channels of a layer's or norm's result that are left, from what was taken of its states; None where all are."""
    if node.op == "einsum":
        return None  # an axis of its weight is that of the result letter by letter, as for axes that are not channels
    axis = _OUTPUT_AXES.get(node.op)
    places = (
        [(1, axis), (2, 0)] if axis is not None else [(2, 0)] if node.op.startswith("conv_transpose") else [(i, 0) for i in range(1, 5)]
    )
    for index, wanted in places:
        operand = node.operands[index] if index < len(node.operands) else None
        part = part_of(twin.operands[index]) if index < len(node.operands) else None
        if part is not None and part.axis == wanted:
            within = _kept_along(kept, part.whole.name, wanted)
            return None if within is None else tuple(at - part.start for at in within if 0 <= at - part.start < part.size)
        positions = _kept_along(kept, operand.name, wanted) if isinstance(operand, Value) else None
        if positions is not None:
            return positions
    return None


def _kept_along(kept: Kept, name: str, axis: int) -> tuple[int, ...] | None:
    return next((tuple(positions) for found, positions in kept.get(name, ()) if found == axis), None)


def select_kept(tensor: torch.Tensor, left: Mapping[int, Sequence[int]]) -> torch.Tensor:
    """The positions that are left, by axis; all of axes that are not named."""
    for axis, positions in left.items():
        tensor = tensor.index_select(axis, torch.tensor(positions, dtype=torch.int64, device=tensor.device))
    return tensor
