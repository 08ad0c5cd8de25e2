"""Ops that put pieces of tensors together, as copies of views: pad, roll, flip, tile, concat, and scatters of slices.

    pad reflect  [a b c d]  ->  [c b | a b c d | c b]        two reversed views and the whole

Each function returns None where a blocked axis would have to be cut inside a group of 16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from graphopt.backends.cpu.kernels.copy import Copies
from graphopt.backends.cpu.storage import LANES, Storage

__all__ = ["PadMode", "concat", "flip", "pad", "roll", "select_scatter", "slice_scatter", "tile"]

PadMode: TypeAlias = 'Literal["constant", "reflect", "replicate", "circular"]'
Number: TypeAlias = "float | int | bool"


@dataclass(frozen=True, slots=True)
class _Segment:
    """`size` elements of y from `start` on; `take` gives what they are of x, None is the value that fills."""

    start: int
    size: int
    take: Callable[[Storage], Storage | None] | None


def _cut(storage: Storage, axis: int, start: int, stop: int) -> Storage | None:
    """A slice, if nothing of another group of 16 is in its last one."""
    if (start, stop) == (0, storage.shape[axis]):
        return storage
    if storage.blocked_axis == axis and stop % LANES and stop != storage.shape[axis]:
        return None
    return storage.slice(axis, start, stop)


def _slice(axis: int, start: int, stop: int) -> Callable[[Storage], Storage | None]:
    return lambda x: _cut(x, axis, start, stop)


def _reversed(axis: int, first: int, size: int) -> Callable[[Storage], Storage | None]:
    """Elements first, first - 1, ..., `size` of them."""

    def take(x: Storage) -> Storage | None:
        if x.blocked_axis == axis:
            return None
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        strides = (*x.strides[:axis], -x.strides[axis], *x.strides[axis + 1 :])
        return replace(x, shape=shape, strides=strides, offset=x.offset + first * x.strides[axis], halo=(0, 0))

    return take


def _repeated(axis: int, index: int, size: int) -> Callable[[Storage], Storage | None]:
    def take(x: Storage) -> Storage | None:
        one = _cut(x, axis, index, index + 1)
        return None if one is None or x.blocked_axis == axis else one.expand((*x.shape[:axis], size, *x.shape[axis + 1 :]))

    return take


def _assemble(title: str, x: Storage, y: Storage, segments: Sequence[Sequence[_Segment]], value: Number = 0) -> Copies | None:
    """Copies for every combination of the axes' segments; `segments` has a list for each axis."""
    copies: list[tuple[Storage, Storage]] = []
    fills: list[tuple[Storage, Number]] = []

    def visit(axis: int, source: Storage, target: Storage) -> bool:
        if axis == y.rank:
            if target.elements:
                copies.append((source, target))
            return True
        for segment in segments[axis]:
            if segment.size <= 0:
                continue
            part = _cut(target, axis, segment.start, segment.start + segment.size)
            if part is None:
                return False
            if segment.take is None:
                fills.append((part, value))
                continue
            taken = segment.take(source)
            if taken is None or not visit(axis + 1, taken, part):
                return False
        return True

    return Copies(title, tuple(copies), tuple(fills)) if visit(0, x, y) else None


def _whole(axis: int, size: int) -> list[_Segment]:
    return [_Segment(0, size, _slice(axis, 0, size))]


def pad(x: Storage, y: Storage, pads: Sequence[tuple[int, int]], mode: PadMode = "constant", value: Number = 0) -> Copies | None:
    """Elements added at the ends of each axis, or taken away where a pad is negative."""
    segments: list[list[_Segment]] = []
    for axis, (low, high) in enumerate(pads):
        size = x.shape[axis]
        first, last = max(0, -low), size - max(0, -high)
        middle = _Segment(max(0, low), last - first, _slice(axis, first, last))
        end = middle.start + middle.size
        match mode:
            case "constant":
                before, after = None, None
            case "reflect":
                before, after = _reversed(axis, low, low), _reversed(axis, size - 2, high)
            case "replicate":
                before, after = _repeated(axis, 0, low), _repeated(axis, size - 1, high)
            case "circular":
                before, after = _slice(axis, size - low, size), _slice(axis, 0, high)
        segments.append([_Segment(0, low, before), middle, _Segment(end, high, after)])
    return _assemble(f"pad {mode}", x, y, segments, value)


def roll(x: Storage, y: Storage, shifts: Sequence[int], axes: Sequence[int]) -> Copies | None:
    """Elements moved along axes, wrapping around."""
    segments = [_whole(axis, size) for axis, size in enumerate(x.shape)]
    for axis, size in enumerate(x.shape):
        shift = sum(by for by, other in zip(shifts, axes, strict=True) if other == axis) % max(1, size)
        if shift:
            segments[axis] = [
                _Segment(0, shift, _slice(axis, size - shift, size)),
                _Segment(shift, size - shift, _slice(axis, 0, size - shift)),
            ]
    return _assemble("roll", x, y, segments)


def flip(x: Storage, y: Storage, axes: Sequence[int]) -> Copies | None:
    """Order reversed along axes."""
    segments = [
        [_Segment(0, size, _reversed(axis, size - 1, size))] if axis in axes and size > 1 else _whole(axis, size)
        for axis, size in enumerate(x.shape)
    ]
    return _assemble("flip", x, y, segments)


def tile(x: Storage, y: Storage, repeats: Sequence[int]) -> Copies | None:
    """The whole tensor repeated along each axis; new axes come first (there x has the size 1)."""
    rank = max(x.rank, len(repeats))
    counts = (1,) * (rank - len(repeats)) + tuple(repeats)
    lead = rank - x.rank
    shape: list[int] = []
    strides: tuple[list[int], list[int]] = ([], [])
    blocked: list[int | None] = [None, None]
    for axis, count in enumerate(counts):
        size, stride = (x.shape[axis - lead], x.strides[axis - lead]) if axis >= lead else (1, 0)
        is_blocked = (axis >= lead and x.blocked_axis == axis - lead, y.blocked_axis == axis)
        if any(is_blocked) and count != 1:
            return None
        if count != 1:
            shape.append(count)
            strides[0].append(0)
            strides[1].append(size * y.strides[axis])
        for number, flag in enumerate(is_blocked):
            if flag:
                blocked[number] = len(shape)
        shape.append(size)
        strides[0].append(stride)
        strides[1].append(y.strides[axis])
    views = [
        replace(storage, shape=tuple(shape), strides=tuple(steps), blocked_axis=axis, halo=(0, 0))
        for storage, steps, axis in zip((x, y), strides, blocked, strict=True)
    ]
    return Copies("tile", ((views[0], views[1]),))


def concat(parts: Sequence[Storage], y: Storage, axis: int) -> Copies | None:
    """Tensors one after the other along an axis."""
    copies: list[tuple[Storage, Storage]] = []
    start = 0
    for part in parts:
        target = _cut(y, axis, start, start + part.shape[axis])
        if target is None:
            return None
        if part.elements:
            copies.append((part, target))
        start += part.shape[axis]
    return Copies("concat", tuple(copies))


def slice_scatter(x: Storage, source: Storage, y: Storage, axis: int, start: int, stop: int, step: int = 1) -> Copies | None:
    """x with a slice replaced by source."""
    size = x.shape[axis]
    count = source.shape[axis]
    if count == 0:
        return Copies("slice_scatter", ((x, y),))
    end = start + (count - 1) * step + 1
    kept = [(0, start, 1), (end, size, 1), *((start + gap, end, step) for gap in range(1, step))]
    copies: list[tuple[Storage, Storage]] = []
    for first, last, stride in kept:
        if first >= last:
            continue
        pair = [storage.slice(axis, first, last, stride) if stride > 1 else _cut(storage, axis, first, last) for storage in (x, y)]
        if pair[0] is None or pair[1] is None:
            return None
        copies.append((pair[0], pair[1]))
    place = y.slice(axis, start, end, step) if step > 1 else _cut(y, axis, start, end)
    return None if place is None else Copies("slice_scatter", (*copies, (source, place)))


def select_scatter(x: Storage, source: Storage, y: Storage, axis: int, index: int) -> Copies | None:
    """x with one element along an axis replaced; source has one axis less."""
    index = index % x.shape[axis]
    shape = (*source.shape[:axis], 1, *source.shape[axis:])
    strides = (*source.strides[:axis], 0, *source.strides[axis:])
    blocked = source.blocked_axis
    wide = replace(
        source,
        shape=shape,
        strides=strides,
        blocked_axis=blocked if blocked is None or blocked < axis else blocked + 1,
        halo=(0, 0),
    )
    found = slice_scatter(x, wide, y, axis, index, index + 1)
    return None if found is None else replace(found, title="select_scatter")
