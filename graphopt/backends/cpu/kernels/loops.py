"""Loop nests over storages of one shape: which axes there are once blocked axes are plain and neighbours are one.

    y f32[2,24,5,7] blocked(1) halo 1x1         axes        y      x
    x f32[2,24,5,7]                             2         2016    840      (n)
      -> nest of channels 0 to 15               5          144      7      (h)
         and of channels 16 to 23               7           16      1      (w)
                                                16           1     35      (lanes)

Axes are ordered by the strides of the first storage, so that it is written from its beginning to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from graphopt.backends.cpu.storage import LANES, Storage

__all__ = ["Axis", "Nest", "chunked", "merged", "nests", "outer_code"]

ENOUGH = 32
"""Outer positions that keep a handful of workers equally busy."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Elements along one loop, and the stride of each storage."""

    size: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Nest:
    """Loops from the outermost to the innermost; element 0 of each storage is `offsets` behind its first element."""

    axes: tuple[Axis, ...]
    offsets: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How often the body runs."""
        return prod(axis.size for axis in self.axes)


def nests(storages: Sequence[Storage], *, fill: bool = False, merge: bool = True, sort: bool = True) -> list[Nest]:
    """The loops that visit every element of storages of one shape, in one or two nests.

    A storage with stride 0 along an axis is broadcast along it. With `fill` the padding of blocked storages counts as
    elements where all storages are blocked (or broadcast): whole vectors, and one nest. Without `sort` the loops run in
    the order of the axes.
    """
    shape = storages[0].shape
    if any(storage.shape != shape for storage in storages):
        raise ValueError(f"storages have different shapes: {', '.join(storage.text for storage in storages)}")
    if prod(shape) == 0:
        return []
    blocked = sorted({storage.blocked_axis for storage in storages if storage.blocked_axis is not None})
    parts: list[list[Storage]] = [list(storages)]
    for axis in blocked:
        whole = shape[axis] // LANES * LANES
        padded = fill and all(storage.blocked_axis == axis or storage.strides[axis] == 0 for storage in storages)
        if whole == shape[axis] or whole == 0 or padded:
            continue
        parts = [[_slice(storage, axis, *bounds) for storage in part] for part in parts for bounds in ((0, whole), (whole, shape[axis]))]
    return [_nest(storages, part, fill, merge, sort) for part in parts]


def _slice(storage: Storage, axis: int, start: int, stop: int) -> Storage:
    found = storage.slice(axis, start, stop)
    assert found is not None, "slices at multiples of 16 are views"
    return found


def _nest(storages: Sequence[Storage], part: list[Storage], fill: bool, merge: bool, sort: bool) -> Nest:
    shape = part[0].shape
    blocked = {storage.blocked_axis for storage in part if storage.blocked_axis is not None}
    axes: list[Axis] = []
    for axis, size in enumerate(shape):
        if axis not in blocked:
            axes.append(Axis(size, tuple(storage.strides[axis] for storage in part)))
            continue
        groups = [storage.block_stride if storage.blocked_axis == axis else LANES * storage.strides[axis] for storage in part]
        lanes = [1 if storage.blocked_axis == axis else storage.strides[axis] for storage in part]
        padded = fill and all(storage.blocked_axis == axis or storage.strides[axis] == 0 for storage in part)
        axes.append(Axis(-(-size // LANES), tuple(groups)))
        axes.append(Axis(LANES if padded else min(size, LANES), tuple(lanes)))
    axes = [axis for axis in axes if axis.size != 1]
    if sort:
        axes.sort(key=lambda axis: [-abs(stride) for stride in axis.strides])
    if merge:
        axes = merged(axes)
    return Nest(tuple(axes), tuple(view.offset - storage.offset for view, storage in zip(part, storages, strict=True)))


def merged(axes: list[Axis]) -> list[Axis]:
    """Neighbours that all storages walk through without a gap become one axis."""
    for number, (outer, inner) in enumerate(pairwise(axes)):
        if all(left == right * inner.size for left, right in zip(outer.strides, inner.strides, strict=True)):
            return merged([*axes[:number], Axis(outer.size * inner.size, inner.strides), *axes[number + 2 :]])
    return axes


def chunked(nest: Nest, multiple: int = 256, inner: int = 1) -> list[Nest]:
    """The same loops, where the `inner` last axes belong to the body and few positions are left for the workers:
    the first of the body's axes is cut into pieces of a multiple of `multiple`."""
    if not nest.axes:
        return [nest]
    inner = min(inner, len(nest.axes))
    outer, body = nest.axes[:-inner], nest.axes[-inner:]
    positions = prod(axis.size for axis in outer)
    axis = body[0]
    length = max(multiple, -(-axis.size * positions // ENOUGH // multiple) * multiple)
    pieces = axis.size // length
    if positions >= ENOUGH or pieces < 2:
        return [nest]
    cut = Axis(pieces, tuple(length * stride for stride in axis.strides))
    found = [Nest((*outer, cut, Axis(length, axis.strides), *body[1:]), nest.offsets)]
    rest = axis.size - pieces * length
    if rest:
        offsets = tuple(offset + pieces * step for offset, step in zip(nest.offsets, cut.strides, strict=True))
        found.append(Nest((*outer, Axis(rest, axis.strides), *body[1:]), offsets))
    return found


def outer_code(axes: Sequence[Axis], count: int) -> list[str]:
    """The members of a C++ struct that `loops.hpp` walks by."""
    axes = [*axes] or [Axis(1, (0,) * count)]
    sizes = ", ".join(str(axis.size) for axis in axes)
    rows = ", ".join("{" + ", ".join(map(str, axis.strides)) + "}" for axis in axes)
    return [
        f"  static constexpr int RANK = {len(axes)}, COUNT = {count};",
        f"  static constexpr long SIZES[] = {{{sizes}}}, STRIDES[][COUNT] = {{{rows}}};",
    ]
