"""Walks over storages of one shape: one flat index, the coordinates it stands for, the offset of each storage.

    i = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    i0 = i // 3136 % 64                    walk.lines("i")
    i1 = i % 3136
    x + i0 * 3136 + i1                     walk.offset("i", 1)

Axes that all storages walk through without a gap are one. Divisions are by constants, which the compiler turns into multiplications.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from graphopt.backends.cuda.storage import Storage

__all__ = ["Axis", "Walk", "by_stride", "index_type", "joined", "power_of_two", "times", "walk"]

_INT32 = 2**31


@dataclass(frozen=True, slots=True)
class Axis:
    """Elements along one loop, and the stride of each storage."""

    size: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Walk:
    """Axes from the outermost to the innermost; the flat index counts through them."""

    axes: tuple[Axis, ...]

    @property
    def elements(self) -> int:
        """How many indices there are."""
        return prod(axis.size for axis in self.axes)

    def lines(self, index: str) -> list[str]:
        """Assignments of the coordinates that some storage needs, `<index>0`, `<index>1`, ... A walk along one axis needs none."""
        found: list[str] = []
        uneven = [storage for storage in range(self._storages) if self._single_stride(storage) is None]
        inner = self.elements
        for number, axis in enumerate(self.axes):
            inner //= axis.size
            if any(axis.strides[storage] for storage in uneven):
                whole = index if inner == 1 else f"{index} // {inner}"
                found.append(f"{index}{number} = {whole}{f' % {axis.size}' if number else ''}")
        return found

    def offset(self, index: str, storage: int) -> str:
        """The distance from element 0 of storage number `storage`, empty where it is 0 all along."""
        single = self._single_stride(storage)
        if single is not None:
            return times(index, single) if single else ""
        strides = [(number, axis.strides[storage]) for number, axis in enumerate(self.axes) if axis.strides[storage]]
        return " + ".join(times(f"{index}{number}", stride) for number, stride in strides)

    @property
    def _storages(self) -> int:
        return len(self.axes[0].strides) if self.axes else 0

    def _single_stride(self, storage: int) -> int | None:
        """The stride along the flat index, where a storage has no gaps between the axes."""
        strides = [axis.strides[storage] for axis in self.axes]
        sizes = [axis.size for axis in self.axes]
        if any(left != right * size for left, right, size in zip(strides, strides[1:], sizes[1:], strict=False)):
            return None
        return strides[-1] if strides else 0

    def is_constant(self, storage: int) -> bool:
        """True where a storage has one element for all indices."""
        return not any(axis.strides[storage] for axis in self.axes)


def times(name: str, stride: int) -> str:
    """`name * stride`, or the name alone for 1."""
    return name if stride == 1 else f"{name} * {stride}" if stride > 0 else f"{name} * ({stride})"


def walk(storages: Sequence[Storage], axes: Iterable[int] | None = None) -> Walk:
    """The walk along `axes` (all of them, where none are given) of storages of one shape, the first axis outermost.

    Raises:
        ValueError: the shapes differ.
    """
    shape = storages[0].shape
    if any(storage.shape != shape for storage in storages):
        raise ValueError(f"storages have different shapes: {', '.join(storage.text for storage in storages)}")
    chosen = range(len(shape)) if axes is None else axes
    found = [Axis(shape[axis], tuple(storage.strides[axis] for storage in storages)) for axis in chosen]
    return Walk(tuple(_merged([axis for axis in found if axis.size != 1])))


def by_stride(storage: Storage, axes: Iterable[int] | None = None) -> list[int]:
    """Axes from the largest stride of a storage to the smallest, so that it is walked from its beginning to its end."""
    chosen = range(storage.rank) if axes is None else axes
    return sorted(chosen, key=lambda axis: (-abs(storage.strides[axis]), axis))


def _merged(axes: list[Axis]) -> list[Axis]:
    found: list[Axis] = []
    for axis in axes:
        if found and all(left == right * axis.size for left, right in zip(found[-1].strides, axis.strides, strict=True)):
            found[-1] = Axis(found[-1].size * axis.size, axis.strides)
        else:
            found.append(axis)
    return found


def joined(*terms: str) -> str:
    """`base + a + b`, without the terms that are empty."""
    return " + ".join(term for term in terms if term)


def index_type(storages: Iterable[Storage], most: int) -> str:
    """`.to(tl.int64)` behind a program number where an offset or an index up to `most` does not fit 32 bits, else nothing."""
    far = max(
        (sum((size - 1) * abs(stride) for size, stride in zip(s.shape, s.strides, strict=True)) for s in storages if s.elements), default=0
    )
    return ".to(tl.int64)" if max(far, most) >= _INT32 - 2**16 else ""


def power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count` and 1."""
    return 1 << max(0, count - 1).bit_length()
