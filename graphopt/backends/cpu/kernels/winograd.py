"""3x3 convolution with stride 1 by Winograd's minimal filtering (`winograd.hpp`), with the 2x2 max pool behind it.

F(m x m, 3 x 3) makes tiles of m x m outputs with (m + 2)^2 products per pair of channels instead of 9 m^2. Reads and
writes any layout with 16 channels side by side. No halo is needed.

Numeric class: rounding, like the sum in another order for m = 2, ten (m = 4) to twenty (m = 6) times that for the
others; `winograd_error` tells it for given weights. An infinity or a NaN in x makes NaN of all outputs of the tiles
that read it, not only of the nearest ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import image_frame
from graphopt.backends.cpu.kernel import Code, Kernel, Packed, Pointers, ReadState
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, chain_operands, epilogue_code
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.panels import pack_bias, vectors_of
from graphopt.backends.cpu.kernels.shape_code import shape_code
from graphopt.backends.cpu.kernels.tilings import is_long
from graphopt.backends.cpu.kernels.winograd_transforms import transform_weight
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

__all__ = ["WinogradConv", "WinogradTiling", "winograd_refusal"]

_FRAME = image_frame(4)


@dataclass(frozen=True, slots=True)
class WinogradTiling:
    """See the constants of the same names in `winograd_shape.hpp`, and the two schedules in `winograd.hpp`."""

    order: int
    schedule: Literal["tiles", "channels"]
    block: int
    panel: int = 2
    vectors: int = 2

    @property
    def text(self) -> str:
        """`F(4x4,3x3) by tiles, block 14 panel 2`."""
        return f"F({self.order}x{self.order},3x3) by {self.schedule}, block {self.block} panel {self.panel}"


def winograd_refusal(x: Storage, y: Storage, convolution: Convolution) -> str | None:
    """Why a convolution can't be a `WinogradConv`, or None."""
    if (convolution.kernel, convolution.stride, convolution.groups) != ((3, 3), (1, 1), 1):
        return f"{convolution.text} is not 3x3 with stride 1 and one group"
    for storage in (x, y):
        strides = _FRAME.strides(storage) if storage.rank == 4 else None
        if strides is None or strides.lane == 0:
            return f"{storage.text} has no 16 channels side by side"
    return None


def _distance(floats: int) -> int:
    """`winograd_distance`: an odd number of cache lines."""
    return (floats // LANES | 1) * LANES


@dataclass(frozen=True)
class WinogradConv(Kernel):
    """y = chain(conv2d(x, weight) + bias), and max_pool2d(y, 2) where `pool`. The chain's operands have the shape before."""

    x: Storage
    y: Storage
    weight: str
    bias: str | None
    convolution: Convolution
    tiling: WinogradTiling
    chain: Chain = field(default=Chain())
    pool: bool = False

    algorithm: ClassVar[str] = "winograd"
    headers: ClassVar[tuple[str, ...]] = ("winograd.hpp", *CHAIN_HEADERS)

    def __post_init__(self) -> None:
        refusal = winograd_refusal(self.x, self.y, self.convolution)
        assert refusal is None, refusal
        pixels = tuple(size // 2 for size in self._out) if self.pool else self._out
        assert self.y.shape[2:] == pixels, f"{self.y.text} should have {pixels} pixels"
        assert self.tiling.panel % self.tiling.vectors == 0, "a panel is made of whole register tiles"

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chain reads."""
        return (self.x, *chain_operands(self.chain))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def _out(self) -> tuple[int, int]:
        """Pixels of the convolution's result, before the pool."""
        conv = self.convolution
        height, width = (
            size + 2 * padding - 2 * dilation for size, padding, dilation in zip(self.x.shape[2:], conv.padding, conv.dilation, strict=True)
        )
        return height, width

    @property
    def _frequencies(self) -> int:
        return (self.tiling.order + 2) ** 2

    @property
    def _in_channels(self) -> int:
        return self.x.shape[1]

    @property
    def _groups(self) -> int:
        """Groups of 16 output channels."""
        return vectors_of(self.y.shape[1])

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        count = self.x.shape[0]
        for size, dilation in zip(self._out, self.convolution.dilation, strict=True):
            longest_phase = -(-size // dilation)
            count *= dilation * -(-longest_phase // self.tiling.order)
        return count

    @property
    def blocks(self) -> int:
        """Blocks of tiles."""
        return -(-self.tiles // self.tiling.block)

    @property
    def flops(self) -> int:
        """Of the direct convolution."""
        height, width = self._out
        return 2 * self.x.shape[0] * self.y.shape[1] * height * width * self._in_channels * 9

    @property
    def _v_block(self) -> int:
        return self._frequencies * _distance(vectors_of(self._in_channels) * self.tiling.block * LANES)

    @property
    def scratch(self) -> int:
        """M of a block and a panel; V of a block too where tiles are split."""
        m_block = self._frequencies * _distance(self.tiling.block * self.tiling.panel * LANES)
        return m_block + (self._v_block if self.tiling.schedule == "tiles" else 0)

    @property
    def shared(self) -> int:
        """V of all blocks, where channels are split."""
        return self._v_block * self.blocks if self.tiling.schedule == "channels" else 0

    @property
    def packed(self) -> Sequence[Packed]:
        """U, and the bias."""
        return (
            Packed("weight", "f32", (self._frequencies, self._groups, self._in_channels, LANES)),
            Packed("bias", "f32", (self._groups * LANES,)),
        )

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """U in the order [panel][frequency][set of vectors][input channel][output channel of the set]."""
        import numpy

        weight = numpy.asarray(read(self.weight), dtype=numpy.float32)
        step = self.tiling.panel * LANES
        panels = [self._pack_panel(weight[first : first + step]) for first in range(0, len(weight), step)]
        bias = None if self.bias is None else numpy.asarray(read(self.bias), dtype=numpy.float32)
        return (numpy.concatenate(panels), pack_bias(bias, len(weight)))

    def _pack_panel(self, weight: NDArray[numpy.float32]) -> NDArray[numpy.float32]:
        import numpy

        u = transform_weight(weight, self.tiling.order)
        lanes = numpy.zeros((len(u), vectors_of(len(weight)) * LANES, self._in_channels), dtype=numpy.float32)
        lanes[:, : len(weight)] = u
        step = self.tiling.vectors * LANES
        sets = [lanes[:, first : first + step].transpose(0, 2, 1).reshape(len(u), -1) for first in range(0, lanes.shape[1], step)]
        return numpy.concatenate(sets, axis=1).reshape(-1)

    def describe(self) -> str:
        """Attributes, channels, pixels, tiling."""
        n, c = self.y.shape[:2]
        height, width = self._out
        images = f"{n}x" if n != 1 else ""
        pool = " + max_pool2d" if self.pool else ""
        return f"{self.convolution.text} {self._in_channels}->{c} @{images}{height}x{width}{self.chain.text}{pool}, {self.tiling.text}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `winograd_by_tiles` or `winograd_by_channels`."""
        x, y = _FRAME.strides(self.x), _FRAME.strides(self.y)
        assert x is not None, f"{self.describe()}: strides can't tell {self.x.text}"
        assert y is not None, f"{self.describe()}: strides can't tell {self.y.text}"
        conv, tiling = self.convolution, self.tiling
        height, width = self._out
        shape = shape_code(
            {
                "ORDER": (tiling.order, "tiles of ORDER x ORDER outputs"),
                "IMAGES": self.x.shape[0],
                "IN_CHANNELS": self._in_channels,
                "IN_HEIGHT": self.x.shape[2],
                "IN_WIDTH": self.x.shape[3],
                "OUT_CHANNELS": self.y.shape[1],
                "OUT_HEIGHT": height,
                "OUT_WIDTH": width,
                "PADDING_H": conv.padding[0],
                "PADDING_W": conv.padding[1],
                "DILATION_H": conv.dilation[0],
                "DILATION_W": conv.dilation[1],
                "X": (x, "n, group of 16 channels, row, column"),
                "X_PADDED": (self.x.blocked_axis is not None, "the last group of channels is whole in memory"),
                "Y": y,
                "Y_PADDED": self.y.blocked_axis is not None,
                "BLOCK": (tiling.block, f"tiles at a time, of {self.tiles}"),
                "PANEL": (tiling.panel, "groups of 16 output channels at a time"),
                "VECTORS": (tiling.vectors, "and of a register tile"),
                "POOL": self.pool,
                "LONG_EPILOGUE": is_long(self.chain),
            }
        )
        sizes = (self.x.shape[0], self.y.shape[1], height, width)
        epilogue, made = epilogue_code(self.chain, _FRAME, sizes, pointers)
        arguments = [pointers.read(self.x), pointers.packed(0), pointers.packed(1), pointers.write(self.y), pointers.scratch]
        if tiling.schedule == "channels":
            arguments.append(pointers.shared)
        return Code(f"{shape}{epilogue}", f"winograd_by_{tiling.schedule}<S>(worker, {', '.join(arguments)}, {made});")
