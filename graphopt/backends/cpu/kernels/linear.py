"""Linear layers and 1x1 convolutions as a product of pixels and weights.

`Linear` (`linear.hpp`) packs pixels first; `LinearVector` (`linear_vector.hpp`) is for few pixels, where reading the
weights is all that takes time.

    linear  [..., K] -> [..., N]         pixels are all axes but the last
    conv2d  [N, K, H, W] -> [N, O, H, W]  1x1 of any stride; pixels are n, h, w

Numeric class: sums over at most 768 input channels in order, in f32 with fused multiply-adds, which are then added up.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Code, Kernel, Packed, Pointers, ReadState
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, chain_operands, epilogue_code
from graphopt.backends.cpu.kernels.panels import pack_bias, pack_panels, vectors_of
from graphopt.backends.cpu.kernels.shape_code import Value, shape_code
from graphopt.backends.cpu.kernels.tilings import cut, is_long
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy

__all__ = ["Linear", "LinearTiling", "LinearVector"]


@dataclass(frozen=True, slots=True)
class LinearTiling:
    """See the constants of the same names in `linear.hpp`."""

    vectors: int
    pixels: int
    chunk: int
    block: int
    shared: bool

    @property
    def text(self) -> str:
        """`tile 3x8 chunk 128 block 16 shared`."""
        return f"tile {self.vectors}x{self.pixels} chunk {self.chunk} block {self.block}{' shared' if self.shared else ''}"


@dataclass(frozen=True)
class _Product(Kernel):
    """What both kernels are: y = chain(x @ weight.T + bias) along the c axis of `frame`."""

    x: Storage
    y: Storage
    weight: str
    bias: str | None
    frame: Frame

    @property
    @abstractmethod
    def _chain(self) -> Chain: ...

    @property
    @abstractmethod
    def _vectors(self) -> int: ...

    @property
    @abstractmethod
    def _stride(self) -> tuple[int, int]: ...

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chain reads."""
        return (self.x, *chain_operands(self._chain))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def in_channels(self) -> int:
        """K."""
        return self.x.shape[self.frame.c]

    @property
    def out_channels(self) -> int:
        """N."""
        return self.y.shape[self.frame.c]

    @property
    def pixels(self) -> int:
        """Of y."""
        n, _, h, w = self.frame.sizes(self.y.shape)
        return n * h * w

    @property
    def flops(self) -> int:
        """Two per weight and pixel."""
        return 2 * self.y.elements * self.in_channels

    @property
    def packed(self) -> Sequence[Packed]:
        """Weights in sets of output vectors, and the bias."""
        vectors = vectors_of(self.out_channels)
        return (Packed("weight", "f32", (vectors, self.in_channels, LANES)), Packed("bias", "f32", (vectors * LANES,)))

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """[set of output vectors][c][vector][16]."""
        import numpy

        weight = numpy.asarray(read(self.weight), dtype=numpy.float32).reshape(self.out_channels, self.in_channels)
        bias = None if self.bias is None else numpy.asarray(read(self.bias), dtype=numpy.float32)
        return (pack_panels(weight, self._vectors), pack_bias(bias, self.out_channels))

    def _shape(self) -> dict[str, Value | tuple[Value, str]]:
        """Constants that both headers need."""
        x, y = self.frame.strides(self.x), self.frame.strides(self.y)
        assert x is not None, f"strides can't tell {self.x.text}"
        assert y is not None, f"strides can't tell {self.y.text}"
        images, outputs, height, width = self.frame.sizes(self.y.shape)
        return {
            "IMAGES": images,
            "OUT_HEIGHT": height,
            "OUT_WIDTH": width,
            "IN_CHANNELS": self.in_channels,
            "OUT_CHANNELS": outputs,
            "X": (x, "n, group of 16 channels, row, column"),
            "X_ROW": (x.h * self._stride[0], "from pixel to pixel of y"),
            "X_COLUMN": x.w * self._stride[1],
            "Y": y,
            "Y_PADDED": (self.y.blocked_axis is not None, "the last group of channels is whole in memory"),
            "LONG_EPILOGUE": is_long(self._chain),
        }

    def _code(self, function: str, shape: Mapping[str, Value | tuple[Value, str]], pointers: Pointers, scratch: Sequence[str] = ()) -> Code:
        epilogue, made = epilogue_code(self._chain, self.frame, self.frame.sizes(self.y.shape), pointers)
        arguments = [pointers.read(self.x), pointers.packed(0), pointers.packed(1), pointers.write(self.y), *scratch, made]
        return Code(f"{shape_code(shape)}{epilogue}", f"{function}<S>(worker, {', '.join(arguments)});")


@dataclass(frozen=True)
class Linear(_Product):
    """y = chain(x @ weight.T + bias) along the c axis of `frame`; weight is [N, K], or [N, K, 1, 1].

    `stride` is the distance (h, w) in pixels of x of two pixels of y.
    """

    tiling: LinearTiling
    chain: Chain = field(default=Chain())
    stride: tuple[int, int] = (1, 1)

    algorithm: ClassVar[str] = "linear"
    headers: ClassVar[tuple[str, ...]] = ("linear.hpp", *CHAIN_HEADERS)

    @property
    def _chain(self) -> Chain:
        return self.chain

    @property
    def _vectors(self) -> int:
        return self.tiling.vectors

    @property
    def _stride(self) -> tuple[int, int]:
        return self.stride

    @property
    def _chunks(self) -> int:
        return -(-self.in_channels // self.tiling.chunk)

    def _blocks(self) -> tuple[int, int, int]:
        """Blocks, floats of a packed block, floats of its sums: the most that any machine's tile asks for."""
        tiling = self.tiling
        most = [0, 0, 0]
        for registers in (tiling.pixels, 6, 2):
            tile = cut(self.pixels, min(tiling.pixels, registers))
            pair = 2 if tile <= LANES // 2 else 1
            tiles = -(-tiling.block * tiling.pixels // (tile * pair)) * pair
            panel = vectors_of(tiling.chunk * tile) * LANES + LANES
            sums = tiles * tile * tiling.vectors * LANES if self._chunks > 1 else 0
            need = (-(-self.pixels // (tiles * tile)), self._chunks * tiles * panel, sums)
            most = [max(pair) for pair in zip(most, need, strict=True)]
        return most[0], most[1], most[2]

    @property
    def scratch(self) -> int:
        """Unfinished sums of a block, and the packed block where it is this worker's own."""
        _, packed, sums = self._blocks()
        return sums + (0 if self.tiling.shared else packed)

    @property
    def shared(self) -> int:
        """All packed blocks."""
        blocks, packed, _ = self._blocks()
        return blocks * packed if self.tiling.shared else 0

    def describe(self) -> str:
        """Channels, pixels, tile."""
        return f"{self.pixels} x {self.in_channels}->{self.out_channels}{self.chain.text}, {self.tiling.text}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `linear`."""
        tiling = self.tiling
        shape = self._shape() | {
            "VECTORS": (tiling.vectors, "register tile: 16-channel vectors x pixels"),
            "PIXELS": tiling.pixels,
            "CHUNK": (tiling.chunk, "input channels per pass over a block of tiles"),
            "BLOCK": tiling.block,
            "SHARED": tiling.shared,
        }
        return self._code("linear", shape, pointers, (pointers.scratch, pointers.shared))


@dataclass(frozen=True)
class LinearVector(_Product):
    """The same for one to eight pixels, all along one axis: weights are read once, from front to back."""

    vectors: int
    chain: Chain = field(default=Chain())
    stride: tuple[int, int] = (1, 1)

    algorithm: ClassVar[str] = "vector"
    headers: ClassVar[tuple[str, ...]] = ("linear_vector.hpp", *CHAIN_HEADERS)

    @property
    def _chain(self) -> Chain:
        return self.chain

    @property
    def _vectors(self) -> int:
        return self.vectors

    @property
    def _stride(self) -> tuple[int, int]:
        return self.stride

    def describe(self) -> str:
        """Channels, pixels, tile."""
        return f"{self.pixels} x {self.in_channels}->{self.out_channels}{self.chain.text}, {self.vectors} vectors"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `linear_vector`."""
        return self._code("linear_vector", self._shape() | {"VECTORS": self.vectors}, pointers)
