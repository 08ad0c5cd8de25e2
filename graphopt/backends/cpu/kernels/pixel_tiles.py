"""Register tiles of 1x1 convolutions over pixels that follow each other (`pointwise_tiles.hpp`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.storage import Storage

__all__ = ["PixelTile", "is_flat", "pixel_tiles"]


@dataclass(frozen=True, slots=True)
class PixelTile:
    """Sums in registers: `vectors` x 16 output channels of so many pixels, for 32 registers."""

    vectors: int
    pixels: int

    @property
    def text(self) -> str:
        """`2x14`."""
        return f"{self.vectors}x{self.pixels}"


SHAPES = {1: range(1, 17), 2: range(1, 15), 3: range(1, 10), 4: range(1, 7)}
"""Pixels by vectors: the sums, a vector of weights for each output vector and an input have to fit in 32 registers."""


def _cycles(vectors: int, pixels: int) -> float:
    """Per step of the sum on a Cascade Lake core: two multiply-adds or 1.6 loads a cycle, 4 cycles until a sum can be
    added to again; part of a cycle for the loop and for each weight from the second cache level. Within 5% of what was
    measured for depths of 24 to 960."""
    return max(vectors * pixels / 2, (vectors + pixels) / 1.6, 4.0) + 0.4 + 0.25 * vectors


def _cost(tile: PixelTile, groups: int, runs: Sequence[int]) -> float:
    full, rest = divmod(groups, tile.vectors)
    once = full * _cycles(tile.vectors, tile.pixels) + (_cycles(rest, tile.pixels) if rest else 0)
    return once * sum(-(-run // tile.pixels) for run in runs)


def pixel_tiles(groups: int, runs: Sequence[int]) -> list[PixelTile]:
    """Tiles for so many groups of output channels and runs of pixels: one for each number of vectors, the fastest by a
    count of cycles first.

    No tile is longer than the shortest run.
    """
    best = [
        min(
            (PixelTile(vectors, count) for count in counts if count <= min(runs)), key=lambda tile: (_cost(tile, groups, runs), tile.pixels)
        )
        for vectors, counts in SHAPES.items()
        if vectors <= groups
    ]
    return sorted(best, key=lambda tile: _cost(tile, groups, runs))


def is_flat(storage: Storage, frame: Frame) -> bool:
    """True when the rows of an image follow each other without a gap."""
    strides = frame.strides(storage)
    _, _, height, width = frame.sizes(storage.shape)
    return strides is not None and (height == 1 or strides.h == width * strides.w)
