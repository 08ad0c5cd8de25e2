"""Which sparse kernels are worth timing for a layer, and what they are expected to cost.

Measured on one core of a Cascade Lake (150 GFLOPS, 32 KiB of first cache), as a fraction of the time that a dense
kernel at peak takes:

| layer, density | 0.5 | 0.2 | 0.1 |
|---|---|---|---|
| 768 -> 768, 128 tokens, any pattern | 0.87 | 0.40 | 0.25 |
| the same, 2x1 blocks | 0.75 | 0.37 | |
| the same, 4x1 blocks | 0.64 | 0.32 | |

What is left of peak goes to two places: the multiply-adds of a single row are bound by loads (60 to 70% of peak), and
unfinished sums travel between the first and second cache once per chunk of inputs (45% of peak at a density of 0.1).

Tried on the same machine, and no faster: offsets in bytes, sums that go on from where they were saved, 8 lists of 2 or
3 vectors, 5 or 6 vectors, chunks of 64 to 192, asking for sums ahead, sorting all rows of a layer by length. Nor was
turning 16 channels once for all taps of a 3x3 convolution and copying them shifted: turning is cheap beside the copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.sparse import SparseProduct, flat_frame, join_groups, matrix_of, plane_strides
from graphopt.backends.cpu.kernels.sparse_columns import SparseColumns, column_tiling, count_columns
from graphopt.backends.cpu.kernels.sparse_pattern import SparseTiling, count_entries, fill_of_rows, padded
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy

__all__ = ["make_columns", "make_sparse", "sparse_candidates", "sparse_cost", "tiling_for"]

TILE_BYTES = 25 << 10
"""Of the first cache, 32 KiB; the rest is for weights and sums that pass through."""

VECTORS = {1: 4, 2: 4, 4: 6, 8: 3}
"""Vectors of a tile by outputs that share a pattern: few, so that a tile has many inputs, but enough to keep the
multiply-adds busy."""

LISTS = {1: 4, 2: 2, 4: 1, 8: 1}
"""Lists in lock step, so that about 16 sums are under way."""

RATE = {1: 1.45, 2: 1.3, 4: 1.1, 8: 1.1, 16: 1.1}
"""Time per stored weight by outputs that share a pattern, against a multiply-add at peak."""

MOST_OFFSET = 1 << 16
"""Offsets of rows of a tile have 16 bits and count vectors."""


def sparse_cost(outputs: int, depth: int, pixels: int, fill: float, rows: int = 1) -> float:
    """Expected time against a dense kernel at peak; below about 0.9 a layer is worth being sparse.

    `fill` is the fraction of weights that are stored when `rows` outputs share a pattern, `depth` inputs and taps.
    """
    vectors = -(-pixels // LANES)
    if rows == LANES:
        return RATE[rows] * fill + 0.02
    # each sum is loaded and stored once per chunk, and each input turned or copied once
    sums = 10 / min(depth, TILE_BYTES // (4 * LANES * min(vectors, VECTORS[rows])))
    return (RATE[rows] * fill + sums + 16 / outputs) * vectors * LANES / pixels


def tiling_for(
    outputs: int,
    depth: int,
    pixels: int,
    images: int = 1,
    bands: int = 1,
    rows: int = 1,
    *,
    most: int = 0,
    tile_bytes: int = TILE_BYTES,
    lists: int = 0,
) -> SparseTiling:
    """A tiling for `outputs` and `depth` of a band. `most` is the number of vectors of a tile; 0 the usual one."""
    whole = -(-pixels // LANES)
    tiles = -(-whole // (most or VECTORS[rows]))
    vectors = -(-whole // tiles)
    limit = max(LANES, tile_bytes // (vectors * LANES * 4))
    chunk = -(-depth // -(-depth // limit))
    chunk = min(padded(chunk), limit // LANES * LANES)
    panel = 64
    while panel > LANES and images * tiles * bands * -(-padded(outputs) // panel) < 16:  # something to share for workers
        panel //= 2
    return SparseTiling(rows, lists or LISTS[rows], vectors, chunk, panel, bands)


def make_sparse(
    x: Storage,
    y: Storage,
    weight: str,
    bias: str | None,
    convolution: Convolution,
    frame: Frame,
    numbers: numpy.ndarray,
    rows: int = 1,
    chain: Chain | None = None,
    *,
    most: int = 0,
    tile_bytes: int = TILE_BYTES,
    lists: int = 0,
    direct: bool = False,
    joined: bool = False,
) -> SparseProduct:
    """One kernel, for the numbers of its weight [O, C / groups, ...]."""
    images, outputs, height, width = frame.sizes(y.shape)
    bands = join_groups(convolution.groups, outputs, x.shape[frame.c])
    matrix = matrix_of(numbers, convolution.groups, bands, plane_strides(x, frame) is not None)
    pixels, stretches = (images * height * width, 1) if joined else (height * width, images)
    tiling = tiling_for(outputs // bands, matrix.shape[1], pixels, stretches, bands, rows, most=most, tile_bytes=tile_bytes, lists=lists)
    tiling = replace(tiling, joined=joined)
    if direct:
        strides = plane_strides(x, frame)
        assert strides is not None, f"{x.text} is no planes"
        tiling = replace(tiling, row=strides.block // LANES)
    density = float((numbers != 0).mean())
    return SparseProduct(x, y, weight, bias, convolution, frame, tiling, count_entries(matrix, tiling), density, chain or Chain())


def make_columns(
    x: Storage,
    y: Storage,
    weight: str,
    bias: str | None,
    convolution: Convolution,
    frame: Frame,
    numbers: numpy.ndarray,
    chain: Chain | None = None,
) -> SparseColumns:
    """The kernel for 16x1 blocks; x and y have 16 channels side by side."""
    _, outputs, height, width = frame.sizes(y.shape)
    tiling = column_tiling(x.shape[frame.c], outputs, height, width, convolution)
    entries = count_columns(numbers, convolution.groups)
    return SparseColumns(x, y, weight, bias, convolution, frame, tiling, entries, float((numbers != 0).mean()), chain or Chain())


def sparse_candidates(
    x: Storage,
    y: Storage,
    weight: str,
    bias: str | None,
    convolution: Convolution,
    frame: Frame,
    numbers: numpy.ndarray,
    chain: Chain | None = None,
) -> list[Kernel]:
    """Kernels to time for a weight [O, C / groups, ...], the best guess first.

    Patterns are found in the numbers: an N:M pattern that outputs share, or blocks in a weight that is said to be
    unstructured, are used as blocks are. Weights without zeros give kernels too; see `sparse_cost`.
    """
    images, outputs, height, width = frame.sizes(y.shape)
    joined = _can_join(x, y, frame)
    depth, pixels = numbers[0].size, height * width * (images if joined else 1)
    matrix = numbers.reshape(outputs, -1)
    fills = {rows: fill_of_rows(matrix, rows) for rows in RATE}
    lanes = frame.strides(x) is not None and frame.strides(y) is not None
    costs = {rows: sparse_cost(outputs, depth, pixels, fills[rows], rows) for rows in RATE if rows < LANES or lanes}
    best = min(costs.values())
    found: list[tuple[float, Kernel]] = []
    for rows, cost in costs.items():
        if cost > 1.15 * best:
            continue
        if rows == LANES:
            found.append((cost, make_columns(x, y, weight, bias, convolution, frame, numbers, chain)))
            continue
        for rank, options in enumerate(_options(x, frame, convolution, depth, pixels, joined)):
            kernel = make_sparse(x, y, weight, bias, convolution, frame, numbers, rows, chain, **options)  # pyright: ignore[reportArgumentType]  # some are truth values
            if kernel not in [other for _, other in found]:
                found.append((cost + 0.01 * rank, kernel))
    return [kernel for _, kernel in sorted(found, key=lambda item: item[0])]


def _options(x: Storage, frame: Frame, convolution: Convolution, depth: int, pixels: int, joined: bool) -> Iterator[dict[str, int]]:
    """Variants of a tiling that have been the fastest somewhere."""
    if joined:
        yield {"joined": True}
    yield {}
    if depth <= 64:
        yield {"most": 6}  # all inputs of a larger tile fit in the first cache
    if _is_direct(x, frame, convolution, pixels):
        yield {"direct": True}


def _can_join(x: Storage, y: Storage, frame: Frame) -> bool:
    """True for several images with 16 channels side by side that are too small to fill tiles by themselves."""
    images, _, height, width = frame.sizes(y.shape)
    if images == 1 or plane_strides(x, frame) is not None or plane_strides(y, flat_frame(frame)) is not None:
        return False
    if height == 1 and y.blocked_axis is None:  # rows of features, whose lines are asked for by their place in one image
        return False
    pixels, tile = height * width, VECTORS[1] * LANES
    return -(-pixels // LANES) * LANES > 1.1 * pixels or pixels < tile


def _is_direct(x: Storage, frame: Frame, convolution: Convolution, pixels: int) -> bool:
    """True when whole vectors can be read in planes of x, none of which reaches over the end, and without conflicts
    in the first cache."""
    strides = plane_strides(x, flat_frame(frame))
    if strides is None or not convolution.is_pointwise or pixels % LANES or strides.block % LANES or strides.n % LANES or x.offset % LANES:
        return False
    row = strides.block // LANES
    return row * (TILE_BYTES // (VECTORS[8] * LANES * 4)) < MOST_OFFSET and row % 8 != 0
