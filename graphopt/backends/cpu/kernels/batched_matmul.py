"""Matrix products of two computed tensors (`batched_matmul.hpp`): y = chain(a @ b) over broadcast batch axes.

    a [..., M, K], b [..., K, N], y [..., M, N]    views of any strides; y has its rows or its columns side by side

Also einsums of two operands that are such a product ("bhid,bhjd->bhij"). A product with a 2-D weight is a linear
layer. Numeric class: each sum runs over k in order, in f32 with fused multiply-adds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Code, Kernel, Pointers
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, chain_fits, epilogue_code
from graphopt.backends.cpu.kernels.row_frames import NO_CHAIN
from graphopt.backends.cpu.kernels.shape_code import shape_code
from graphopt.backends.cpu.storage import LANES, Storage

__all__ = ["BatchedMatmul", "batched_matmul_candidates", "einsum_candidates"]

_TILE_ROWS = 14
"""Rows of the tallest register tile."""
_L2_FLOATS = 65536
"""A packed group of columns, or of rows, should be no larger: a quarter of L2."""


@dataclass(frozen=True)
class BatchedMatmul(Kernel):
    """Batch axes `frame.n` and `frame.h` of all storages, rows `frame.w`, columns `frame.c` of y; b is read by both last axes.

    `column_group` columns of b are packed at a time, if `packs_b`; `row_tiles` register tiles are an item of work.
    """

    a: Storage
    b: Storage
    y: Storage
    frame: Frame
    chain: Chain = NO_CHAIN
    column_group: int = 256
    row_tiles: int = 16
    packs_a: bool = False
    packs_b: bool = True

    algorithm: ClassVar[str] = "matmul"
    headers: ClassVar[tuple[str, ...]] = ("batched_matmul.hpp", *CHAIN_HEADERS)

    @property
    def reads(self) -> Sequence[Storage]:
        """a, b, and what the chain reads."""
        return (self.a, self.b, *self.chain.operands)

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(rows, columns, depth)."""
        return self.y.shape[-2], self.y.shape[-1], self.a.shape[-1]

    @property
    def flops(self) -> int:
        """Two per product."""
        return 2 * self.y.elements * self.sizes[2]

    @property
    def scratch(self) -> int:
        """Packed columns of b and packed rows of a."""
        _, columns, depth = self.sizes
        packed_b = depth * min(self.column_group + 8 * LANES, -(-columns // LANES) * LANES) if self.packs_b else 0
        return packed_b + (self.row_tiles * depth * LANES if self.packs_a else 0)

    def describe(self) -> str:
        """Batch, rows x depth x columns, what is packed."""
        rows, columns, depth = self.sizes
        packed = " and ".join(name for name, is_packed in (("a", self.packs_a), ("b", self.packs_b)) if is_packed)
        return f"{math.prod(self.y.shape[:-2])} x {rows}x{depth}x{columns}{self.chain.text}{f', {packed} packed' if packed else ''}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `batched_matmul`."""
        rows, columns, depth = self.sizes
        sizes = self.frame.sizes(self.y.shape)
        epilogue, make_epilogue = epilogue_code(self.chain, self.frame, sizes, pointers)
        shape = shape_code(
            {
                "OUTER": (sizes[0], "batch"),
                "INNER": (sizes[2], "batch"),
                "ROWS": rows,
                "COLUMNS": columns,
                "DEPTH": depth,
                "COLUMN_GROUP": (self.column_group, "columns that are packed at a time"),
                "ROW_TILES": (self.row_tiles, "of an item of work"),
                "PACK_A": self.packs_a,
                "PACK_B": self.packs_b,
                "SCRATCH": (self.scratch, "floats"),
            },
            "Shape",
        )
        lines = [
            f"  static constexpr MatrixStrides {name} = {self._strides(storage)};"
            for name, storage in (("A", self.a), ("B", self.b), ("Y", self.y))
        ]
        shape = "\n".join([shape.removesuffix("};\n").rstrip(), *lines, "};"]) + "\n"
        call = (
            f"batched_matmul<Shape>(worker, {pointers.read(self.a)}, {pointers.read(self.b)}, {pointers.write(self.y)}, {make_epilogue});"
        )
        return Code("\n".join(filter(None, (shape, epilogue))), call)

    def _strides(self, storage: Storage) -> str:
        n, h = _collapsed(storage, self.frame.n), _collapsed(storage, self.frame.h)
        return f"{{{n or 0}, {h or 0}, {storage.strides[-2]}, {storage.strides[-1]}}}"


def _collapsed(storage: Storage, axes: Sequence[int]) -> int | None:
    """The one stride of some axes, None where there is none."""
    real = [axis for axis in axes if storage.shape[axis] != 1]
    if any(storage.strides[left] != storage.strides[right] * storage.shape[right] for left, right in itertools.pairwise(real)):
        return None
    return storage.strides[real[-1]] if real else 0


def _frame(a: Storage, b: Storage, y: Storage, chain: Chain) -> Frame | None:
    """Batch axes in n and h so that all storages have strides; None where they don't."""
    batch = y.rank - 2
    for split in range(batch + 1):
        frame = Frame(tuple(range(split)), y.rank - 1, tuple(range(split, batch)), (batch,))
        fits = all(_collapsed(storage, axes) is not None for storage in (a, b, y) for axes in (frame.n, frame.h))
        if fits and chain_fits(chain, frame):
            return frame
    return None


def _swapped(storage: Storage) -> Storage:
    return storage.permute((*range(storage.rank - 2), storage.rank - 1, storage.rank - 2))


def _side_by_side(storage: Storage, axis: int) -> bool:
    return storage.strides[axis] == 1 or storage.shape[axis] == 1


def _packs_a(a: Storage, columns: int) -> bool:
    """True where the rows of a tile, or its steps, would share few lines of L1 (sets of 4096 bytes)."""
    rows, row, step = a.shape[-2], a.strides[-2], a.strides[-1]
    if rows == 1 or a.shape[-1] == 1:
        return False
    if step == 1:
        return rows > 4 and row % 512 == 0
    if row == 1:
        return columns > 2 * LANES and step % 64 == 0
    return columns > 4 * LANES


def _packs_b(b: Storage, rows: int) -> bool:
    """True unless the columns of b lie side by side in whole vectors, and either densely or for few tiles of rows."""
    columns, row, step = b.shape[-1], b.strides[-2], b.strides[-1]
    return step != 1 or columns % LANES != 0 or (rows > 2 * _TILE_ROWS and row > 128)


def batched_matmul_candidates(a: Storage, b: Storage, y: Storage, chain: Chain = NO_CHAIN) -> list[Kernel]:
    """Kernels for matmul; empty where strides do not fit (a blocked axis, y with neither rows nor columns side by side).

    a and b may have one axis, and fewer or broadcast batch axes, as in torch; the chain's operands have the shape of y.
    """
    if any(storage.blocked_axis is not None for storage in (a, b, y)) or 0 in (*a.shape, *b.shape):
        return []
    chain_operands = list(chain.operands)
    if b.rank == 1:
        b = replace(b, shape=(b.shape[0], 1), strides=(b.strides[0], 1), halo=(0, 0))
        y, *chain_operands = (_with_axis(storage, storage.rank) for storage in (y, *chain_operands))
    if a.rank == 1:
        a = replace(a, shape=(1, a.shape[0]), strides=(0, a.strides[0]), halo=(0, 0))
        y, *chain_operands = (_with_axis(storage, storage.rank - 1) for storage in (y, *chain_operands))
    batch = y.shape[:-2]
    wide_a, wide_b = a.expand((*batch, *a.shape[-2:])), b.expand((*batch, *b.shape[-2:]))
    if wide_a is None or wide_b is None:
        return []
    return _product(wide_a, wide_b, y, replace(chain, operands=tuple(chain_operands)))


def _with_axis(storage: Storage, axis: int) -> Storage:
    return replace(
        storage,
        shape=(*storage.shape[:axis], 1, *storage.shape[axis:]),
        strides=(*storage.strides[:axis], 1, *storage.strides[axis:]),
        halo=(0, 0),
    )


def _product(a: Storage, b: Storage, y: Storage, chain: Chain) -> list[Kernel]:
    """Kernels for operands that have all of y's batch axes."""
    narrow = y.shape[-1] == 1 and y.shape[-2] > 1
    if not _side_by_side(y, y.rank - 1) or (narrow and _side_by_side(y, y.rank - 2)):
        a, b, y = _swapped(b), _swapped(a), _swapped(y)
        chain = replace(chain, operands=tuple(_swapped(operand) for operand in chain.operands))
    if not _side_by_side(y, y.rank - 1):
        return []
    frame = _frame(a, b, y, chain)
    if frame is None:
        return []
    rows, columns, depth = y.shape[-2], y.shape[-1], a.shape[-1]
    group = min(-(-columns // LANES) * LANES, max(2 * LANES, _L2_FLOATS // depth // (2 * LANES) * 2 * LANES))
    if rows == 1:
        group = min(group, 8 * LANES)  # nothing is packed twice for more items of work
    tiles = min(-(-rows // _TILE_ROWS), max(1, _L2_FLOATS // (depth * _TILE_ROWS)))
    if math.prod(y.shape[:-2]) * -(-columns // group) < 8:
        tiles = min(tiles, max(1, -(-rows // _TILE_ROWS) // 8))  # something to do for several workers
    return [BatchedMatmul(a, b, y, frame, chain, group, tiles, _packs_a(a, columns), _packs_b(b, rows))]


def einsum_candidates(
    left: Sequence[str], right: Sequence[str], output: Sequence[str], a: Storage, b: Storage, y: Storage, chain: Chain = NO_CHAIN
) -> list[Kernel]:
    """Kernels for an einsum of two operands, given the label of each axis; empty where it is no matrix product.

    Labels of both operands and the result are batch axes, those of both operands alone are summed. A label that is
    summed in one operand only, repeated in one, or broadcast is declined.
    """
    if len(set(left)) != len(left) or len(set(right)) != len(right) or any(storage.blocked_axis is not None for storage in (a, b, y)):
        return []
    sizes = dict(zip(left, a.shape, strict=True))
    if any(sizes.setdefault(label, size) != size for label, size in zip(right, b.shape, strict=True)):
        return []
    batch = [label for label in output if label in left and label in right]
    rows = [label for label in output if label in left and label not in right]
    columns = [label for label in output if label in right and label not in left]
    depth = [label for label in left if label in right and label not in output]
    if len(batch) + len(rows) + len(depth) != len(left) or len(batch) + len(columns) + len(depth) != len(right):
        return []

    def view(storage: Storage, labels: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Storage | None:
        order = storage.permute([labels.index(label) for label in (*batch, *first, *second)])
        merged = (math.prod(sizes[label] for label in first), math.prod(sizes[label] for label in second))
        return order.reshape((*(sizes[label] for label in batch), *merged))

    found = [
        view(a, left, rows, depth),
        view(b, right, depth, columns),
        *(view(storage, output, rows, columns) for storage in (y, *chain.operands)),
    ]
    views = [storage for storage in found if storage is not None]
    if len(views) != len(found) or 0 in sizes.values():
        return []
    return _product(views[0], views[1], views[2], replace(chain, operands=tuple(views[3:])))
