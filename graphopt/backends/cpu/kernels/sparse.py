"""Linear layers and convolutions whose weights are mostly zeros (`sparse.hpp`).

The pattern is known at lowering and becomes data. Vectors run along pixels (or tokens): x is copied or turned
into tiles [inputs][pixels] that stay in the first cache, and y is turned back, unless x and y are *planes*, with
pixels side by side in memory: then nothing is turned. Each of the two may be either.

Error: as a dense sum in another order. A weight of zero is skipped: it does not turn an infinity or NaN of x into
NaN, as it does in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame, Strides
from graphopt.backends.cpu.kernel import Code, Kernel, Packed, Pointers, ReadState
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, chain_operands, epilogue_code
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.direct import image_strides
from graphopt.backends.cpu.kernels.shape_code import shape_code
from graphopt.backends.cpu.kernels.sparse_pattern import SparseTiling, pack_entries, padded
from graphopt.backends.cpu.kernels.tilings import is_long
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy

    from graphopt.backends.cpu.kernels.sparse_pattern import Flags, Floats

__all__ = ["SparseProduct", "flat_frame", "join_groups", "lane_strides", "matrix_of", "plane_strides", "real_inputs"]


STAYS_BYTES = 64 << 10
"""So many bytes of entries stay in the second cache between two tiles."""

MOST_LINES_AHEAD = 16
"""More would push what is asked for out of the first cache before it is used."""


def flat_frame(frame: Frame) -> Frame:
    """All pixels of an image in one place."""
    return Frame(frame.n, frame.c, (), (*frame.h, *frame.w))


def plane_strides(storage: Storage, frame: Frame) -> Strides | None:
    """Strides of a storage whose pixels lie side by side; `block` is the distance of two channels. None if they don't."""
    if storage.blocked_axis is not None:
        return None
    first = storage.slice(frame.c, 0, 1)
    found = None if first is None else frame.strides(first)
    if found is None or (found.w != 1 and frame.sizes(storage.shape)[3] != 1):
        return None
    h = storage.strides[frame.h[0]] if len(frame.h) == 1 else found.h
    return Strides(found.n, storage.strides[frame.c], h, 1)


def lane_strides(storage: Storage, frame: Frame) -> Strides:
    """Strides of a storage with 16 channels side by side."""
    found = image_strides(storage, frame)
    assert found is not None, f"strides can't tell {storage.text}"
    assert found[1] == 1, f"{storage.text} does not have its channels side by side"
    return found[0]


def join_groups(groups: int, *channels: int) -> int:
    """Groups of a convolution joined into as many bands as possible so that channels of a band fill whole vectors."""
    for bands in range(groups, 1, -1):
        if groups % bands == 0 and all(count // bands % LANES == 0 for count in channels):
            return bands
    return 1


def matrix_of(weight: numpy.ndarray, groups: int, bands: int, planes: bool) -> Floats:
    """[O, C / groups, ...] as [O, depth of a band]: depth in the order of a tile, what other groups read is zero."""
    import numpy

    outputs, channels = weight.shape[:2]
    taps = weight.reshape(outputs, channels, -1).shape[2]
    joined = groups // bands
    whole = numpy.zeros((bands, joined, outputs // groups, joined, channels, taps), dtype=numpy.float32)
    parts = weight.reshape(bands, joined, outputs // groups, channels, taps)
    for group in range(joined):
        whole[:, group, :, group] = parts[:, group]
    matrix = whole.reshape(outputs, joined * channels, taps)
    if planes:
        return matrix.reshape(outputs, -1)
    lanes = numpy.zeros((outputs, padded(matrix.shape[1]), taps), dtype=numpy.float32)
    lanes[:, : matrix.shape[1]] = matrix
    return lanes.reshape(outputs, -1, LANES, taps).swapaxes(2, 3).reshape(outputs, -1)


def real_inputs(channels: int, taps: int, planes: bool) -> Flags:
    """Which of a band's inputs are no padding."""
    import numpy

    if planes:
        return numpy.ones(channels * taps, dtype=bool)
    lanes = numpy.arange(padded(channels)).reshape(-1, 1, LANES) < channels
    return numpy.repeat(lanes, taps, axis=1).reshape(-1)


@dataclass(frozen=True)
class SparseProduct(Kernel):
    """y = chain(conv(x, weight) + bias) for a weight of which `entries` entries are left. `frame` holds for x and y.

    A linear layer is a 1x1 convolution of rows. Where x has 16 channels side by side its halo has to cover the padding;
    planes need none. Planes of y must lie side by side, as must those that the chain reads.
    """

    x: Storage
    y: Storage
    weight: str
    bias: str | None
    convolution: Convolution
    frame: Frame
    tiling: SparseTiling
    entries: int
    density: float
    """Fraction of weights that are not zero, for people."""
    chain: Chain = field(default=Chain())

    algorithm: ClassVar[str] = "sparse"
    headers: ClassVar[tuple[str, ...]] = ("sparse.hpp", *CHAIN_HEADERS)

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chain reads."""
        return (self.x, *chain_operands(self.chain))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def x_planes(self) -> bool:
        """True when pixels of x lie side by side, else 16 channels do."""
        return plane_strides(self.x, self.frame) is not None

    @property
    def y_planes(self) -> bool:
        """The same of y."""
        return plane_strides(self.y, flat_frame(self.frame)) is not None

    @property
    def in_channels(self) -> int:
        """Of a band."""
        return self.x.shape[self.frame.c] // self.tiling.bands

    @property
    def out_channels(self) -> int:
        """Of a band."""
        return self.y.shape[self.frame.c] // self.tiling.bands

    @property
    def depth(self) -> int:
        """Inputs of a band: channels and taps."""
        return (self.in_channels if self.x_planes else padded(self.in_channels)) * self.convolution.taps

    @property
    def chunks(self) -> int:
        """Passes over the depth."""
        return -(-self.depth // self.tiling.chunk)

    @property
    def flops(self) -> int:
        """Two per weight and pixel, zeros among them."""
        return 2 * self.y.elements * self.x.shape[self.frame.c] // self.convolution.groups * self.convolution.taps

    @property
    def scratch(self) -> int:
        """The tile, and unfinished sums or a panel that is to be turned."""
        width = self.tiling.vectors * LANES
        if self.chunks > 1:
            rows = padded(self.out_channels)
        else:
            rows = 0 if self.y_planes else self.tiling.panel
        tile = 0 if self.tiling.row else self.tiling.chunk
        return (tile + rows) * width

    @property
    def lines_ahead(self) -> int:
        """Cache lines of entries that a group of lists reads on average; 0 where all entries stay in the second cache."""
        tiling = self.tiling
        total = 4 * tiling.entry_words * self.entries
        groups = tiling.bands * self.chunks * padded(self.out_channels) // tiling.group_rows
        return min(-(-total // (64 * groups)), MOST_LINES_AHEAD) if total > STAYS_BYTES else 0

    @property
    def packed(self) -> Sequence[Packed]:
        """The pattern with its weights, and the bias."""
        tiling = self.tiling
        rounds, panels = tiling.bands * self.chunks, tiling.panels(self.out_channels)
        return (
            Packed("groups", "i32", (rounds * padded(self.out_channels) // tiling.group_rows, 2)),
            Packed("entries", "i32", (self.entries, tiling.entry_words)),
            Packed("starts", "i32", (rounds, panels)),
            Packed("work", "i32", (tiling.bands * panels + 1,)),
            Packed("bias", "f32", (self.y.shape[self.frame.c] + LANES,)),
        )

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """See `sparse_pattern.py`."""
        import numpy

        matrix = matrix_of(numpy.asarray(read(self.weight), dtype=numpy.float32), self.convolution.groups, self.tiling.bands, self.x_planes)
        bias = numpy.zeros(self.y.shape[self.frame.c] + LANES, dtype=numpy.float32)
        if self.bias is not None:
            bias[: self.y.shape[self.frame.c]] = read(self.bias)
        real = real_inputs(self.in_channels, self.convolution.taps, self.x_planes)
        return (*pack_entries(matrix, real, self.tiling), bias)

    def describe(self) -> str:
        """Attributes, channels, pixels, tile."""
        n, c, h, w = self.frame.sizes(self.y.shape)
        images = f"{n}x" if n != 1 else ""
        layout = f"{'planes' if self.x_planes else 'lanes'} to {'planes' if self.y_planes else 'lanes'}"
        what = f"{self.convolution.text} {self.x.shape[self.frame.c]}->{c} @{images}{h}x{w}"
        return f"{what} {self.density:.0%} filled{self.chain.text}, {layout}, {self.tiling.text}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `sparse_product`."""
        flat = flat_frame(self.frame)
        x = plane_strides(self.x, self.frame) or lane_strides(self.x, self.frame)
        y = plane_strides(self.y, flat) or lane_strides(self.y, self.frame)
        images, _, height, width = self.frame.sizes(self.y.shape)
        in_height, in_width = self.frame.sizes(self.x.shape)[2:]
        conv, tiling = self.convolution, self.tiling
        halo = self.x.halo if self.x_planes else (0, 0)
        vectors = -(-height * width * (images if tiling.joined else 1) // LANES)
        tiles = -(-vectors // tiling.vectors)
        shape = shape_code(
            {
                "IMAGES": images,
                "BANDS": (tiling.bands, "parts that do not see each other's channels"),
                "IN_CHANNELS": self.in_channels,
                "OUT_CHANNELS": self.out_channels,
                "IN_HEIGHT": in_height,
                "IN_WIDTH": in_width,
                "OUT_HEIGHT": height,
                "OUT_WIDTH": width,
                "KERNEL_H": conv.kernel[0],
                "KERNEL_W": conv.kernel[1],
                "STRIDE_H": conv.stride[0],
                "STRIDE_W": conv.stride[1],
                "PADDING_H": conv.padding[0],
                "PADDING_W": conv.padding[1],
                "DILATION_H": conv.dilation[0],
                "DILATION_W": conv.dilation[1],
                "X": (x, "n, channel, row, pixel" if self.x_planes else "n, group of 16 channels, row, pixel"),
                "X_PLANES": self.x_planes,
                "X_PADDED": (self.x.blocked_axis is not None, "the last group of channels is whole in memory"),
                "HALO_H": (halo[0], "zeros around planes of x"),
                "HALO_W": halo[1],
                "Y": (y, "n, channel, -, pixel" if self.y_planes else "n, group of 16 channels, row, pixel"),
                "Y_PLANES": self.y_planes,
                "Y_PADDED": self.y.blocked_axis is not None,
                "ROWS": (tiling.rows, "output channels that share a pattern"),
                "LISTS": (tiling.lists, "lists of entries in lock step"),
                "JOINED": (tiling.joined, "tiles may have pixels of several images"),
                "VECTORS": (tiling.vectors, "of 16 pixels: a tile"),
                "TILES": tiles,
                "LARGE_TILES": (vectors - tiles * (tiling.vectors - 1), "the others have one vector less"),
                "BUFFERED": is_long(self.chain),
                "LINES_AHEAD": (self.lines_ahead, "of entries, asked for per group of lists"),
                "DIRECT": (tiling.row != 0, "tiles are read where they are in x"),
                "CHUNK": (tiling.chunk, "inputs (channel, tap) whose tile is in L1"),
                "PANEL": (tiling.panel, "output channels that a worker does at a time"),
            }
        )
        chain_frame, sizes = (flat, flat.sizes(self.y.shape)) if self.y_planes else (self.frame, self.frame.sizes(self.y.shape))
        epilogue, made = epilogue_code(self.chain, chain_frame, sizes, pointers, lanes="w" if self.y_planes else "c")
        arguments = [pointers.read(self.x), *(pointers.packed(index) for index in range(5)), pointers.write(self.y), pointers.scratch, made]
        return Code(f"{shape}{epilogue}", f"sparse_product<S>(worker, {', '.join(arguments)});")
