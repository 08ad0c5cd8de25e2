"""A mobile block in one step (`inverted_residual.hpp`): 1x1 convolution, depthwise convolution, 1x1 convolution.

    widen -> depthwise -> narrow     InvertedResidual (MobileNetV2, V3 and EfficientNet without squeeze-and-excite)
    depthwise -> narrow              InvertedResidual without `widen` (MobileNetV1, first block of V2)
    widen -> depthwise + sums        WidenDepthwise, before a squeeze-and-excite, which wants the sums over pixels

The wide activations never leave the caches of a core. x may have any halo; none is needed.

Numeric class: the sums run as in `DirectConv` and `DepthwiseConv`; sums over pixels add up rows, and then those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Code, Kernel, Packed, Pointers, ReadState
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, chain_operands, epilogue_code
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.depthwise import COLUMNS, pack_depthwise, window_of
from graphopt.backends.cpu.kernels.layers import Layer, numbers, pack_layer, packed_layer
from graphopt.backends.cpu.kernels.mobile_tiling import BlockShape, MobileTiling, middle_tilings, mobile_tilings
from graphopt.backends.cpu.kernels.panels import pack_bias, vectors_of
from graphopt.backends.cpu.kernels.pixel_tiles import is_flat
from graphopt.backends.cpu.kernels.shape_code import Value, shape_code
from graphopt.backends.cpu.kernels.tilings import is_long
from graphopt.backends.cpu.kernels.windows import even_tile, is_padded, known_strides
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy

__all__ = ["InvertedResidual", "MobileBlock", "WidenDepthwise", "inverted_residual_candidates", "widen_depthwise_candidates"]


@dataclass(frozen=True)
class MobileBlock:
    """The layers of a block. `convolution` is the depthwise one's; without `widen` it reads x, without `narrow` it makes y."""

    widen: Layer | None
    depthwise: Layer
    narrow: Layer | None
    convolution: Convolution

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Those that exist, in order."""
        return tuple(layer for layer in (self.widen, self.depthwise, self.narrow) if layer is not None)

    def shape(self, x: Storage, y: Storage, frame: Frame) -> BlockShape:
        """Sizes on these operands."""
        n, _, height, width = frame.sizes(x.shape)
        outputs = frame.sizes(y.shape)[2:]
        narrow = vectors_of(self.narrow.channels) if self.narrow else 0
        return BlockShape(
            n,
            (height, width),
            outputs,
            window_of(self.convolution),
            vectors_of(self.depthwise.channels),
            narrow,
            self.widen is not None,
            is_flat(x, frame),
        )

    def fits(self, x: Storage, y: Storage, frame: Frame) -> bool:
        """True when the layers belong to each other and strides can tell the operands."""
        middle = self.depthwise.channels
        found, made = frame.strides(x), frame.strides(y)
        if found is None or found.lane == 0 or made is None or made.lane == 0:
            return False
        return self.convolution.groups == middle and middle == (self.widen.channels if self.widen else x.shape[frame.c])

    def flops(self, x: Storage, y: Storage, frame: Frame) -> int:
        """Two per weight and pixel of the three convolutions, rows that are widened twice counted once."""
        n, channels, height, width = frame.sizes(x.shape)
        _, _, rows, columns = frame.sizes(y.shape)
        middle = self.depthwise.channels
        total = 2 * n * rows * columns * middle * self.convolution.taps
        if self.widen is not None:
            total += 2 * n * height * width * channels * middle
        if self.narrow is not None:
            total += 2 * n * rows * columns * middle * self.narrow.channels
        return total

    def packed(self, channels: int) -> tuple[Packed, ...]:
        """Weights and biases of the layers in order, for so many channels of x."""
        groups = vectors_of(self.depthwise.channels)
        found: tuple[Packed, ...] = ()
        if self.widen is not None:
            found += packed_layer("widen", self.widen, channels)
        found += (Packed("depthwise", "f32", (groups, self.convolution.taps, LANES)), Packed("depthwise bias", "f32", (groups * LANES,)))
        if self.narrow is not None:
            found += packed_layer("narrow", self.narrow, self.depthwise.channels)
        return found

    def pack(self, read: ReadState, tiling: MobileTiling) -> tuple[numpy.ndarray, ...]:
        """See `inverted_residual.hpp` for the order."""
        bias = None if self.depthwise.bias is None else numbers(read, self.depthwise.bias)
        filters = pack_depthwise(numbers(read, self.depthwise.weight))
        widen = () if self.widen is None else pack_layer(read, self.widen, tiling.widen.vectors)
        narrow = () if self.narrow is None else pack_layer(read, self.narrow, tiling.narrow.vectors)
        return (*widen, filters, pack_bias(bias, self.depthwise.channels), *narrow)

    def describe(self, x: Storage, y: Storage, frame: Frame, tiling: MobileTiling) -> str:
        """`24 ->144 + relu, conv 3x3 + relu, ->24 + add @56x56, bands of 14 ...`."""
        n, channels, _, _ = frame.sizes(x.shape)
        _, _, rows, columns = frame.sizes(y.shape)
        body = f"{channels}"
        if self.widen is not None:
            body += f" ->{self.widen.channels}{self.widen.chain.text},"
        convolution = self.convolution.text.split(" groups")[0]
        body += f" {convolution}{self.depthwise.chain.text}"
        if self.narrow is not None:
            body += f", ->{self.narrow.channels}{self.narrow.chain.text}"
        return f"{body} @{f'{n}x' if n != 1 else ''}{rows}x{columns}, {tiling.text}"

    def code(
        self, x: Storage, y: Storage, frame: Frame, tiling: MobileTiling, pointers: Pointers, sums: bool
    ) -> tuple[str, list[str], list[str]]:
        """Declarations; the statement that names the weights; the constructors of the epilogues."""
        inputs, outputs = frame.sizes(x.shape), frame.sizes(y.shape)
        middle = self.depthwise.channels
        values: dict[str, Value | tuple[Value, str]] = {
            "IMAGES": inputs[0],
            "IN_CHANNELS": inputs[1],
            "MIDDLE_CHANNELS": middle,
            "OUT_CHANNELS": outputs[1],
            **window_of(self.convolution).constants(inputs[2:], outputs[2:]),
            "WIDENS": (self.widen is not None, "there is a first 1x1 convolution"),
            "X": (known_strides(x, frame), "n, group of 16 channels, row, column"),
            "X_PADDED": (is_padded(x), "the last group of channels is whole in memory"),
            "Y": known_strides(y, frame),
            "Y_PADDED": is_padded(y),
            "WIDEN_VECTORS": (tiling.widen.vectors, "register tiles: 16-channel vectors x pixels"),
            "WIDEN_PIXELS": tiling.widen.pixels,
            "NARROW_VECTORS": tiling.narrow.vectors,
            "NARROW_PIXELS": tiling.narrow.pixels,
            "TILE": (even_tile(outputs[3], COLUMNS), "columns of the depthwise convolution that are made at a time"),
            "BAND": (tiling.band, "rows of results that one worker makes at a time"),
            "STEP": (tiling.step, "rows of results per step of the ring"),
            "RING": (tiling.ring, "widened rows that are kept"),
            "SUMS": sums,
            "BUFFERED": any(is_long(layer.chain) for layer in self.layers),
        }
        declarations = shape_code(values)
        made: list[str] = []
        sizes = {"Widened": (inputs[0], middle, *inputs[2:]), "Filtered": (inputs[0], middle, *outputs[2:]), "Narrowed": outputs}
        for (name, size), layer in zip(sizes.items(), (self.widen, self.depthwise, self.narrow), strict=True):
            if name == "Narrowed" and layer is None:
                continue
            code, constructor = ("", "Identity{}") if layer is None else epilogue_code(layer.chain, frame, size, pointers, name)
            declarations += code
            made.append(constructor)
        packed = iter(range(6))
        arrays: list[str] = []
        for layer in (self.widen, self.depthwise, self.narrow):
            arrays += ["nullptr", "nullptr"] if layer is None else [pointers.packed(next(packed)), pointers.packed(next(packed))]
        return declarations, [f"const MobileWeights weights{{{', '.join(arrays)}}};"], made


class _Block(Kernel):
    x: Storage
    y: Storage
    block: MobileBlock
    frame: Frame
    tiling: MobileTiling

    algorithm: ClassVar[str] = "mobile"
    headers: ClassVar[tuple[str, ...]] = ("inverted_residual.hpp", *CHAIN_HEADERS)

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chains read."""
        return (self.x, *(operand for layer in self.block.layers for operand in chain_operands(layer.chain)))

    @property
    def flops(self) -> int:
        """Of all layers."""
        return self.block.flops(self.x, self.y, self.frame)

    @property
    def packed(self) -> Sequence[Packed]:
        """Weights and biases of all layers."""
        return self.block.packed(self.x.shape[self.frame.c])

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """See `inverted_residual.hpp` for the order."""
        return self.block.pack(read, self.tiling)

    def describe(self) -> str:
        """Layers, pixels, tiling."""
        return self.block.describe(self.x, self.y, self.frame, self.tiling)

    @property
    def _ring(self) -> int:
        width = self.frame.sizes(self.x.shape)[3]
        return (self.tiling.widen.vectors * self.tiling.ring + 1) * width * LANES if self.block.widen is not None else 0

    @property
    def _middle(self) -> int:
        """Floats of a band of the middle."""
        columns = self.frame.sizes(self.y.shape)[3]
        return vectors_of(self.block.depthwise.channels) * self.tiling.band * columns * LANES


@dataclass(frozen=True)
class InvertedResidual(_Block):
    """y = block(x). `frame` holds for x, y and everything between; a residual is an operand of the last chain."""

    x: Storage
    y: Storage
    block: MobileBlock
    frame: Frame
    tiling: MobileTiling

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def scratch(self) -> int:
        """The ring, and a band of the middle."""
        return self._ring + (self._middle if self.tiling.split == "bands" else 0)

    @property
    def shared(self) -> int:
        """The middle of two images in turn, where workers share channels."""
        return 2 * self._middle if self.tiling.split == "channels" else 0

    def emit(self, pointers: Pointers) -> Code:
        """One call of `inverted_residual_bands` or `_channels`."""
        declarations, statements, made = self.block.code(self.x, self.y, self.frame, self.tiling, pointers, False)
        arguments = ["worker", pointers.read(self.x), "weights", pointers.write(self.y)]
        if self.tiling.split == "channels":
            arguments.append(pointers.shared)
        statements.append(f"inverted_residual_{self.tiling.split}<S>({', '.join([*arguments, *made])});")
        return Code(declarations, "\n".join(statements))


@dataclass(frozen=True)
class WidenDepthwise(_Block):
    """y = depthwise(widen(x)), and where asked `sums` [N, bands, C], contiguous: the sums of y over the pixels of each band."""

    x: Storage
    y: Storage
    sums: Storage | None
    block: MobileBlock
    frame: Frame
    tiling: MobileTiling

    @property
    def writes(self) -> Sequence[Storage]:
        """y and the sums."""
        return (self.y,) if self.sums is None else (self.y, self.sums)

    @property
    def scratch(self) -> int:
        """The ring."""
        return self._ring

    def emit(self, pointers: Pointers) -> Code:
        """One call of `widen_depthwise`."""
        declarations, statements, made = self.block.code(self.x, self.y, self.frame, self.tiling, pointers, self.sums is not None)
        sums = "nullptr" if self.sums is None else pointers.write(self.sums)
        statements.append(
            f"widen_depthwise<S>({', '.join(['worker', pointers.read(self.x), 'weights', pointers.write(self.y), sums, *made])});"
        )
        return Code(declarations, "\n".join(statements))


def inverted_residual_candidates(x: Storage, y: Storage, block: MobileBlock, frame: Frame) -> list[InvertedResidual]:
    """Kernels worth measuring against the separate steps, best guess first; none where the block does not fit."""
    if not block.fits(x, y, frame) or block.narrow is None:
        return []
    return [InvertedResidual(x, y, block, frame, tiling) for tiling in mobile_tilings(block.shape(x, y, frame))]


def sum_parts(x: Storage, y: Storage, block: MobileBlock, frame: Frame) -> list[int]:
    """Numbers of bands that `widen_depthwise_candidates` can make, best guess first."""
    return [-(-frame.sizes(y.shape)[2] // tiling.band) for tiling in middle_tilings(block.shape(x, y, frame))]


def widen_depthwise_candidates(x: Storage, y: Storage, sums: Storage | None, block: MobileBlock, frame: Frame) -> list[WidenDepthwise]:
    """Kernels worth measuring, best guess first; with `sums` [N, parts, C] those that make so many parts."""
    if not block.fits(x, y, frame) or block.narrow is not None or y.shape[frame.c] != block.depthwise.channels:
        return []
    found = [WidenDepthwise(x, y, sums, block, frame, tiling) for tiling in middle_tilings(block.shape(x, y, frame))]
    rows = frame.sizes(y.shape)[2]
    return found if sums is None else [kernel for kernel in found if -(-rows // kernel.tiling.band) == sums.shape[1]]
