"""Blocks of elements that one program works on: which lines find them, how storages are loaded and stored there.

row block       rows x columns of two walks; what varies along one alone is loaded as [rows, 1] or [1, columns]
flat block      the same with one row

column = tl.program_id(0) * 1024 + tl.arange(0, 1024)[None, :]
in_column = column < 200704
v = tl.load(x + column, mask=in_column)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.backends.cuda.chain import compute_dtype
from graphopt.backends.cuda.kernels.expressions import register_type
from graphopt.backends.cuda.kernels.walks import Walk, joined
from graphopt.backends.cuda.storage import Storage
from graphopt.ir.types import DType

__all__ = ["Block", "Side", "function"]


@dataclass(frozen=True, slots=True)
class Side:
    """One direction of a block: `size` elements of a walk at a time, a power of two. `axis` is 0 for rows, 1 for columns.

    A side that `is_alone` has vectors without a second axis; one that `is_scalar` has one index, which needs no vector.
    """

    name: str
    walk: Walk
    size: int
    axis: int
    is_alone: bool = False
    is_scalar: bool = False

    @property
    def is_masked(self) -> bool:
        """True where the last block is not full."""
        return self.walk.elements % self.size != 0

    @property
    def mask(self) -> str:
        """The name of what is true for indices that exist."""
        return "inside" if self.is_alone else f"in_{self.name}"

    @property
    def blocks(self) -> int:
        """How many blocks cover the walk."""
        return -(-self.walk.elements // self.size)

    @property
    def range(self) -> str:
        """The elements of a block, counted from its first."""
        if self.is_scalar:
            return ""
        return f"tl.arange(0, {self.size})" + ("" if self.is_alone else "[:, None]" if self.axis == 0 else "[None, :]")

    def lines(self, first: str) -> list[str]:
        """The indices, their mask and their coordinates; `first` is the index of the first one."""
        found = [f"{self.name} = {joined(first, self.range) or '0'}"]
        if self.is_masked:
            found.append(f"{self.mask} = {self.name} < {self.walk.elements}")
        return found + self.walk.lines(self.name)


@dataclass(frozen=True, slots=True)
class Block:
    """Where a program is, once the lines of its sides have run."""

    sides: tuple[Side, ...]

    def offset(self, storage: int) -> str:
        """The distance of the block's elements from element 0 of a storage."""
        return joined(*(side.walk.offset(side.name, storage) for side in self.sides))

    def mask(self, storage: int) -> str:
        """What has to be true for an element of a storage to exist; empty where all do."""
        return " & ".join(side.mask for side in self.sides if side.is_masked and not side.walk.is_constant(storage))

    @property
    def whole_mask(self) -> str:
        """What has to be true for an element of the block to exist; empty where all do."""
        return " & ".join(side.mask for side in self.sides if side.is_masked)

    def load(self, pointer: str, storage: int, dtype: DType, other: str = "") -> str:
        """The elements of a storage, widened to the dtype in which they are computed on. `other` stands where there are none."""
        mask = self.mask(storage)
        details = f", mask={mask}{f', other={other}' if other else ''}" if mask else ""
        widened = f".to({register_type(dtype)})" if compute_dtype(dtype) is not dtype else ""
        return f"tl.load({joined(pointer, self.offset(storage))}{details}){widened}"

    def store(self, pointer: str, storage: int, value: str) -> str:
        """Store a block, which is broadcast to the storage's elements and converted to its dtype."""
        mask = self.mask(storage)
        offset = self.offset(storage)
        if not offset and not self.sides[0].is_alone:
            offset = f"{self.sides[0].name} * 0"  # a block of one element, where a pointer alone would take a scalar
        return f"tl.store({joined(pointer, offset)}, {value}{f', mask={mask}' if mask else ''})"


def function(name: str, arguments: Sequence[tuple[str, Storage]], summary: str, lines: Sequence[str]) -> str:
    """The text of a kernel. Arguments are pointers, told with their types."""
    head = ", ".join(pointer for pointer, _ in arguments)
    types = [f"    # {pointer}: {storage.type_text}" for pointer, storage in arguments]
    return "\n".join(["@triton.jit", f"def {name}({head}):", f'    """{summary}."""', *types, *(f"    {line}" for line in lines)]) + "\n"
