"""Which sparse kernels are worth timing for a layer, and what they are expected to cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.sparse import SparseProduct, join_groups, matrix_of, plane_strides
from graphopt.backends.cpu.kernels.sparse_pattern import SparseTiling, count_entries, fill_of_rows, padded
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy

    from graphopt.backends.cpu.kernels.sparse_pattern import Floats

__all__ = ["make_sparse", "even_vectors", "tiling_for"]

TILE_BYTES = 25 << 10
"""Of the first cache, 32 KiB; the rest is for weights and sums that pass through."""

VECTORS = {1: 4, 2: 6, 4: 6, 8: 6}
"""Vectors of a tile by outputs that share a pattern."""

LISTS = {1: 4, 2: 2, 4: 1, 8: 1}


def even_vectors(pixels: int, most: int) -> int:
    """Vectors of the larger tiles when an image is cut into tiles of at most `most`."""
    vectors = -(-pixels // LANES)
    return -(-vectors // -(-vectors // most))


def tiling_for(outputs: int, depth: int, pixels: int, images: int, bands: int, rows: int, most: int, tile_bytes: int = TILE_BYTES) -> SparseTiling:
    """A tiling for `outputs` and `depth` of a band."""
    vectors = even_vectors(pixels, most)
    limit = max(LANES, tile_bytes // (vectors * LANES * 4) - 1)
    chunk = -(-depth // -(-depth // limit))
    chunk = min(-(-chunk // LANES) * LANES, limit // LANES * LANES)
    tiles = images * -(-(-(-pixels // LANES)) // vectors)
    panel = 64
    while panel > LANES and tiles * bands * -(-padded(outputs) // panel) < 16:
        panel //= 2
    return SparseTiling(rows, LISTS[rows], vectors, chunk, panel, bands)


def make_sparse(
    x: Storage,
    y: Storage,
    weight: str,
    bias: str | None,
    convolution: Convolution,
    frame: Frame,
    numbers: numpy.ndarray,
    rows: int = 1,
    most: int | None = None,
    chain: Chain | None = None,
    tile_bytes: int = TILE_BYTES,
) -> SparseProduct:
    """One kernel."""
    images, outputs, height, width = frame.sizes(y.shape)
    channels = x.shape[frame.c]
    bands = join_groups(convolution.groups, outputs, channels)
    matrix = matrix_of(numbers, convolution.groups, bands, plane_strides(x, frame) is not None)
    tiling = tiling_for(outputs // bands, matrix.shape[1], height * width, images, bands, rows, most or VECTORS[rows], tile_bytes)
    density = float((numbers != 0).mean())
    return SparseProduct(x, y, weight, bias, convolution, frame, tiling, count_entries(matrix, tiling), density, chain or Chain())
