"""Blocks over images: rows and columns chosen so that elements of y lie side by side along columns, and coordinates along space.

NCHW      rows are (n, c), columns the pixels          what varies by channel is loaded once for each row
NHWC      rows are (n, pixels), columns the channels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.backends.cuda.kernels.blocks import Block, Side
from graphopt.backends.cuda.kernels.flat import unit
from graphopt.backends.cuda.kernels.walks import by_stride, index_type, power_of_two, walk
from graphopt.backends.cuda.storage import Storage

__all__ = ["Images", "image_blocks", "window_loop", "window_test"]

_COLUMNS = 128
_ELEMENTS = 512
"""Of a block: 4 of each of 128 threads, as each is a loop over a window."""
_UNROLLED = 32
"""Positions of a window up to which the loop over it is unrolled."""


@dataclass(frozen=True, slots=True)
class Images:
    """The lines that find the elements of y; `coordinates[i]` is the expression of spatial coordinate i of y."""

    lines: list[str]
    block: Block
    programs: int
    coordinates: tuple[str, ...]
    warps: int = 4

    @property
    def shape(self) -> str:
        """The shape of a block, as Triton writes it."""
        return f"[{self.block.sides[0].size}, {self.block.sides[1].size}]"


def image_blocks(storages: Sequence[Storage], spatial: int) -> Images:
    """Blocks over storages of one shape, whose last `spatial` axes are space; storage 0 is written."""
    y = storages[0]
    space = range(y.rank - spatial, y.rank)
    channel = space.start - 1
    seen = [*storages, *(unit(y.shape, axis) for axis in space)]
    is_last = channel >= 0 and y.shape[channel] > 1 and y.strides[channel] == 1
    inner = [channel] if is_last else list(space)
    columns = walk(seen, by_stride(y, inner))
    rows = walk(seen, by_stride(y, [axis for axis in range(y.rank) if axis not in inner]))
    width = min(_COLUMNS, power_of_two(columns.elements))
    height = min(max(1, _ELEMENTS // width), power_of_two(rows.elements))
    sides = (Side("row", rows, height, 0), Side("column", columns, width, 1))
    across = sides[1].blocks
    long = index_type(storages, sides[0].blocks * across)
    lines = [f"tile = tl.program_id(0){long}"] if across > 1 else []
    lines += sides[0].lines(f"tile // {across} * {height}" if across > 1 else f"tl.program_id(0){long} * {height}")
    lines += sides[1].lines(f"tile % {across} * {width}" if across > 1 else "")
    block = Block(sides)
    coordinates = tuple(block.offset(len(storages) + number) or "0" for number in range(spatial))
    return Images(lines, block, sides[0].blocks * across, coordinates)


def window_test(block: Block, names: Sequence[str], sizes: Sequence[int], may_leave: Sequence[bool]) -> str:
    """What has to be true for positions `names` to lie in an image of `sizes`; positions that never leave it are not tested."""
    tests = [block.whole_mask]
    for name, size, leaves in zip(names, sizes, may_leave, strict=True):
        tests += [f"({name} >= 0) & ({name} < {size})"] if leaves else []
    return " & ".join(test for test in tests if test)


def window_loop(names: Sequence[str], sizes: Sequence[int], body: Sequence[str]) -> list[str]:
    """Nested loops over a window, unrolled where it is small."""
    count = 1
    for size in sizes:
        count *= size
    kind = "tl.static_range" if count <= _UNROLLED else "range"
    lines = list(body)
    for name, size in reversed(list(zip(names, sizes, strict=True))):
        lines = [f"for {name} in {kind}({size}):", *(f"    {line}" for line in lines)]
    return lines
