"""How a mobile block is cut for its caches and workers (`inverted_residual.hpp`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from graphopt.backends.cpu.kernels.pixel_tiles import PixelTile, pixel_tiles
from graphopt.backends.cpu.kernels.windows import Window
from graphopt.backends.cpu.storage import LANES

__all__ = ["BlockShape", "MobileTiling", "Split", "mobile_tilings", "ring_runs"]

Split: TypeAlias = 'Literal["bands", "channels"]'

L1_FLOATS = 12 * 1024
"""Floats of a ring of widened rows: the first cache level and a little of the second."""
L2_FLOATS = 160 * 1024
"""Floats of a band of the middle: 640 KB of a second cache level of 1 MB."""

SMALL_IMAGE = 14 * 14
"""Pixels of a result up to which sharing channels is as good as bands."""


@dataclass(frozen=True, slots=True)
class BlockShape:
    """Sizes of a block: images, pairs (rows, columns), groups of 16 channels (`narrow` 0: no second 1x1 convolution)."""

    images: int
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    window: Window
    middle: int
    narrow: int
    widens: bool
    is_flat: bool
    """x has no gap between rows."""


@dataclass(frozen=True, slots=True)
class MobileTiling:
    """See the constants of the same names in `inverted_residual.hpp`. Workers share bands, or channels."""

    split: Split
    band: int
    step: int
    ring: int
    widen: PixelTile
    narrow: PixelTile

    @property
    def text(self) -> str:
        """`bands of 14, step 2, tiles 3x8 2x14`."""
        split = f"bands of {self.band}" if self.split == "bands" else "channels"
        return f"{split}, step {self.step}, tiles {self.widen.text} {self.narrow.text}"


def _ring(shape: BlockShape, band: int, step: int) -> int:
    stride = shape.window.stride[0]
    if step >= band:
        return min(shape.inputs[0], (band - 1) * stride + shape.window.rows)
    new = step * stride  # rows that each step adds; a multiple of it keeps them together
    return -(-((step - 1) * stride + shape.window.rows) // new) * new


def ring_runs(shape: BlockShape, band: int, step: int, ring: int) -> Iterator[int]:
    """Numbers of pixels that are widened in one go: pieces of rows that lie side by side in the ring."""
    stride, padding = shape.window.stride[0], shape.window.padding[0]
    height, width = shape.inputs
    rows = shape.outputs[0]
    for begin in range(0, rows, band):
        ready = 0
        for first in range(begin, min(begin + band, rows), step):
            last = min(first + step, begin + band, rows) - 1
            ready = max(ready, first * stride - padding)
            need = min(last * stride - padding + shape.window.rows, height)
            while ready < need:
                count = min(need - ready, ring - ready % ring if shape.is_flat else 1)
                yield count * width
                ready += count


def _band_runs(shape: BlockShape, band: int) -> list[int]:
    rows, width = shape.outputs
    return [min(band, rows - begin) * width for begin in range(0, rows, band)]


def _tiling(shape: BlockShape, split: Split, band: int) -> MobileTiling | None:
    step, ring, widen = band, 0, PixelTile(min(2, shape.middle), 1)
    for step in (band, 4, 2, 1) if shape.widens else ():
        ring = _ring(shape, band, step)
        runs = list(ring_runs(shape, band, step, ring))
        if not runs:
            return None
        tiles = pixel_tiles(shape.middle, runs)
        if split == "channels":  # two workers, or four, want as many chunks each
            tiles.sort(key=lambda tile: -(-shape.middle // tile.vectors) % 2)
        widen = tiles[0]
        if step <= band and ring * shape.inputs[1] * widen.vectors * LANES <= L1_FLOATS:
            break
    narrow = pixel_tiles(shape.narrow, _band_runs(shape, band))[0] if shape.narrow else PixelTile(1, 1)
    return MobileTiling(split, band, step, ring, widen, narrow)


def mobile_tilings(shape: BlockShape) -> list[MobileTiling]:
    """Tilings worth measuring, best guess first.

    Bands where they are tall enough that the rows around them don't matter, and two or four workers have as many;
    channels where the image is small and there are more weights than pixels.
    """
    rows, columns = shape.outputs
    heights = list(dict.fromkeys(-(-rows // parts) for parts in ((1,) if shape.images > 1 else ()) + (2, 4, 8)))
    fitting = [band for band in heights if band * columns * shape.middle * LANES <= L2_FLOATS] or heights[-1:]
    if rows * columns > SMALL_IMAGE:
        return _known([_tiling(shape, "bands", band) for band in fitting[:2]])
    found = [_tiling(shape, "channels", rows), _tiling(shape, "bands", fitting[0])]
    return _known(found if shape.images == 1 else found[::-1])


def middle_tilings(shape: BlockShape) -> list[MobileTiling]:
    """The same for a block without its second 1x1 convolution, of which bands and channels are shared at once."""
    rows = shape.outputs[0]
    heights = list(dict.fromkeys(-(-rows // parts) for parts in (1, 2, 4)))
    return _known([_tiling(shape, "bands", band) for band in heights])


def _known(tilings: Sequence[MobileTiling | None]) -> list[MobileTiling]:
    return list(dict.fromkeys(tiling for tiling in tilings if tiling is not None))
