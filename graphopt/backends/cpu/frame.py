"""A value of any rank seen as [n, c, h, w] with vectors along c: what kernels iterate over.

    conv2d result [N, C, H, W]      n=(0,), c=1, h=(2,), w=(3,)
    linear result [B, T, C]         n=(), c=2, h=(), w=(0, 1)        rows are w

Several axes may share one place when their strides collapse into one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from graphopt.backends.cpu.storage import Storage

__all__ = ["Frame", "Strides", "image_frame", "rows_frame"]


@dataclass(frozen=True, slots=True)
class Strides:
    """C++ `Strides`: elements between neighbours. `lane` is 1 where 16 channels lie side by side, 0 where c is broadcast."""

    n: int
    block: int
    h: int
    w: int
    lane: int = 1

    @property
    def code(self) -> str:
        """A C++ initialiser of `Strides`."""
        return f"{{{self.n}, {self.block}, {self.h}, {self.w}}}"


@dataclass(frozen=True, slots=True)
class Frame:
    """Which axes of a value are n, c, h and w. Every axis has one place."""

    n: tuple[int, ...]
    c: int
    h: tuple[int, ...]
    w: tuple[int, ...]

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """(n, c, h, w) of a shape."""

        def size(axes: tuple[int, ...]) -> int:
            total = 1
            for axis in axes:
                total *= shape[axis]
            return total

        return size(self.n), shape[self.c], size(self.h), size(self.w)

    def strides(self, storage: Storage) -> Strides | None:
        """Strides of a storage in this frame, None when the frame can't tell its layout.

        A storage that is broadcast has stride 0 (`Storage.expand`); along c it then has lane 0, block 0.
        """
        if storage.blocked_axis is not None and storage.blocked_axis != self.c:
            return None
        if storage.shape[self.c] != 1 and storage.strides[self.c] == 0:
            lane, block = 0, 0
        else:
            found = storage.lanes(self.c)
            if found is None:
                return None
            lane, block = 1, found
        places: list[int] = []
        for axes in (self.n, self.h, self.w):
            stride = _collapse(storage, axes)
            if stride is None:
                return None
            places.append(stride)
        return Strides(places[0], block, places[1], places[2], lane)


def _collapse(storage: Storage, axes: tuple[int, ...]) -> int | None:
    real = [axis for axis in axes if storage.shape[axis] != 1]
    for left, right in itertools.pairwise(real):
        if storage.strides[left] != storage.strides[right] * storage.shape[right]:
            return None
    return storage.strides[real[-1]] if real else 0


def image_frame(rank: int = 4) -> Frame:
    """[N, C, H, W] or [N, C, L] (then h is empty)."""
    return Frame((0,), 1, (2,) if rank == 4 else (), (rank - 1,))


def rows_frame(rank: int) -> Frame:
    """[..., C]: all other axes are rows (w)."""
    return Frame((), rank - 1, (), tuple(range(rank - 1)))
