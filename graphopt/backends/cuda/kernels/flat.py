"""Flat blocks: one index that counts through the elements of y in the order of its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.backends.cuda.kernels.blocks import Block, Side
from graphopt.backends.cuda.kernels.walks import by_stride, index_type, power_of_two, walk
from graphopt.backends.cuda.storage import Storage
from graphopt.ir.types import DType

__all__ = ["FEW", "Flat", "flat_blocks", "unit"]

_BLOCK = 1024
"""Elements of a block: 8 of each of 128 threads, 32 bytes of f32."""
FEW = 2**17
"""Elements below which smaller blocks keep more of the multiprocessors busy."""


@dataclass(frozen=True, slots=True)
class Flat:
    """The lines that find the elements, where they are then, and how many programs it takes."""

    lines: list[str]
    block: Block
    programs: int
    warps: int


def flat_blocks(storages: Sequence[Storage], most: int = _BLOCK) -> Flat:
    """Blocks along the memory of storage 0, of storages of one shape that has elements; `most` elements at a time."""
    found = walk(storages, by_stride(storages[0]))
    size = min(most if found.elements >= FEW else most // 4, max(16, power_of_two(found.elements)))
    side = Side("i", found, size, 0, is_alone=True)
    lines = side.lines(f"tl.program_id(0){index_type(storages, found.elements + size)} * {size}")
    return Flat(lines, Block((side,)), side.blocks, 4 if size > 256 else 2)


def unit(shape: Sequence[int], axis: int) -> Storage:
    """A storage whose offset is the coordinate along an axis: a walk over it tells that coordinate."""
    return Storage("", DType.i32, tuple(shape), tuple(int(other == axis) for other in range(len(shape))))
