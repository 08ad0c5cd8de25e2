"""Which Winograd kernels are worth timing for a convolution, the most promising first.

Times are estimated from what was measured on one core of a Cascade Lake (150 GFLOPS from registers): products run
at 88% of peak while weights arrive in time, transforms are bound by stores to the second cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.panels import vectors_of
from graphopt.backends.cpu.kernels.winograd import WinogradConv, WinogradTiling, winograd_refusal
from graphopt.backends.cpu.kernels.winograd_transforms import ORDERS
from graphopt.backends.cpu.storage import LANES, Storage

__all__ = ["estimated_seconds", "winograd_candidates"]

MOST = 4
"""Candidates."""
CACHE_BYTES = 640 << 10
"""Of the second cache, 1 MiB, for V and M of a block; weights pass through the rest."""
SHARED_BYTES = 16 << 20
"""Of the third cache, for V of all blocks."""
REGISTER_TILES = {1: 14, 2: 14, 3: 9}
"""Tiles in registers by vectors of output channels."""

PRODUCT = 132e9
"""Floating-point operations a second."""
INPUT, OUTPUT = 2.5e-9, 2.3e-9
"""Seconds to transform 16 channels of a tile, per frequency."""
MEMORY, CACHE = 10e9, 20e9
"""Bytes a second from memory and from the third cache, for one core."""


def winograd_candidates(
    x: Storage,
    y: Storage,
    weight: str,
    bias: str | None,
    convolution: Convolution,
    chain: Chain | None = None,
    *,
    pool: bool = False,
    threads: int = 2,
    orders: Sequence[int] = ORDERS,
) -> list[WinogradConv]:
    """At most four kernels, at most two of an order; none where the layouts or the attributes do not do.

    `orders` are those whose error (`winograd_error`) is small enough. With `pool`, y is max_pool2d(result, 2).
    """
    if winograd_refusal(x, y, convolution) is not None or 0 in (*x.shape, *y.shape):
        return []
    first = WinogradConv(x, y, weight, bias, convolution, WinogradTiling(ORDERS[0], "tiles", 1), chain or Chain(), pool)
    found = [replace(first, tiling=tiling) for order in orders for tiling in _tilings(first, order, threads)]
    found.sort(key=lambda kernel: estimated_seconds(kernel, threads))
    kept: list[WinogradConv] = []
    for kernel in found:
        if sum(other.tiling.order == kernel.tiling.order for other in kept) < 2:
            kept.append(kernel)
    return kept[:MOST]


def _tilings(first: WinogradConv, order: int, threads: int) -> Iterator[WinogradTiling]:
    groups = vectors_of(first.y.shape[1])
    vectors = 3 if groups % 3 == 0 and groups % 2 else min(groups, 2)
    start = WinogradTiling(order, "tiles", 1, vectors, vectors)
    tiles = replace(first, tiling=start).tiles
    seen: set[WinogradTiling] = set()
    for calls in (2, 1, 3):
        block = _even(tiles, calls * REGISTER_TILES[vectors], threads)
        tiling = replace(start, block=block)
        fits = 4 * replace(first, tiling=tiling).scratch <= CACHE_BYTES
        if (fits or calls == 1) and tiling not in seen:
            seen.add(tiling)
            yield tiling
    for calls in (4, 2):
        block = _even(tiles, calls * REGISTER_TILES[vectors], 1)
        for panel in (2 * vectors, vectors):
            tiling = replace(start, schedule="channels", block=block, panel=panel)
            kernel = replace(first, tiling=tiling)
            shares = kernel.blocks * -(-groups // panel)
            if 4 * kernel.shared <= SHARED_BYTES and 4 * kernel.scratch <= CACHE_BYTES and shares >= threads and tiling not in seen:
                seen.add(tiling)
                yield tiling


def _even(tiles: int, most: int, threads: int) -> int:
    """Tiles of a block: at most about `most`, so that threads get equal numbers of blocks."""
    count = -(-tiles // most)
    if tiles >= 4 * threads:
        count = -(-count // threads) * threads
    return -(-tiles // count)


def estimated_seconds(kernel: WinogradConv, threads: int) -> float:
    """Time of a kernel whose weights are not in a cache yet."""
    tiling = kernel.tiling
    frequencies, block = (tiling.order + 2) ** 2, tiling.block
    channels = kernel.x.shape[1]
    in_groups, out_groups = vectors_of(channels), vectors_of(kernel.y.shape[1])
    panels = -(-out_groups // tiling.panel)
    if tiling.schedule == "tiles":
        blocks = -(-kernel.blocks // threads)
        multiplied = blocks * block * out_groups
        transformed = blocks * block
        weights_passes, weights_share = blocks, 1.0
        v_reads = 0.0
    else:
        shares = -(-kernel.blocks * panels // threads)
        multiplied = shares * block * tiling.panel
        transformed = kernel.tiles / threads
        weights_passes, weights_share = 1, 1 / threads
        v_reads = shares * 4.0 * kernel.shared / kernel.blocks if 4 * kernel.shared > CACHE_BYTES else 0.0
    weights = 4.0 * frequencies * channels * out_groups * LANES * weights_share
    passes = weights_passes - 1 if weights > CACHE_BYTES else 0
    product = 2.0 * frequencies * channels * LANES * multiplied / PRODUCT
    traffic = weights / MEMORY + (passes * weights + v_reads) / CACHE
    transforms = frequencies * (INPUT * transformed * in_groups + OUTPUT * multiplied)
    return transforms + max(product, traffic) + 0.25 * min(product, traffic)
