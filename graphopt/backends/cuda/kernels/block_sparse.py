"""Products with block-sparse weights: y = chain(a @ weight.T + bias), the pattern as data.

    weight [N, K] in blocks of (rows, columns), of which most are zero
      rows     i32[N / block rows + 1]     where the entries of each row of blocks begin
      columns  i32[entries]                the first column of each block
      values   [entries, block columns, block rows]

A program makes one row of blocks for a tile of a's rows, and reads only the columns of a that its blocks meet. Blocks at least 16
columns wide are an entry each. Narrower ones are cut into columns, an entry each, and gathered 32 at a time.
Numeric class: rounding, as `gemm`; blocks add up in the order of their columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

from graphopt.backends.cuda.chain import Chain
from graphopt.backends.cuda.kernel import Code, Kernel, Launch, Unsupported
from graphopt.backends.cuda.kernels.blocks import Block, Side, function
from graphopt.backends.cuda.kernels.chain_code import NO_CHAIN, chain_arguments, chain_lines, check_dtypes, check_shapes
from graphopt.backends.cuda.kernels.expressions import rounded
from graphopt.backends.cuda.kernels.gemm import DOT_DTYPES, tile_store
from graphopt.backends.cuda.kernels.walks import Axis, Walk, by_stride, index_type, joined, power_of_two, times, walk
from graphopt.backends.cuda.storage import Storage

if TYPE_CHECKING:
    import torch

__all__ = ["BlockSparse", "entry_width", "pack_blocks"]

_GATHERED = 32
"""Columns that are gathered at a time."""
_TILE_ROWS = 64
"""Rows of a that a program reads, at most."""
_MOST = 128
"""Rows and columns of a block, at most: a block of values is held in registers."""


def entry_width(block: tuple[int, int]) -> int:
    """Columns of one entry: those of a block, or 1 where blocks are cut into columns."""
    return block[1] if block[1] >= 16 and block[1] == power_of_two(block[1]) else 1


def pack_blocks(weight: torch.Tensor, block: tuple[int, int]) -> dict[str, torch.Tensor]:
    """`values`, `columns` and `rows` of a weight [N, K] in blocks that are kept where they are not all zero.

    What is missing of the last row of blocks is filled with zeros; K needs no multiple of the block.
    """
    import torch

    height, width = block[0], entry_width(block)
    n, k = weight.shape
    filled = torch.zeros((-(-n // height) * height, -(-k // width) * width), dtype=weight.dtype)
    filled[:n, :k] = weight
    blocks = filled.reshape(filled.shape[0] // height, height, filled.shape[1] // width, width).permute(0, 2, 3, 1)
    kept = blocks.ne(0).any(-1).any(-1)
    at = kept.nonzero()
    counts = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)])
    values = blocks[at[:, 0], at[:, 1]].contiguous()
    return {"values": values, "columns": (at[:, 1] * width).to(torch.int32), "rows": counts.to(torch.int32)}


@dataclass(frozen=True)
class BlockSparse(Kernel):
    """y [..., M, N] = chain(a [..., M, K] @ weight.T + bias); bias and the chain's operands have the shape of y.

    `values`, `columns` and `rows` are what `pack_blocks` makes of the weight, contiguous; `block` is its argument.
    """

    a: Storage
    values: Storage
    columns: Storage
    rows: Storage
    y: Storage
    block: tuple[int, int]
    bias: Storage | None = None
    chain: Chain = NO_CHAIN
    precision: str = "ieee"

    algorithm: ClassVar[str] = "block sparse"

    def __post_init__(self) -> None:
        check_dtypes(self.y.dtype, *(storage.dtype for storage in (*self._biases, *self.chain.operands)))
        if self.a.dtype not in DOT_DTYPES or self.values.dtype is not self.a.dtype:
            raise Unsupported(f"a product of {self.a.dtype.text} and sparse {self.values.dtype.text} has no kernel")
        if max(self.block) > _MOST:
            raise Unsupported(f"blocks of {self.block[0]}x{self.block[1]} have no kernel, which takes at most {_MOST}x{_MOST}")
        if self.a.rank != self.y.rank or self.a.rank < 2 or self.a.shape[:-1] != self.y.shape[:-1]:
            raise Unsupported(f"{self.a.type_text} times a sparse weight is not {self.y.type_text}")
        height, width = self.block[0], entry_width(self.block)
        entries = self.columns.shape[0]
        if self.rows.shape != (-(-self.y.shape[-1] // height) + 1,) or self.values.shape != (entries, width, height):
            raise Unsupported(f"{self.values.type_text} are no blocks of {height}x{self.block[1]} for {self.y.type_text}")
        if any(not storage.is_contiguous for storage in (self.values, self.columns, self.rows)):
            raise Unsupported("the blocks do not lie side by side")
        check_shapes(self.y.shape, *self._biases, *self.chain.operands)
        self.emit("kernel")

    @property
    def _biases(self) -> tuple[Storage, ...]:
        return () if self.bias is None else (self.bias,)

    @property
    def reads(self) -> Sequence[Storage]:
        """a, the blocks, bias, and what the chain reads."""
        return tuple(dict.fromkeys((self.a, self.values, self.columns, self.rows, *self._biases, *self.chain.operands)))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def flops(self) -> int:
        """Two for each product with a value that is kept."""
        return prod(self.y.shape[:-1]) * 2 * self.values.elements + self.y.elements * self.chain.flops

    @property
    def skips_zeros(self) -> bool:
        """Those of blocks."""
        return True

    def describe(self) -> str:
        """Sizes, blocks, what is fused."""
        m, n = prod(self.y.shape[:-1]), self.y.shape[-1]
        blocks = f"{self.columns.shape[0]} entries of blocks {self.block[0]}x{self.block[1]}"
        product = f"{m}x{self.a.shape[-1]} @ {self.a.shape[-1]}x{n} {self.a.dtype.text}"
        return f"{product}, {blocks}{' + bias' if self.bias else ''}{self.chain.text}"

    def emit(self, name: str) -> Code:
        """One kernel, one launch: a program for each row of blocks and tile of rows of a."""
        if not self.y.elements:
            return Code("", ())
        height, width = self.block[0], entry_width(self.block)
        depth = width if width > 1 else _GATHERED
        k, rank = self.a.shape[-1], self.y.rank
        of_a = Storage("", self.a.dtype, self.y.shape, (*self.a.strides[:-1], 0))
        seen = [self.y, of_a, *self._biases, *self.chain.operands]
        row = Side(
            "row", walk(seen, by_stride(self.y, range(rank - 1))), min(_TILE_ROWS, max(16, power_of_two(prod(self.y.shape[:-1])))), 0
        )
        column = _columns(seen, rank - 1, height)
        block = Block((row, column))
        down = row.blocks
        lines = [
            f"tile = tl.program_id(0){index_type([*seen, self.a, self.values], 0)}",
            f"block_row = tile{f' // {down}' if down > 1 else ''}",
            *row.lines(f"tile % {down} * {row.size}" if down > 1 else ""),
            f"lane = tl.arange(0, {column.size})[None, :]",
            f"column = block_row * {height} + lane",
            f"in_column = {f'(lane < {height}) & ' if height < column.size else ''}(column < {self.y.shape[-1]})",
            "start = tl.load(rows + block_row)",
            "stop = tl.load(rows + block_row + 1)",
            f"total = tl.zeros([{row.size}, {column.size}], tl.float32)",
        ]
        lane_mask = "" if column.size == height else f"lane < {height}"
        if width > 1:
            body = [
                f"across = tl.load(columns + entry) + tl.arange(0, {depth})[None, :]",
                f"down = tl.arange(0, {depth})[:, None]",
            ]
            loop, of_values = "for entry in range(start, stop):", f"values + entry * {depth * height} + down * {height} + lane"
            masks, value_masks = ["" if k % width == 0 else f"(across < {k})"], [lane_mask]
        else:
            body = [
                f"entry = first + tl.arange(0, {depth})",
                "is_there = entry < stop",
                "across = tl.load(columns + entry, mask=is_there, other=0)[None, :]",
                "down = entry[:, None]",
            ]
            loop, of_values = f"for first in range(start, stop, {depth}):", f"values + down * {height} + lane"
            masks, value_masks = ["is_there[None, :]"], ["is_there[:, None]", f"({lane_mask})" if lane_mask else ""]
        a_mask = " & ".join(filter(None, [row.mask if row.is_masked else "", *masks]))
        value_mask = " & ".join(filter(None, value_masks))
        a_pointer = joined("a", row.walk.offset("row", 1) or "row * 0", times("across", self.a.strides[-1]))
        body += [
            f"a_v = tl.load({a_pointer}{f', mask={a_mask}, other=0.0' if a_mask else ''})",
            f"value = tl.load({of_values}{f', mask={value_mask}, other=0.0' if value_mask else ''})",
            f'total = f.dot(a_v, value, total, "{self.precision}")',
        ]
        lines += [loop, *(f"    {line}" for line in body)]
        lines += [f"total += {block.load('bias', 2, storage.dtype)}" for storage in self._biases]
        first = 2 + len(self._biases)
        after, result = chain_lines(
            self.chain, "result", lambda index: block.load(f"p{index}", first + index, self.chain.operands[index].dtype)
        )
        dtype = self.chain.value if self.chain else self.y.dtype
        lines += [f"result = {rounded('total', dtype)}", *after, tile_store("y", block, 0, result)]
        arguments = [("a", self.a), ("values", self.values), ("columns", self.columns), ("rows", self.rows)]
        arguments += [*(("bias", storage) for storage in self._biases), *chain_arguments(self.chain), ("y", self.y)]
        programs = down * (self.rows.shape[0] - 1)
        warps = max(2, min(8, row.size * column.size // 1024))
        launch = Launch(name, (programs,), tuple(storage for _, storage in arguments), warps=warps)
        return Code(function(name, arguments, self.describe(), lines), (launch,))


def _columns(seen: Sequence[Storage], axis: int, height: int) -> Side:
    """The columns of y that a row of blocks makes; always masked, as its lines are written by hand."""
    size = max(16, power_of_two(height))
    strides = tuple(storage.strides[axis] for storage in seen)
    # one more than there are keeps the side masked whatever the sizes
    return Side("column", Walk((Axis(seen[0].shape[axis] * size + 1, strides),)), size, 1)
