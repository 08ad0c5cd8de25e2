"""Arithmetic of strides that every backend's storages need, in elements.

row_major((2, 3, 4))                  ->   (12, 4, 1)
stretches((2, 3, 4), (6, 2, 2))       ->   axes 0-1 hold the elements of (6,), axis 2 those of (2, 2)
split((2, 3), (12, 4), (6,))          ->   (4,): the two axes step like one
split((2, 3), (1, 2), (6,))           ->   None: they do not
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

__all__ = ["row_major", "split", "stretches"]


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous tensor, as torch counts them: a size of 0 counts as 1."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def stretches(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """Axes of `old` and axes of `new` that hold the same elements, from left to right.

    Both have equally many elements, and at least one. Axes of size 1 at the end of `old` belong to no stretch.
    """
    found: list[tuple[range, range]] = []
    at = start = 0
    while start < len(new):
        first, stop = at, start + 1
        have = old[at] if at < len(old) else 1
        at = min(at + 1, len(old))
        want = new[start]
        while have != want:
            if have < want:
                have *= old[at]
                at += 1
            else:
                want *= new[stop]
                stop += 1
        found.append((range(first, at), range(start, stop)))
        start = stop
    return found


def split(sizes: Sequence[int], strides: Sequence[int], shape: Sequence[int]) -> tuple[int, ...] | None:
    """Strides of `shape` over the elements of axes with `sizes` and `strides`; None when these do not step like one axis."""
    real = [(size, stride) for size, stride in zip(sizes, strides, strict=True) if size != 1]
    for (_, left), (size, right) in itertools.pairwise(real):
        if left != right * size:
            return None
    step = real[-1][1] if real else 1
    return tuple(step * stride for stride in row_major(shape))
