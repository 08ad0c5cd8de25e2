"""One stretch of memory for all intermediate values: who is where while it lives.

place({"a": Life(100, 0, 1), "b": Life(50, 1, 2), "c": Life(90, 2, 3)}, 64)   ->   c takes the place of a
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Life", "aligned", "place"]


@dataclass(frozen=True, slots=True)
class Life:
    """A buffer: bytes, the first step that writes it, the last that touches it."""

    bytes: int
    first: int
    last: int


def aligned(count: int, alignment: int) -> int:
    """Bytes rounded up to a multiple of `alignment`."""
    return -(-count // alignment) * alignment


def place(lives: Mapping[str, Life], alignment: int) -> tuple[dict[str, int], int]:
    """Offsets of buffers, and the size of the arena, in bytes; both are multiples of `alignment`.

    Buffers are placed from large to small, each at the lowest offset that is free while it lives (greedy by size:
    Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020).
    """
    offsets: dict[str, int] = {}
    for name in sorted(lives, key=lambda name: (-lives[name].bytes, lives[name].first)):
        mine = lives[name]
        rivals = sorted(
            (offset, offset + aligned(lives[other].bytes, alignment))
            for other, offset in offsets.items()
            if lives[other].first <= mine.last and mine.first <= lives[other].last
        )
        start = 0
        for begin, end in rivals:
            if start + aligned(mine.bytes, alignment) <= begin:
                break
            start = max(start, end)
        offsets[name] = start
    return offsets, max((offset + aligned(lives[name].bytes, alignment) for name, offset in offsets.items()), default=0)
