"""Convolution by its definition, from a register tile of output channels x pixels (`conv_direct.hpp`).

Reads x in any layout with 16 channels side by side (blocked, channels-last), or planes (plain NCHW of a first
layer). Padding is read from x's halo. Groups must have whole vectors of channels; narrow ones are `GroupedConv`'s.

Numeric class: the sum runs over c / 16, kh, kw, c % 16 in this order, in f32 with fused multiply-adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
    """Strides of an operand and the distance of two channels: 1 side by side, else x is planes. None if neither."""
    found = frame.strides(x)
    if found is not None:
        return (found, 1) if found.lane else None
    if x.blocked_axis is not None:
        return None
    first = x.slice(frame.c, 0, 1)
    planes = None if first is None else frame.strides(first)
    return None if planes is None else (planes, x.strides[frame.c])


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
        """Of one group."""
        return self.x.shape[self.frame.c] // self.convolution.groups

    @property
    def out_channels(self) -> int:
        """Of one group."""
        return self.y.shape[self.frame.c] // self.convolution.groups

    @property
    def flops(self) -> int:
        """Two per weight and pixel."""
        return 2 * self.y.elements * self.in_channels * self.convolution.taps

    @property
    def scratch(self) -> int:
        """Unfinished sums of a block, where channels come in chunks."""
        return 0 if self.tiling.chunk >= self.in_channels else self.tiling.block * self.tiling.tile.vectors * self.tiling.tile.pixels * LANES

    @property
    def packed(self) -> Sequence[Packed]:
        """Weights in sets of output vectors, and the bias."""
        groups, vectors = self.convolution.groups, vectors_of(self.out_channels)
        depth = self.in_channels * self.convolution.taps
        return (Packed("weight", "f32", (groups, vectors, depth, LANES)), Packed("bias", "f32", (groups * vectors * LANES,)))

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """See `conv_direct.hpp` for the order."""
        import numpy

        groups, taps = self.convolution.groups, self.convolution.taps
        weight = numpy.asarray(read(self.weight), dtype=numpy.float32).reshape(groups, self.out_channels, self.in_channels, taps)
        if self._planes:
            ordered = weight.reshape(groups, self.out_channels, -1)
        else:
            # channels in groups of 16, the last one with what is left: c / 16, taps, c % 16
            parts = [weight[:, :, c : c + LANES].swapaxes(2, 3).reshape(groups, self.out_channels, -1) for c in range(0, self.in_channels, LANES)]
            ordered = numpy.concatenate(parts, axis=2)
        packed = numpy.concatenate([pack_panels(one, self.tiling.tile.vectors) for one in ordered])
        bias = None if self.bias is None else numpy.asarray(read(self.bias), dtype=numpy.float32)
        return (packed, pack_bias(bias, self.y.shape[self.frame.c]))

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
        found, y = image_strides(self.x, self.frame), self.frame.strides(self.y)
        assert found is not None and y is not None, f"{self.describe()}: strides can't tell {self.x.text} or {self.y.text}"
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
        return Code(f"{shape}{epilogue}", f"direct_convolution<S>(worker, {', '.join(arguments)});")

    def tiled(self, tiling: Tiling) -> DirectConv:
        """The same with another tiling."""
        return replace(self, tiling=tiling)
