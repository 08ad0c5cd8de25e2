"""One stretch of memory for all intermediate values: who is where while it lives.

place({"a": Life(100, 0, 1), "b": Life(50, 1, 2), "c": Life(90, 2, 3)}, 64)   ->   c takes the place of a
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from graphopt.errors import BackendError

__all__ = ["Life", "View", "aligned", "place", "touched"]


class View(Protocol):
    """Where a step reads or writes: a backend's storage."""

    @property
    def buffer(self) -> str:
        """Name of the buffer that it lies in."""
        ...

    @property
    def text(self) -> str:
        """For people."""
        ...


@dataclass(frozen=True, slots=True)
class Life:
    """A buffer: bytes, the first step that writes it, the last that touches it."""

    bytes: int
    first: int
    last: int


def touched(steps: Iterable[tuple[Sequence[View], Sequence[View]]], unwritten: Container[str]) -> tuple[dict[str, int], dict[str, int]]:
    """The first step that writes each buffer, and the last that reads or writes it; a step is what it reads and what it writes.

    Raises:
        BackendError: a step reads one of the `unwritten` buffers, those that only steps fill, before any has.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for number, (reads, writes) in enumerate(steps):
        for view in reads:
            if view.buffer not in first and view.buffer in unwritten:
                raise BackendError(f"step {number} reads {view.text}, which no step before it has written")
            last[view.buffer] = number
        for view in writes:
            first.setdefault(view.buffer, number)
            last[view.buffer] = number
    return first, last


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
