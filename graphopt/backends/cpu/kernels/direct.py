"""Convolution by its definition, from a register tile of output channels x pixels (`conv_direct.hpp`).

Reads x in any layout with 16 channels side by side (blocked, channels-last), or planes (plain NCHW of a first
layer). Padding is read from x's halo. Where groups are not whole sets of output vectors, a set sums over the
channels of all groups that it touches, with zeros for weights between groups.

Numeric class: sums over c / 16, kh, kw, c % 16 in this order, in f32 with fused multiply-adds, each of at most 768
terms or 16 input channels, which are then added up. Where a set has zeros between groups and a sum became NaN or Inf, it
is made again from its own group alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame, Strides
from graphopt.backends.cpu.kernel import Code, Kernel, Packed, Pointers, ReadState
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, chain_operands, epilogue_code
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.panels import pack_bias, pack_panels, vectors_of
from graphopt.backends.cpu.kernels.shape_code import shape_code
from graphopt.backends.cpu.kernels.tilings import Tiling, is_long
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy

__all__ = ["DirectConv", "image_strides"]


def image_strides(x: Storage, frame: Frame) -> tuple[Strides, int] | None:
    """Strides of an operand and the distance of two channels: 1 side by side, else x is planes. None if neither.

    Rows and columns have their distance even where there is one: its neighbours are the halo.
    """
    found, lane = frame.strides(x), 1
    if found is None and x.blocked_axis is None:
        first = x.slice(frame.c, 0, 1)
        found, lane = None if first is None else frame.strides(first), x.strides[frame.c]
    if found is None or found.lane == 0:
        return None
    h = x.strides[frame.h[0]] if len(frame.h) == 1 else found.h
    w = x.strides[frame.w[0]] if len(frame.w) == 1 else found.w
    return Strides(found.n, found.block, h, w), lane


@dataclass(frozen=True)
class DirectConv(Kernel):
    """y = chain(conv(x, weight) + bias). `frame` holds for x and y; a pointwise one may have h and w in one place."""

    x: Storage
    y: Storage
    weight: str
    bias: str | None
    convolution: Convolution
    frame: Frame
    tiling: Tiling
    chain: Chain = field(default=Chain())

    algorithm: ClassVar[str] = "direct"
    headers: ClassVar[tuple[str, ...]] = ("conv_direct.hpp", *CHAIN_HEADERS)

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chain reads."""
        return (self.x, *chain_operands(self.chain))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def in_channels(self) -> int:
        """Of all groups."""
        return self.x.shape[self.frame.c]

    @property
    def out_channels(self) -> int:
        """Of all groups."""
        return self.y.shape[self.frame.c]

    @property
    def pixels(self) -> int:
        """Of y."""
        n, _, h, w = self.frame.sizes(self.y.shape)
        return n * h * w

    @property
    def _sets(self) -> Sequence[tuple[int, int]]:
        """Input channels (begin, end) of the groups that each set of output vectors touches."""
        groups, lanes = self.convolution.groups, self.tiling.tile.vectors * LANES
        group_in, group_out = self.in_channels // groups, self.out_channels // groups
        return [
            (first // group_out * group_in, -(-min(first + lanes, self.out_channels) // group_out) * group_in)
            for first in range(0, self.out_channels, lanes)
        ]

    @property
    def depth(self) -> int:
        """Most input channels of a set."""
        return max(end - begin for begin, end in self._sets)

    @property
    def flops(self) -> int:
        """Two per weight and pixel."""
        return 2 * self.y.elements * self.in_channels // self.convolution.groups * self.convolution.taps

    @property
    def scratch(self) -> int:
        """Unfinished sums of a block, where channels come in chunks."""
        return 0 if self.tiling.chunk >= self.depth else self.tiling.block * self.tiling.tile.vectors * self.tiling.tile.pixels * LANES

    @property
    def packed(self) -> Sequence[Packed]:
        """Weights in sets of output vectors, and the bias."""
        vectors = vectors_of(self.out_channels)
        # the last set has room only for the vectors it has
        return (Packed("weight", "f32", (vectors, self.depth * self.convolution.taps, LANES)), Packed("bias", "f32", (vectors * LANES,)))

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """See `conv_direct.hpp` for the order."""
        import numpy

        groups, taps, lanes = self.convolution.groups, self.convolution.taps, self.tiling.tile.vectors * LANES
        group_in, group_out = self.in_channels // groups, self.out_channels // groups
        weight = numpy.asarray(read(self.weight), dtype=numpy.float32).reshape(self.out_channels, group_in, taps)
        sets: list[numpy.ndarray] = []
        for index, (begin, end) in enumerate(self._sets):
            outputs = range(index * lanes, min((index + 1) * lanes, self.out_channels))
            dense = numpy.zeros((len(outputs), end - begin, taps), dtype=numpy.float32)
            for row, output in enumerate(outputs):
                first = output // group_out * group_in - begin
                dense[row, first : first + group_in] = weight[output]
            order = dense if self._planes else _channels_inner(dense, begin)
            padded = numpy.zeros((len(outputs), self.depth * taps), dtype=numpy.float32)
            padded[:, : (end - begin) * taps] = order.reshape(len(outputs), -1)
            sets.append(pack_panels(padded, self.tiling.tile.vectors))
        bias = None if self.bias is None else numpy.asarray(read(self.bias), dtype=numpy.float32)
        return (numpy.concatenate(sets), pack_bias(bias, self.out_channels))

    @property
    def _planes(self) -> bool:
        found = image_strides(self.x, self.frame)
        assert found is not None, f"{self.x.text} has neither lanes nor planes of channels"
        return found[1] != 1

    def describe(self) -> str:
        """Attributes, channels, pixels, tile."""
        n, c, h, w = self.frame.sizes(self.y.shape)
        images = f"{n}x" if n != 1 else ""
        return f"{self.convolution.text} {self.x.shape[self.frame.c]}->{c} @{images}{h}x{w}{self.chain.text}, {self.tiling.text}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `direct_convolution`."""
        declarations, arguments = self.parts(pointers)
        return Code(declarations, f"direct_convolution<S>(worker, {', '.join(arguments)});")

    def parts(self, pointers: Pointers) -> tuple[str, list[str]]:
        """Structs S and Epilogue, and the arguments behind `worker`, of which the last makes the epilogue."""
        found, y = image_strides(self.x, self.frame), self.frame.strides(self.y)
        assert found is not None, f"strides can't tell {self.x.text}"
        assert y is not None, f"strides can't tell {self.y.text}"
        x, lane = found
        sizes = self.frame.sizes(self.y.shape)
        conv, tile = self.convolution, self.tiling.tile
        row, column = x.h if self.frame.h else 0, x.w
        shape = shape_code(
            {
                "IMAGES": sizes[0],
                "GROUPS": conv.groups,
                "IN_CHANNELS": self.in_channels,
                "OUT_CHANNELS": self.out_channels,
                "OUT_HEIGHT": sizes[2],
                "OUT_WIDTH": sizes[3],
                "KERNEL_H": conv.kernel[0],
                "KERNEL_W": conv.kernel[1],
                "X": (x, "n, group of 16 channels, row, column" if lane == 1 else "n, -, row, column"),
                "X_LANE": (lane, "from channel to channel"),
                "X_ROW": (conv.stride[0] * row, "from row to row of y"),
                "X_COLUMN": conv.stride[1] * column,
                "X_TAP_H": (conv.dilation[0] * row, "from tap to tap"),
                "X_TAP_W": conv.dilation[1] * column,
                "Y": y,
                "Y_PADDED": (self.y.blocked_axis is not None, "the last group of channels is whole in memory"),
                "VECTORS": (tile.vectors, "register tile: 16-channel vectors x rows x columns"),
                "ROWS": tile.rows,
                "COLUMNS": tile.columns,
                "CHUNK": (self.tiling.chunk, "input channels per pass over a block of tiles"),
                "BLOCK": self.tiling.block,
                "WEIGHTS_OUTER": self.tiling.weights_outer,
                "LONG_EPILOGUE": is_long(self.chain),
            }
        )
        epilogue, made = epilogue_code(self.chain, self.frame, sizes, pointers)
        first = conv.padding[0] * row + conv.padding[1] * column
        corner = pointers.read(self.x) + (f" - {first}" if first else "")
        arguments = [corner, pointers.packed(0), pointers.packed(1), pointers.write(self.y), pointers.scratch, made]
        return f"{shape}{epilogue}", arguments

    def tiled(self, tiling: Tiling) -> DirectConv:
        """The same with another tiling."""
        return replace(self, tiling=tiling)


def _channels_inner(dense: numpy.ndarray, begin: int) -> numpy.ndarray:
    """[outputs, channels from `begin`, taps] as [outputs, ...] in the order channel / 16, tap, channel % 16."""
    import numpy

    end = begin + dense.shape[1]
    cuts = [begin, *range(begin // LANES * LANES + LANES, end, LANES), end]
    parts = [dense[:, first - begin : last - begin].swapaxes(1, 2).reshape(len(dense), -1) for first, last in pairwise(cuts)]
    return numpy.concatenate(parts, axis=1)
