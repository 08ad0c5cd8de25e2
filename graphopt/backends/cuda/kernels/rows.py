"""Kernels that work along rows: reductions, softmax, norms. Some axes of x are reduced (columns), the others count the rows.

row = tl.program_id(0) * 4 + tl.arange(0, 4)[:, None]
for first in range(0, 1000, 512):                       a sweep; no loop where the whole row is held in registers
    column = first + tl.arange(0, 512)[None, :]
    in_column = column < 1000
    ...
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graphopt.backends.cuda.kernels.blocks import Block, Side
from graphopt.backends.cuda.kernels.walks import by_stride, index_type, power_of_two, walk
from graphopt.backends.cuda.storage import Storage

__all__ = ["Rows", "row_blocks", "wide"]

HELD = 8192
"""Elements of a row that a program holds in registers: 16 of each of 512 threads."""
TILE = 4096
"""Elements of a tile of several rows."""
_PROGRAMS = 264
"""Two for each multiprocessor of a large GPU: fewer rows at a time where there would be fewer programs."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows and columns of a kernel, and the lines that walk them."""

    rows: Side
    columns: Side
    index: str
    """`.to(tl.int64)` where indices are long."""

    @property
    def block(self) -> Block:
        """Both sides."""
        return Block((self.rows, self.columns))

    @property
    def is_held(self) -> bool:
        """True when a whole row is in registers at once."""
        return self.columns.blocks <= 1

    @property
    def warps(self) -> int:
        """Warps of a program: about 16 elements for each thread."""
        return max(1, min(16, self.rows.size * self.columns.size // 512))

    @property
    def shape(self) -> str:
        """The shape of a tile, as Triton writes it."""
        return f"[{self.rows.size}, {self.columns.size}]"

    def head(self) -> list[str]:
        """The lines before the first sweep."""
        lines = self.rows.lines(f"tl.program_id(0){self.index} * {self.rows.size}")
        return lines + self.columns.lines("") if self.is_held else lines

    def sweep(self, lines: Iterable[str]) -> list[str]:
        """Lines that run for each tile of the rows."""
        if self.is_held:
            return list(lines)
        body = [*self.columns.lines("first"), *lines]
        return [f"for first in range(0, {self.columns.walk.elements}, {self.columns.size}):", *(f"    {line}" for line in body)]

    def masked(self, value: str, other: str) -> str:
        """`value` where there are columns, else `other`."""
        return f"tl.where({self.columns.mask}, {value}, {other})" if self.columns.is_masked else value


def row_blocks(storages: Sequence[Storage], reduced: Sequence[int], *, in_order: bool = False, write: int = 0) -> Rows:
    """Rows of storages of one shape; storage 0 is read. Columns are walked along its memory, or in the order of the axes.

    Rows are walked along the memory of storage `write`.
    """
    x = storages[0]
    kept = by_stride(storages[write], [axis for axis in range(x.rank) if axis not in reduced])
    columns = walk(storages, sorted(reduced) if in_order else by_stride(x, reduced))
    rows = walk(storages, kept)
    count, length = rows.elements, columns.elements
    along = next((axis for axis in range(x.rank) if x.strides[axis] == 1 and x.shape[axis] > 1), None)
    if along is None or along in reduced or length == 1:
        width = power_of_two(length) if length <= HELD else TILE
        height = min(TILE // min(width, TILE), power_of_two(count // _PROGRAMS))
    else:
        height = min(64, power_of_two(count))
        width = min(power_of_two(length), HELD // height)
    return Rows(Side("row", rows, height, 0), Side("column", columns, width, 1), index_type(storages, count + height))


def wide(storage: Storage, shape: Sequence[int], reduced: Sequence[int]) -> Storage:
    """A storage without the reduced axes, or with size 1 there, seen in the whole shape.

    Raises:
        ValueError: its other sizes differ from those of `shape`.
    """
    kept = [axis for axis in range(len(shape)) if axis not in reduced]
    places = kept if storage.rank == len(kept) else list(range(len(shape)))
    strides = [0] * len(shape)
    for place, axis in enumerate(places):
        if axis in kept:
            strides[axis] = storage.strides[place]
        if storage.rank != len(places) or storage.shape[place] != (shape[axis] if axis in kept else 1):
            raise ValueError(f"{storage.type_text} is not what is left of {list(shape)} without the axes {list(reduced)}")
    return Storage(storage.buffer, storage.dtype, tuple(shape), tuple(strides), storage.offset)
