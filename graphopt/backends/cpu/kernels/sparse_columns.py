"""Convolutions and linear layers whose weights are zero for 16 output channels at once (`sparse_columns.hpp`).

Blocks of 16x1 weights fit the dense kernels' vectors of 16 output channels: nothing is turned, x and y are as
dense kernels want them, and the speed on what is left is theirs. Smaller blocks are stored as 16x1 with zeros.

Error: as a dense sum. An input without weights for 16 channels is skipped, so its infinities and NaNs are too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Code, Kernel, Packed, Pointers, ReadState
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, chain_operands, epilogue_code
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.panels import pack_bias, vectors_of
from graphopt.backends.cpu.kernels.shape_code import shape_code
from graphopt.backends.cpu.kernels.sparse import lane_strides, matrix_of
from graphopt.backends.cpu.kernels.sparse_pattern import padded
from graphopt.backends.cpu.kernels.tilings import cut, is_long
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy

    from graphopt.backends.cpu.kernels.sparse_pattern import Flags, Floats

__all__ = ["ColumnTiling", "SparseColumns", "column_tiling", "count_columns"]

PIXELS = 14
"""Of the register tile. 28 would fit too, but then x of half as many channels stays in the first cache."""

TILE_BYTES = 14 << 10
"""x of a tile, of 32 KiB of the first cache."""

SUM_BYTES = 256 << 10
"""Unfinished sums of a block of tiles, in the second cache."""


@dataclass(frozen=True, slots=True)
class ColumnTiling:
    """Register tile of rows x columns pixels, input channels of a chunk, tiles of a block."""

    rows: int
    columns: int
    chunk: int
    block: int

    @property
    def text(self) -> str:
        """`tile 1x14, chunk 256, block 8`."""
        return f"tile {self.rows}x{self.columns}, chunk {self.chunk}, block {self.block}"


def column_tiling(channels: int, outputs: int, height: int, width: int, convolution: Convolution) -> ColumnTiling:
    """A tiling for images of height x width."""
    columns = cut(width, PIXELS)
    rows = cut(height, max(1, PIXELS // columns))
    # pixels of x under a tile: taps share them
    under = (rows - 1) * convolution.stride[0] + convolution.kernel[0], (columns - 1) * convolution.stride[1] + convolution.kernel[1]
    chunk = cut(padded(channels), max(LANES, TILE_BYTES // (4 * under[0] * under[1]) // LANES * LANES))
    chunk = padded(chunk)
    tiles = -(-height // rows) * -(-width // columns)
    block = tiles if chunk >= channels else max(1, min(tiles, SUM_BYTES // (4 * padded(outputs) * rows * columns)))
    return ColumnTiling(rows, columns, chunk, min(block, 16))


def _filled(matrix: Floats) -> Flags:
    """[panel, depth]: where a panel of 16 outputs has a weight."""
    import numpy

    whole = numpy.zeros((padded(len(matrix)), matrix.shape[1]), dtype=bool)
    whole[: len(matrix)] = matrix != 0
    return numpy.asarray(whole.reshape(-1, LANES, matrix.shape[1]).any(1))


def count_columns(weight: numpy.ndarray, groups: int) -> int:
    """Columns of 16 weights that are not zero."""
    return int(_filled(matrix_of(weight, groups, 1, planes=False)).sum())


@dataclass(frozen=True)
class SparseColumns(Kernel):
    """y = chain(conv(x, weight) + bias) for a weight with `entries` columns of 16 outputs that are not zero.

    x and y have 16 channels side by side; x's halo covers the padding. `frame` holds for both.
    """

    x: Storage
    y: Storage
    weight: str
    bias: str | None
    convolution: Convolution
    frame: Frame
    tiling: ColumnTiling
    entries: int
    density: float
    """Fraction of weights that are not zero, for people."""
    chain: Chain = field(default=Chain())

    algorithm: ClassVar[str] = "sparse-columns"
    headers: ClassVar[tuple[str, ...]] = ("sparse_columns.hpp", *CHAIN_HEADERS)

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chain reads."""
        return (self.x, *chain_operands(self.chain))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def channels(self) -> tuple[int, int]:
        """In and out, of all groups."""
        return self.x.shape[self.frame.c], self.y.shape[self.frame.c]

    @property
    def chunks(self) -> int:
        """Passes over the input channels."""
        return -(-self.channels[0] // self.tiling.chunk)

    @property
    def flops(self) -> int:
        """Two per weight and pixel, zeros among them."""
        return 2 * self.y.elements * self.channels[0] // self.convolution.groups * self.convolution.taps

    @property
    def scratch(self) -> int:
        """Unfinished sums of a block."""
        tiling = self.tiling
        return 0 if self.chunks == 1 else tiling.block * tiling.rows * tiling.columns * padded(self.channels[1])

    @property
    def packed(self) -> Sequence[Packed]:
        """The pattern, its weights, and the bias."""
        panels = vectors_of(self.channels[1])
        return (
            Packed("offsets", "i32", (self.entries,)),
            Packed("weights", "f32", (self.entries, LANES)),
            Packed("starts", "i32", (self.chunks * panels + 1,)),
            Packed("work", "i32", (panels + 1,)),
            Packed("bias", "f32", (panels * LANES,)),
        )

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """Chunk by chunk, panel by panel, in the order c / 16, taps, c % 16."""
        import numpy

        matrix = matrix_of(numpy.asarray(read(self.weight), dtype=numpy.float32), self.convolution.groups, 1, planes=False)
        filled = _filled(matrix)
        depth = numpy.arange(matrix.shape[1])
        chunk = depth // (self.tiling.chunk * self.convolution.taps)
        panel, at = filled.nonzero()
        order = numpy.lexsort((at, panel, chunk[at]))
        panel, at = panel[order], at[order]
        counts = numpy.zeros((self.chunks, len(filled)), dtype=numpy.int64)
        numpy.add.at(counts, (chunk[at], panel), 1)
        whole = numpy.zeros((len(filled) * LANES, matrix.shape[1]), dtype=numpy.float32)
        whole[: len(matrix)] = matrix
        starts = numpy.concatenate([[0], numpy.cumsum(counts.reshape(-1))])
        work = numpy.concatenate([[0], numpy.cumsum(counts.sum(0) + self.chunks)])
        bias = None if self.bias is None else numpy.asarray(read(self.bias), dtype=numpy.float32)
        return (
            self._offsets(depth)[at].astype(numpy.int32),
            whole.reshape(-1, LANES, matrix.shape[1])[panel, :, at],
            starts.astype(numpy.int32),
            work.astype(numpy.int32),
            pack_bias(bias, self.channels[1]),
        )

    def _offsets(self, depth: numpy.ndarray) -> numpy.ndarray:
        """Floats from the first tap of a pixel to input k."""
        strides, conv = lane_strides(self.x, self.frame), self.convolution
        group, tap = depth // LANES // conv.taps, depth // LANES % conv.taps
        down, right = tap // conv.kernel[1] * conv.dilation[0], tap % conv.kernel[1] * conv.dilation[1]
        return group * strides.block + depth % LANES + down * strides.h + right * strides.w

    def describe(self) -> str:
        """Attributes, channels, pixels, tile."""
        n, c, h, w = self.frame.sizes(self.y.shape)
        images = f"{n}x" if n != 1 else ""
        what = f"{self.convolution.text} {self.channels[0]}->{c} @{images}{h}x{w}"
        return f"{what} {self.density:.0%} filled{self.chain.text}, {self.tiling.text}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `sparse_columns`."""
        x, y = lane_strides(self.x, self.frame), lane_strides(self.y, self.frame)
        sizes = self.frame.sizes(self.y.shape)
        conv, tiling = self.convolution, self.tiling
        shape = shape_code(
            {
                "IMAGES": sizes[0],
                "OUT_CHANNELS": sizes[1],
                "OUT_HEIGHT": sizes[2],
                "OUT_WIDTH": sizes[3],
                "X": x,
                "X_ROW": (conv.stride[0] * x.h, "from row to row of y"),
                "X_COLUMN": conv.stride[1] * x.w,
                "Y": (y, "n, group of 16 channels, row, column"),
                "Y_PADDED": (self.y.blocked_axis is not None, "the last group of channels is whole in memory"),
                "ROWS": (tiling.rows, "register tile of 16 channels x rows x columns"),
                "COLUMNS": tiling.columns,
                "CHUNKS": (self.chunks, f"of {tiling.chunk} input channels"),
                "BLOCK": (tiling.block, "tiles that pass over a chunk together"),
                "BUFFERED": is_long(self.chain),
            }
        )
        epilogue, made = epilogue_code(self.chain, self.frame, sizes, pointers)
        first = conv.padding[0] * x.h + conv.padding[1] * x.w
        corner = pointers.read(self.x) + (f" - {first}" if first else "")
        arguments = [corner, *(pointers.packed(index) for index in range(5)), pointers.write(self.y), pointers.scratch, made]
        return Code(f"{shape}{epilogue}", f"sparse_columns<S>(worker, {', '.join(arguments)});")
