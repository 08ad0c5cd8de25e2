"""Gates per channel: computing them (`squeeze_excite.hpp`), and a 1x1 convolution that applies them (`gated_pointwise.hpp`).

    gate = sigmoid(conv(relu(conv(mean(x)))))        SqueezeExcite, of the means
    y = conv(x * gate)                               GatedPointwise

Numeric class: rounding. Products with means run over channels in chunks that depend on the shape alone; the gate is
multiplied with the weight instead of with x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Code, Kernel, Packed, Pointers, ReadState
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, chain_operands, epilogue_code
from graphopt.backends.cpu.kernels.layers import Layer, pack_layer, packed_layer
from graphopt.backends.cpu.kernels.panels import vectors_of
from graphopt.backends.cpu.kernels.pixel_tiles import PixelTile, is_flat, pixel_tiles
from graphopt.backends.cpu.kernels.shape_code import shape_code
from graphopt.backends.cpu.kernels.tilings import is_long
from graphopt.backends.cpu.kernels.windows import is_padded, known_strides
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy

__all__ = ["GatedPointwise", "SqueezeExcite", "gated_candidates"]


@dataclass(frozen=True)
class SqueezeExcite(Kernel):
    """y = excite(w2 squeeze(w1 mean)), `frame` holds for y and, where x is means, for x.

    x is the means [N, C, ...]; or sums [N, parts, C] over parts of an image, whose sum divided by `divisor` is the mean.
    """

    x: Storage
    y: Storage
    squeeze: Layer
    excite: Layer
    frame: Frame
    divisor: int = 1

    algorithm: ClassVar[str] = "excite"
    headers: ClassVar[tuple[str, ...]] = ("squeeze_excite.hpp", *CHAIN_HEADERS)

    SETS: ClassVar[tuple[int, int]] = (8, 4)
    """Output vectors of w1 and w2 per set."""

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chains read."""
        return (self.x, *chain_operands(self.squeeze.chain), *chain_operands(self.excite.chain))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def _is_parts(self) -> bool:
        return self.x.shape != self.y.shape

    @property
    def _sizes(self) -> tuple[int, int]:
        n, c, _, _ = self.frame.sizes(self.y.shape)
        return n, c

    @property
    def _chunk(self) -> int:
        # 8 pieces of work keep 2 or 4 workers busy; every piece makes partial sums that have to be read again
        return -(-vectors_of(self._sizes[1]) // 8) * LANES

    @property
    def flops(self) -> int:
        """Two per weight and image."""
        n, c = self._sizes
        return 4 * n * c * self.squeeze.channels

    @property
    def scratch(self) -> int:
        """The hidden features of an image."""
        return vectors_of(self.squeeze.channels) * LANES

    @property
    def shared(self) -> int:
        """Partial sums of the hidden features."""
        n, c = self._sizes
        return n * -(-c // self._chunk) * self.scratch

    @property
    def packed(self) -> Sequence[Packed]:
        """Both weights and biases."""
        return (*packed_layer("squeeze", self.squeeze, self._sizes[1]), *packed_layer("excite", self.excite, self.squeeze.channels))

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """See `squeeze_excite.hpp` for the order."""
        return (*pack_layer(read, self.squeeze, self.SETS[0]), *pack_layer(read, self.excite, self.SETS[1]))

    def describe(self) -> str:
        """Channels and activations."""
        n, c = self._sizes
        return f"{f'{n}x ' if n != 1 else ''}{c}->{self.squeeze.channels}{self.squeeze.chain.text} ->{c}{self.excite.chain.text}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `squeeze_excite`."""
        x = known_strides(self.x, Frame((0,), 2, (), (1,)) if self._is_parts else self.frame)
        n, c = self._sizes
        hidden = self.squeeze.channels
        parts = self.x.shape[1] if self._is_parts else 1
        shape = shape_code(
            {
                "IMAGES": n,
                "CHANNELS": c,
                "HIDDEN": hidden,
                "PARTS": (parts, "of an image, to be added up"),
                "DIVISOR": self.divisor,
                "X": (x, "n, group of 16 channels"),
                "X_PART": x.w if self._is_parts else 0,
                "Y": known_strides(self.y, self.frame),
                "Y_PADDED": is_padded(self.y),
                "CHUNK": (self._chunk, "channels per piece of work"),
                "HIDDEN_VECTORS": (min(self.SETS[0], vectors_of(hidden)), "output vectors per set of weights"),
                "VECTORS": min(self.SETS[1], vectors_of(c)),
            }
        )
        squeeze, made_squeeze = epilogue_code(self.squeeze.chain, self.frame, (n, hidden, 1, 1), pointers, "Squeeze")
        excite, made_excite = epilogue_code(self.excite.chain, self.frame, (n, c, 1, 1), pointers, "Excite")
        arguments = [pointers.read(self.x), *(pointers.packed(index) for index in range(4)), pointers.write(self.y), pointers.shared]
        return Code(f"{shape}{squeeze}{excite}", f"squeeze_excite<S>(worker, {', '.join(arguments)}, {made_squeeze}, {made_excite});")


@dataclass(frozen=True)
class GatedPointwise(Kernel):
    """y = chain(conv(x * gate, weight) + bias), 1x1. `frame` holds for all; gate has size 1 along h and w."""

    x: Storage
    gate: Storage
    y: Storage
    layer: Layer
    frame: Frame
    tile: PixelTile

    algorithm: ClassVar[str] = "gated"
    headers: ClassVar[tuple[str, ...]] = ("gated_pointwise.hpp", *CHAIN_HEADERS)

    @property
    def reads(self) -> Sequence[Storage]:
        """x, the gate, and what the chain reads."""
        return (self.x, self.gate, *chain_operands(self.layer.chain))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def in_channels(self) -> int:
        """Of x."""
        return self.x.shape[self.frame.c]

    @property
    def flops(self) -> int:
        """Two per weight and pixel, one per gate and pixel."""
        return 2 * self.y.elements * self.in_channels + self.x.elements

    @property
    def scratch(self) -> int:
        """Weights of a set, multiplied with the gates."""
        return self.in_channels * self.tile.vectors * LANES

    @property
    def packed(self) -> Sequence[Packed]:
        """Weights in sets of output vectors, and the bias."""
        return packed_layer("weight", self.layer, self.in_channels)

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """See `gated_pointwise.hpp` for the order."""
        return pack_layer(read, self.layer, self.tile.vectors)

    def describe(self) -> str:
        """Channels, pixels, tile."""
        n, c, h, w = self.frame.sizes(self.y.shape)
        return f"gate + conv 1x1 {self.in_channels}->{c} @{f'{n}x' if n != 1 else ''}{h}x{w}{self.layer.chain.text}, tile {self.tile.text}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `gated_pointwise`."""
        n, c, h, w = self.frame.sizes(self.y.shape)
        shape = shape_code(
            {
                "IMAGES": n,
                "IN_CHANNELS": self.in_channels,
                "OUT_CHANNELS": c,
                "HEIGHT": h,
                "WIDTH": w,
                "X": (known_strides(self.x, self.frame), "n, group of 16 channels, row, column"),
                "Y": known_strides(self.y, self.frame),
                "Y_PADDED": (is_padded(self.y), "the last group of channels is whole in memory"),
                "GATE": (known_strides(self.gate, self.frame), "n, group of 16 channels"),
                "VECTORS": (self.tile.vectors, "register tile: 16-channel vectors x pixels"),
                "PIXELS": self.tile.pixels,
                "BUFFERED": is_long(self.layer.chain),
            }
        )
        epilogue, made = epilogue_code(self.layer.chain, self.frame, (n, c, h, w), pointers)
        arguments = [pointers.read(self.x), pointers.read(self.gate), pointers.packed(0), pointers.packed(1), pointers.write(self.y), made]
        return Code(f"{shape}{epilogue}", f"gated_pointwise<S>(worker, {', '.join(arguments)});")


def gated_candidates(x: Storage, gate: Storage, y: Storage, layer: Layer, frame: Frame) -> list[GatedPointwise]:
    """Kernels worth measuring for conv1x1(x * gate), best guess first.

    None where strides can't tell, and where an image has fewer pixels than y has channels: then there is more to
    multiply with the gates in the weights than in x.
    """
    found = [frame.strides(storage) for storage in (x, y, gate)]
    if any(strides is None or strides.lane == 0 for strides in found):
        return []
    _, _, h, w = frame.sizes(x.shape)
    if h * w < layer.channels:
        return []
    runs = [h * w] if is_flat(x, frame) and is_flat(y, frame) else [w]
    return [GatedPointwise(x, gate, y, layer, frame, tile) for tile in pixel_tiles(vectors_of(layer.channels), runs)[:2]]
