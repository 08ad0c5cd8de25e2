"""Convolutions with groups of 2, 4 or 8 channels, several of which lie in one vector (`conv_grouped.hpp`).

    conv 3x3 groups 32 128->128    16 lanes are four groups of four

As many channels go out of a group as come in. Padding is read from x's halo. Wider groups are `DirectConv`'s.

Numeric class: the sum runs over kh, the channels of a group in the order o ^ 0, o ^ 1, ..., and kw, in f32 with
fused multiply-adds.
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
from graphopt.backends.cpu.kernels.direct import image_strides
from graphopt.backends.cpu.kernels.panels import pack_bias, vectors_of
from graphopt.backends.cpu.kernels.shape_code import shape_code
from graphopt.backends.cpu.kernels.tilings import cut, is_long
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy

__all__ = ["GroupedConv", "fits_grouped"]

WIDTHS = (2, 4, 8)
MOST_UNROLLED = 200
"""Multiply-adds of a row of a tile: they are all written out."""


def fits_grouped(x: Storage, y: Storage, convolution: Convolution, frame: Frame) -> bool:
    """True when `GroupedConv` can do it."""
    found = image_strides(x, frame)
    channels = x.shape[frame.c]
    if found is None or found[1] != 1 or frame.strides(y) is None or y.shape[frame.c] != channels:
        return False
    return channels // convolution.groups in WIDTHS and convolution.kernel[1] <= 11


@dataclass(frozen=True)
class GroupedConv(Kernel):
    """y = chain(conv(x, weight) + bias) with groups of 2, 4 or 8 channels; `columns` pixels of a row at a time."""

    x: Storage
    y: Storage
    weight: str
    bias: str | None
    convolution: Convolution
    frame: Frame
    columns: int
    chain: Chain = field(default=Chain())

    algorithm: ClassVar[str] = "grouped"
    headers: ClassVar[tuple[str, ...]] = ("conv_grouped.hpp", *CHAIN_HEADERS)

    @classmethod
    def make(
        cls, x: Storage, y: Storage, weight: str, bias: str | None, convolution: Convolution, frame: Frame, chain: Chain
    ) -> GroupedConv:
        """With a tile of as many pixels as fit in registers and in reasonable code."""
        width = frame.sizes(y.shape)[3]
        most = max(4, min(24 - convolution.kernel[1], MOST_UNROLLED // convolution.kernel[1]))
        return cls(x, y, weight, bias, convolution, frame, cut(width, min(most, 14)), chain)

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chain reads."""
        return (self.x, *chain_operands(self.chain))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def channels(self) -> int:
        """Of x and of y."""
        return self.y.shape[self.frame.c]

    @property
    def width(self) -> int:
        """Channels of a group."""
        return self.channels // self.convolution.groups

    @property
    def flops(self) -> int:
        """Two per weight and pixel."""
        return 2 * self.y.elements * self.width * self.convolution.taps

    @property
    def packed(self) -> Sequence[Packed]:
        """Weights by vector, kh, order of lanes and kw, and the bias."""
        vectors = vectors_of(self.channels)
        kernel = self.convolution.kernel
        return (Packed("weight", "f32", (vectors, kernel[0], self.width, kernel[1], LANES)), Packed("bias", "f32", (vectors * LANES,)))

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """See `conv_grouped.hpp` for the order."""
        import numpy

        vectors, (height, width) = vectors_of(self.channels), self.convolution.kernel
        weight = numpy.zeros((vectors * LANES, self.width, height, width), dtype=numpy.float32)
        weight[: self.channels] = numpy.asarray(read(self.weight), dtype=numpy.float32).reshape(self.channels, self.width, height, width)
        lanes = numpy.arange(vectors * LANES)
        orders = [weight[lanes, (lanes ^ r) % self.width] for r in range(self.width)]
        packed = numpy.stack(orders).reshape(self.width, vectors, LANES, height, width).transpose(1, 3, 0, 4, 2)
        bias = None if self.bias is None else numpy.asarray(read(self.bias), dtype=numpy.float32)
        return (numpy.ascontiguousarray(packed), pack_bias(bias, self.channels))

    def describe(self) -> str:
        """Attributes, channels, pixels, tile."""
        n, c, h, w = self.frame.sizes(self.y.shape)
        images = f"{n}x" if n != 1 else ""
        return f"{self.convolution.text} {c}->{c} @{images}{h}x{w}{self.chain.text}, tile 1x{self.columns}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `grouped_convolution`."""
        found, y = image_strides(self.x, self.frame), self.frame.strides(self.y)
        assert found is not None, f"strides can't tell {self.x.text}"
        assert y is not None, f"strides can't tell {self.y.text}"
        x, conv = found[0], self.convolution
        sizes = self.frame.sizes(self.y.shape)
        row = x.h if self.frame.h else 0
        shape = shape_code(
            {
                "IMAGES": sizes[0],
                "CHANNELS": sizes[1],
                "WIDTH": (self.width, "channels of a group"),
                "OUT_HEIGHT": sizes[2],
                "OUT_WIDTH": sizes[3],
                "KERNEL_H": conv.kernel[0],
                "KERNEL_W": conv.kernel[1],
                "X": (x, "n, group of 16 channels, row, column"),
                "X_PADDED": (self.x.blocked_axis is not None, "the last group of channels is whole in memory"),
                "X_ROW": (conv.stride[0] * row, "from row to row of y"),
                "X_TAP_H": (conv.dilation[0] * row, "from tap to tap"),
                "STRIDE_W": conv.stride[1],
                "DILATION_W": conv.dilation[1],
                "Y": y,
                "Y_PADDED": self.y.blocked_axis is not None,
                "COLUMNS": (self.columns, "pixels of a tile"),
                "LONG_EPILOGUE": is_long(self.chain),
            }
        )
        epilogue, made = epilogue_code(self.chain, self.frame, sizes, pointers)
        first = conv.padding[0] * row + conv.padding[1] * x.w
        corner = pointers.read(self.x) + (f" - {first}" if first else "")
        arguments = [corner, pointers.packed(0), pointers.packed(1), pointers.write(self.y), made]
        return Code(f"{shape}{epilogue}", f"grouped_convolution<S>(worker, {', '.join(arguments)});")
