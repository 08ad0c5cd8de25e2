"""Depthwise convolution (`depthwise.hpp`): every result channel looks at one channel of x.

Reads x in any layout with 16 channels side by side; its halo is not needed. x may have any halo.

Numeric class: the sum runs over kh, kw in this order in f32 with fused multiply-adds; narrow images (at most 8
columns) add up even and odd kw apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Code, Kernel, Packed, Pointers, ReadState
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, chain_operands, epilogue_code
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.layers import NO_CHAIN
from graphopt.backends.cpu.kernels.panels import pack_bias, vectors_of
from graphopt.backends.cpu.kernels.shape_code import shape_code
from graphopt.backends.cpu.kernels.tilings import is_long
from graphopt.backends.cpu.kernels.windows import Window, bands, even_tile, is_padded, known_strides
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

__all__ = ["COLUMNS", "DepthwiseConv", "depthwise_candidates", "pack_depthwise", "window_of"]

COLUMNS = 14
"""Of a tile: so many sums, the taps of a row of 7 and a few inputs fit in 32 registers."""


def window_of(convolution: Convolution) -> Window:
    """The window of a convolution."""
    return Window(convolution.kernel, convolution.stride, convolution.padding, convolution.dilation)


def pack_depthwise(weight: NDArray[numpy.float32]) -> NDArray[numpy.float32]:
    """[C, 1, kh, kw] (or [C, 1, kw]) as [C / 16, kh * kw, 16], zeros in the lanes that are not there."""
    import numpy

    channels = weight.shape[0]
    padded = numpy.zeros((vectors_of(channels) * LANES, weight.size // channels), dtype=numpy.float32)
    padded[:channels] = weight.reshape(channels, -1)
    return padded.reshape(-1, LANES, padded.shape[1]).transpose(0, 2, 1)


@dataclass(frozen=True)
class DepthwiseConv(Kernel):
    """y = chain(conv(x, weight) + bias) with as many groups as x has channels. `frame` holds for x and y.

    `band` is the number of rows that are made before the next 16 channels.
    """

    x: Storage
    y: Storage
    weight: str
    bias: str | None
    convolution: Convolution
    frame: Frame
    band: int
    chain: Chain = NO_CHAIN

    algorithm: ClassVar[str] = "depthwise"
    headers: ClassVar[tuple[str, ...]] = ("depthwise.hpp", *CHAIN_HEADERS)

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
        """Of the result."""
        return self.y.shape[self.frame.c]

    @property
    def multiplier(self) -> int:
        """Result channels per channel of x."""
        return self.channels // self.x.shape[self.frame.c]

    @property
    def flops(self) -> int:
        """Two per weight and pixel."""
        return 2 * self.y.elements * self.convolution.taps

    @property
    def scratch(self) -> int:
        """The last rows of 16 channels, where they have to be gathered."""
        width = self.frame.sizes(self.x.shape)[3]
        return 0 if self.multiplier == 1 else window_of(self.convolution).rows * width * LANES

    @property
    def packed(self) -> Sequence[Packed]:
        """Filters of 16 channels side by side, and the bias."""
        groups = vectors_of(self.channels)
        return (Packed("weight", "f32", (groups, self.convolution.taps, LANES)), Packed("bias", "f32", (groups * LANES,)))

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """See `depthwise.hpp` for the order."""
        import numpy

        weight = numpy.asarray(read(self.weight), dtype=numpy.float32)
        bias = None if self.bias is None else numpy.asarray(read(self.bias), dtype=numpy.float32)
        return (pack_depthwise(weight), pack_bias(bias, self.channels))

    def describe(self) -> str:
        """Attributes, channels, pixels, what is fused."""
        n, c, h, w = self.frame.sizes(self.y.shape)
        images = f"{n}x" if n != 1 else ""
        order = "" if self.band == h else f", {self.band} rows at a time"
        return f"{self.convolution.text} {self.x.shape[self.frame.c]}->{c} @{images}{h}x{w}{self.chain.text}{order}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `depthwise`."""
        inputs, outputs = self.frame.sizes(self.x.shape), self.frame.sizes(self.y.shape)
        shape = shape_code(
            {
                "IMAGES": outputs[0],
                "CHANNELS": outputs[1],
                "MULTIPLIER": (self.multiplier, "result channels per input channel"),
                **window_of(self.convolution).constants(inputs[2:], outputs[2:]),
                "X": (known_strides(self.x, self.frame), "n, group of 16 channels, row, column"),
                "X_PADDED": (is_padded(self.x), "the last group of channels is whole in memory"),
                "Y": known_strides(self.y, self.frame),
                "Y_PADDED": is_padded(self.y),
                "TILE": (even_tile(outputs[3], COLUMNS), "columns of a row that are made at a time"),
                "BAND": (self.band, "rows before the next 16 channels"),
                "BUFFERED": is_long(self.chain),
            }
        )
        epilogue, made = epilogue_code(self.chain, self.frame, outputs, pointers)
        arguments = [pointers.read(self.x), pointers.packed(0), pointers.packed(1), pointers.write(self.y)]
        if self.multiplier == 1:
            return Code(f"{shape}{epilogue}", f"depthwise<S>(worker, {', '.join(arguments)}, {made});")
        return Code(f"{shape}{epilogue}", f"depthwise_multiplied<S>(worker, {', '.join(arguments)}, {pointers.scratch}, {made});")


def depthwise_candidates(
    x: Storage, y: Storage, weight: str, bias: str | None, convolution: Convolution, frame: Frame, chain: Chain = NO_CHAIN
) -> list[DepthwiseConv]:
    """Kernels worth measuring, best guess first; none where the convolution is not depthwise or strides can't tell."""
    found = frame.strides(x)
    channels = x.shape[frame.c]
    if found is None or found.lane == 0 or frame.strides(y) is None or convolution.groups != channels or y.shape[frame.c] % channels:
        return []
    _, _, height, width = frame.sizes(x.shape)
    rows = frame.sizes(y.shape)[2]
    choices = bands(found, height * width, channels, rows) if y.shape[frame.c] == channels else [rows]
    return [DepthwiseConv(x, y, weight, bias, convolution, frame, band, chain) for band in choices]
