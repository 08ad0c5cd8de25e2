"""Matrix products with what comes before and after: y = chain(before(a) @ b + bias), batched, from and to any strides.

    a [..., M, K]    b [..., K, N]    y [..., M, N]        linear: b is the weight [N, K] seen as [K, N]

Each program makes one tile of y from all of K, in order: no split over K, so the same bits from run to run. Tiles are visited in groups
of rows, so that neighbours share tiles of b in the L2 cache (Tillet, Kung and Cox, "Triton", 2019).
Numeric class: products of float16 and bfloat16 are exact in float32 and add up there; float32 as IEEE says, or rounded to TF32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from graphopt.backends.cuda.chain import Chain
from graphopt.backends.cuda.kernel import TRITON_TYPES, Code, Kernel, Launch, Unsupported
from graphopt.backends.cuda.kernels.blocks import Block, Side, function
from graphopt.backends.cuda.kernels.chain_code import NO_CHAIN, chain_arguments, chain_lines, check_dtypes, check_shapes
from graphopt.backends.cuda.kernels.expressions import rounded
from graphopt.backends.cuda.kernels.walks import index_type, joined, power_of_two, walk
from graphopt.backends.cuda.storage import Storage
from graphopt.ir.types import DType

__all__ = ["DOT_DTYPES", "Gemm", "Tile", "choose_tile", "tile_load", "tile_pointer", "tile_store"]

DOT_DTYPES = (DType.f32, DType.f16, DType.bf16)
"""What tiles can be multiplied as."""
_GROUP = 8
"""Tiles of rows that are visited before the next tile of columns."""
_PROGRAMS = 132
"""Multiprocessors of a large GPU: smaller tiles where there would be fewer programs."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Sizes of a tile of y and of a step along K, all powers of two of at least 16."""

    rows: int
    columns: int
    depth: int

    @property
    def warps(self) -> int:
        """Warps of a program."""
        return max(2, min(8, self.rows * self.columns // 1024))

    @property
    def text(self) -> str:
        """`64x64x32`."""
        return f"{self.rows}x{self.columns}x{self.depth}"


def choose_tile(m: int, n: int, k: int, batches: int, dtype: DType) -> Tile:
    """A tile for a product of these sizes: large ones read less, small ones keep more multiprocessors busy."""
    most = 64 if dtype is DType.f32 else 128
    rows, columns = (max(16, min(most, power_of_two(size))) for size in (m, n))
    while max(rows, columns) > 32 and batches * -(-m // rows) * -(-n // columns) < _PROGRAMS:
        rows, columns = (rows // 2, columns) if rows > columns else (rows, columns // 2)
    return Tile(rows, columns, max(16, min(32 if dtype is DType.f32 else 64, power_of_two(k))))


@dataclass(frozen=True)
class Gemm(Kernel):
    """y = chain(before(a) @ b + bias). The batch axes of all are expanded to those of y; bias and the chain's operands have its shape,
    the operands of `before` that of a. `precision` of float32 is "ieee" or "tf32"."""

    a: Storage
    b: Storage
    y: Storage
    bias: Storage | None = None
    before: Chain = NO_CHAIN
    chain: Chain = NO_CHAIN
    precision: str = "ieee"

    algorithm: ClassVar[str] = "gemm"

    def __post_init__(self) -> None:
        others = [self.y, *self._biases, *self.before.operands, *self.chain.operands]
        check_dtypes(*(storage.dtype for storage in others))
        if self.a.dtype not in DOT_DTYPES or self.b.dtype is not self.a.dtype:
            raise Unsupported(f"a product of {self.a.dtype.text} and {self.b.dtype.text} has no kernel")
        if self.a.rank < 2 or self.a.rank != self.b.rank or self.y.rank != self.a.rank:
            raise Unsupported(f"a product of {self.a.type_text} and {self.b.type_text} has no kernel")
        *batch, m, n = self.y.shape
        k = self.a.shape[-1]
        if self.a.shape != (*batch, m, k) or self.b.shape != (*batch, k, n):
            raise Unsupported(f"{self.a.type_text} @ {self.b.type_text} is not {self.y.type_text}")
        check_shapes(self.y.shape, *self._biases, *self.chain.operands)
        check_shapes(self.a.shape, *self.before.operands)
        self.emit("kernel")

    @property
    def _biases(self) -> tuple[Storage, ...]:
        return () if self.bias is None else (self.bias,)

    @property
    def reads(self) -> Sequence[Storage]:
        """a, b, bias, and what the chains read."""
        return tuple(dict.fromkeys((self.a, self.b, *self._biases, *self.before.operands, *self.chain.operands)))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def flops(self) -> int:
        """Two for each product; the chains' too."""
        return self.y.elements * (2 * self.a.shape[-1] + self.chain.flops) + self.a.elements * self.before.flops

    @property
    def tile(self) -> Tile:
        """The tile of one program."""
        *batch, m, n = self.y.shape
        return choose_tile(m, n, self.a.shape[-1], prod(batch), self.a.dtype)

    def describe(self) -> str:
        """Sizes, tile, what is fused."""
        *batch, m, n = self.y.shape
        before = self.before.text.removeprefix(" + ") + " + " if self.before else ""
        many = f"{prod(batch)} times " if prod(batch) != 1 else ""
        precision = f" {self.precision}" if self.a.dtype is DType.f32 else ""
        body = f"{many}{before}{m}x{self.a.shape[-1]} @ {self.a.shape[-1]}x{n} {self.a.dtype.text}{precision}"
        return f"{body}{' + bias' if self.bias else ''}{self.chain.text}, tile {self.tile.text}"

    def emit(self, name: str) -> Code:
        """One kernel, one launch: a program for each tile of y."""
        if not self.y.elements:
            return Code("", ())
        tile, rank, k = self.tile, self.y.rank, self.a.shape[-1]
        *batch, m, n = self.y.shape
        # all storages in one space [..., M, N, K], with stride 0 where they do not vary
        whole = (*batch, m, n, k)
        turned = self.b.permute((*range(rank - 2), rank - 1, rank - 2))
        seen = [_seen(self.y, whole, rank), _seen(self.a, whole, rank - 1), _seen(turned, whole, rank - 2)]
        seen += [_seen(storage, whole, rank) for storage in self._biases]
        seen += [_seen(storage, whole, rank - 1) for storage in self.before.operands]
        seen += [_seen(storage, whole, rank) for storage in self.chain.operands]
        outer = Side("batch", walk(seen, range(rank - 2)), 1, 0, is_scalar=True)
        row = Side("row", walk(seen, [rank - 2]), tile.rows, 0)
        column = Side("column", walk(seen, [rank - 1]), tile.columns, 1)
        across = Side("across", walk(seen, [rank]), tile.depth, 1)
        down = Side("down", walk(seen, [rank]), tile.depth, 0)
        of_a, of_b, of_y = Block((outer, row, across)), Block((outer, down, column)), Block((outer, row, column))
        lines = _head(outer, row, column, index_type(seen, 0))
        first_before = 3 + len(self._biases)
        before, a = chain_lines(
            self.before, "a_v", lambda index: of_a.load(f"bp{index}", first_before + index, self.before.operands[index].dtype), "b"
        )
        body = [*across.lines("first"), *down.lines("first")] if k else []
        body.append(f"a_v = {tile_load('a', of_a, 1)}")
        if before and self.a.dtype is not DType.f32:
            body.append("a_v = a_v.to(tl.float32)")
        body += [*before, f"b_v = {tile_load('b', of_b, 2)}"]
        if before:
            # what lies beyond K is not 0 any more, and has to be
            narrowed = a if self.a.dtype is DType.f32 else f"{a}.to({TRITON_TYPES[self.a.dtype.text]})"
            body.append(f"a_v = {f'tl.where({across.mask}, {narrowed}, 0.0)' if across.is_masked else narrowed}")
        body.append(f'total = f.dot(a_v, b_v, total, "{self.precision}")')
        lines.append(f"total = tl.zeros([{tile.rows}, {tile.columns}], tl.float32)")
        if k:
            lines += [f"for first in range(0, {k}, {tile.depth}):", *(f"    {line}" for line in body)]
        lines += [f"total += {of_y.load('bias', 3, storage.dtype)}" for storage in self._biases]
        first = first_before + len(self.before.operands)
        after, result = chain_lines(
            self.chain, "result", lambda index: of_y.load(f"p{index}", first + index, self.chain.operands[index].dtype)
        )
        dtype = self.chain.value if self.chain else self.y.dtype
        lines += [f"result = {rounded('total', dtype)}", *after, tile_store("y", of_y, 0, result)]
        arguments = [("a", self.a), ("b", self.b), *(("bias", storage) for storage in self._biases)]
        arguments += [*chain_arguments(self.before, "b"), *chain_arguments(self.chain), ("y", self.y)]
        programs = outer.walk.elements * row.blocks * column.blocks
        launch = Launch(name, (programs,), tuple(storage for _, storage in arguments), warps=tile.warps)
        return Code(function(name, arguments, self.describe(), lines), (launch,))


def _seen(storage: Storage, whole: tuple[int, ...], missing: int) -> Storage:
    """A storage in the space [..., M, N, K], of which it lacks axis `missing`."""
    strides = (*storage.strides[:missing], 0, *storage.strides[missing:])
    return Storage("", storage.dtype, whole, strides)


def tile_pointer(name: str, block: Block, storage: int) -> str:
    """Pointers to all elements of a tile, also along axes that have one element."""
    tile = [side for side in block.sides if not side.is_scalar]
    terms = [side.walk.offset(side.name, storage) for side in block.sides if side.is_scalar]
    return joined(name, *terms, *(side.walk.offset(side.name, storage) or f"{side.name} * 0" for side in tile))


def tile_load(name: str, block: Block, storage: int) -> str:
    """A tile whose missing elements are 0."""
    mask = block.whole_mask
    return f"tl.load({tile_pointer(name, block, storage)}{f', mask={mask}, other=0.0' if mask else ''})"


def tile_store(name: str, block: Block, storage: int, value: str) -> str:
    """Store what there is of a tile."""
    mask = block.whole_mask
    return f"tl.store({tile_pointer(name, block, storage)}, {value}{f', mask={mask}' if mask else ''})"


def _head(outer: Side, row: Side, column: Side, long: str) -> list[str]:
    """Which tile a program makes: groups of rows, in them columns, in those the rows of the group."""
    lines = [f"tile = tl.program_id(0){long}"]
    down, across = row.blocks, column.blocks
    if outer.walk.elements > 1:
        lines += outer.lines(f"tile // {down * across}" if down * across > 1 else "tile")
        lines += [f"tile = tile % {down * across}"] if down * across > 1 else []
    if down == 1 or across == 1:
        row_first, column_first = f"tile // {across}" if across > 1 else "tile", f"tile % {across}" if down > 1 else "tile"
        lines += row.lines(f"{row_first} * {row.size}" if down > 1 else "")
        return lines + column.lines(f"{column_first} * {column.size}" if across > 1 else "")
    lines += [
        f"group = tile // {_GROUP * across} * {_GROUP}",
        f"group_rows = tl.minimum({down} - group, {_GROUP})",
        f"within = tile % {_GROUP * across}",
        *row.lines(f"(group + within % group_rows) * {row.size}"),
        *column.lines(f"within // group_rows * {column.size}"),
    ]
    return lines
