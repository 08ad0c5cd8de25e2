"""Which dense kernels are worth timing for a convolution or a linear layer, the most promising first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.direct import DirectConv, image_strides
from graphopt.backends.cpu.kernels.grouped import GroupedConv, fits_grouped
from graphopt.backends.cpu.kernels.linear import Linear, LinearTiling, LinearVector
from graphopt.backends.cpu.kernels.panels import vectors_of
from graphopt.backends.cpu.kernels.tilings import Tile, Tiling, chunk_for, cut, tiles_for
from graphopt.backends.cpu.storage import LANES, Storage

__all__ = ["direct_candidates", "linear_candidates"]

BLOCK_TILES = 16
"""Tiles that share a chunk of weights; their partial sums, 28 KB, live in the second cache."""
LEAST_UNITS = 8
"""Pieces of work, so that workers get equal shares."""
WHOLE_BYTES = 160 << 10
"""Weights of a set that may come from the second cache for each tile, instead of in chunks from the first."""
MANY_TILES = 14
"""So many make up for the first one's wait for weights."""
LEAST_DEPTH = 64
"""Input channels of a 1x1 convolution that are worth packing."""
FEW_SUMS = 20
"""A tile with fewer sums reads too much for what it computes."""
BLOCK_BYTES = 384 << 10
"""Of packed x: less than half of the second cache, 1 MiB."""
BLOCK_PIXELS = 192
"""Packed pixels that are worth reading all weights for."""
FAR_PIXELS = 64
"""Floats from pixel to pixel of x."""
FEW_OUTPUTS = 384
"""Packing x takes a noticeable part of the time."""
FEW_PIXELS = 8
"""So few pixels are bound by reading weights."""


def direct_candidates(
    x: Storage, y: Storage, weight: str, bias: str | None, convolution: Convolution, frame: Frame, chain: Chain | None = None
) -> list[Kernel]:
    """Kernels for a convolution whose padding is in x's halo; none where the layouts do not do.

    `frame` holds for x and y. For a pointwise convolution give one whose pixels are all in w, if x, y and the
    chain's operands allow it: then tiles are cut from all pixels, not from each row.
    """
    found = image_strides(x, frame)
    if found is None or frame.strides(y) is None or (found[1] != 1 and convolution.groups != 1):
        return []
    if any(halo < padding for halo, padding in zip(x.halo, convolution.padding, strict=True)) and x.rank == 4:
        return []
    first = DirectConv(x, y, weight, bias, convolution, frame, Tiling(Tile(1, 1, 1), LANES, 1, False), chain or Chain())
    direct: list[Kernel] = [first.tiled(tiling) for tiling in _direct_tilings(first, lanes=found[1] == 1)]
    if convolution.groups > 1 and fits_grouped(x, y, convolution, frame):
        return [GroupedConv.make(x, y, weight, bias, convolution, frame, chain or Chain()), *direct[:1]]
    if convolution.kernel != (1, 1) or convolution.padding != (0, 0) or convolution.groups != 1 or found[1] != 1:
        return direct
    packed = linear_candidates(x, y, weight, bias, frame, chain, convolution.stride)
    if first.pixels <= FEW_PIXELS:
        return [*packed, *direct[:1]]
    if first.in_channels < LEAST_DEPTH or first.out_channels < first.in_channels:
        return direct
    return [*direct[:2], *[kernel for kernel in packed if isinstance(kernel, Linear)][:1]]


def _direct_tilings(kernel: DirectConv, lanes: bool) -> list[Tiling]:
    images, outputs, height, width = kernel.frame.sizes(kernel.y.shape)
    taps, vectors = kernel.convolution.taps, vectors_of(outputs)
    groups = kernel.convolution.groups
    per_group = vectors_of(outputs // groups)
    strides = kernel.frame.strides(kernel.x)
    # Pixels far apart are in as many pages and compete for few cache sets: fewer of them at a time.
    most_pixels = 9 if strides is not None and abs(strides.w) > FAR_PIXELS else 28
    tiles = list(tiles_for(vectors if groups == 1 else per_group, height, width, most_pixels))
    if groups > 1:
        # sets within one group, or vectors that share as few groups as can be
        tiles = [tile for tile in tiles if tile.vectors == 1 or outputs // groups % (tile.vectors * LANES) == 0]
    tilings: list[Tiling] = []
    for tile in tiles[:2]:
        depth = kernel.tiled(Tiling(tile, LANES, 1, False)).depth
        count = -(-height // tile.rows) * -(-width // tile.columns)
        block = cut(count, BLOCK_TILES)
        while block > 4 and -(-vectors // tile.vectors) * images * -(-count // block) < LEAST_UNITS:
            block = cut(count, block // 2)
        weights, numbers = depth * taps * outputs, kernel.x.elements
        for chunk in _chunks(depth, taps, tile.vectors, count) if lanes else (depth,):
            tilings.append(Tiling(tile, chunk, block, weights > numbers))
    # the best tile in two ways, and the next best in one
    return [*tilings[:2], *[tiling for tiling in tilings[2:] if tiling.tile != tilings[0].tile][:1]]


def _chunks(depth: int, taps: int, vectors: int, tiles: int) -> Sequence[int]:
    """Input channels per pass, the most promising first: all, where their weights stay in L2, or as many as stay in L1."""
    near = chunk_for(depth, taps, vectors)
    if near == depth or depth * taps * vectors * LANES * 4 > WHOLE_BYTES:
        return (near,)
    return (depth, near) if tiles >= MANY_TILES else (near, depth)


def linear_candidates(
    x: Storage, y: Storage, weight: str, bias: str | None, frame: Frame, chain: Chain | None = None, stride: tuple[int, int] = (1, 1)
) -> list[Kernel]:
    """Kernels for y = x @ weight.T + bias along frame.c; none where the layouts do not do."""
    strides = frame.strides(x)
    if strides is None or strides.lane == 0 or frame.strides(y) is None:
        return []
    first = Linear(x, y, weight, bias, frame, LinearTiling(1, 1, LANES, 1, True), chain or Chain(), stride)
    sizes = frame.sizes(y.shape)
    packed: list[Kernel] = [replace(first, tiling=tiling) for tiling in _linear_tilings(first)]
    if first.pixels <= FEW_PIXELS and sum(size > 1 for size in (sizes[0], sizes[2], sizes[3])) <= 1:
        most = 4 if first.pixels < FEW_PIXELS else 3
        few = [LinearVector(x, y, weight, bias, frame, vectors, chain or Chain(), stride) for vectors in (most, 1)]
        return [*few, *packed[:1]] if first.pixels > 1 else list(few)
    if stride == (1, 1) and sizes[0] == 1 and sizes[2] == 1:
        # As they are, without packing: worth it where few output channels would use what was packed.
        rows = DirectConv(x, y, weight, bias, Convolution((1, 1)), frame, Tiling(Tile(1, 1, 1), LANES, 1, False), chain or Chain())
        packed.insert(0 if first.out_channels <= FEW_OUTPUTS else 1, rows.tiled(_direct_tilings(rows, lanes=True)[0]))
    return packed


def _linear_tilings(kernel: Linear) -> list[LinearTiling]:
    vectors, depth, pixels = vectors_of(kernel.out_channels), kernel.in_channels, kernel.pixels
    tilings: list[LinearTiling] = []
    for tile in tiles_for(vectors, 1, pixels, most_pixels=LANES)[:2]:
        if tilings and tile.vectors * tile.pixels < FEW_SUMS:
            continue
        far = cut(depth, WHOLE_BYTES // (tile.vectors * LANES * 4))
        chunks = (vectors_of(far) * LANES if far < depth else depth, chunk_for(depth, 1, tile.vectors))
        tiles = -(-pixels // tile.columns)
        # A block that is too small reads the weights too often, which costs more than a packed block that leaves L2.
        most = max(BLOCK_PIXELS, BLOCK_BYTES // (4 * depth))
        is_one = pixels <= most * 4 // 3
        for chunk in dict.fromkeys(chunks):
            tilings.append(LinearTiling(tile.vectors, tile.columns, chunk, tiles if is_one else cut(tiles, most // tile.columns), is_one))
    return tilings[:3]
