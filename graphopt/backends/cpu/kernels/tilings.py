"""Sizes that a dense kernel is cut into: the register tile, chunks of channels, blocks of tiles.

What was measured (Cascade Lake, one core, 150 GFLOPS; weights from memory):

| tile, vectors x pixels | from L1 | why |
|---|---|---|
| 2 x 14, 2 x 7, 3 x 8, 3 x 9 | 97% | less than one load a cycle |
| 4 x 6 | 95% | |
| 4 x 7 | 90% | no register is left for the broadcast number, which is loaded for each use |
| 1 x 28 | 87% | the same |

Weights of a chunk stay in L1 while a block of tiles goes over them: 12 to 18 KB is best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.storage import LANES

__all__ = ["Tile", "Tiling", "chunk_for", "cut", "is_long", "tiles_for"]

CHUNK_BYTES = 18 << 10
"""Of the first cache, 32 KiB; the rest is for x and sums."""

MOST_PIXELS = {1: 28, 2: 14, 3: 9, 4: 6}
"""Pixels of a tile by its vectors, for 32 registers."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Sums in registers: `vectors` x 16 output channels of rows x columns pixels, for 32 registers."""

    vectors: int
    rows: int
    columns: int

    @property
    def pixels(self) -> int:
        """Of a tile."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Tiling:
    """See the constants of the same names in `conv_direct.hpp`."""

    tile: Tile
    chunk: int
    block: int
    weights_outer: bool

    @property
    def text(self) -> str:
        """`tile 2x(1x14) chunk 16 block 8 w`."""
        tile = self.tile
        return (
            f"tile {tile.vectors}x({tile.rows}x{tile.columns}) chunk {self.chunk} block {self.block} {'w' if self.weights_outer else 'x'}"
        )


def is_long(chain: Chain) -> bool:
    """True when the chain should not be repeated in the code for every sum of a tile."""
    cheap = {"relu", "add", "mul", "sub", "clamp", "relu6"}
    return any(operation.op not in cheap for operation in chain.operations) or len(chain.operations) > 2


def cut(total: int, most: int) -> int:
    """Size of even pieces of at most `most`."""
    return -(-total // -(-total // most))


def _cycles(vectors: int, pixels: int) -> float:
    """Cycles per step of the sum: multiply-adds, loads and instructions, of which 2, 2 and 4 begin in a cycle."""
    multiplies = vectors * pixels
    spilled = vectors == 1 or (multiplies > 27 and vectors > 2)
    loads = vectors + (multiplies if spilled else pixels)
    instructions = multiplies + vectors + 3 + (0 if spilled else pixels)
    # four cycles until a sum can be added to again; now and then a load misses, more often one of weights
    return max(multiplies / 2, loads / 2, instructions / 4, 4.0) + 0.08 * vectors + 0.02 * pixels


def efficiency(vectors: int, tile: Tile, height: int, width: int) -> float:
    """Part of peak that a tile can reach on an image and so many output vectors, from L1."""
    made = -(-height // tile.rows) * tile.rows * -(-width // tile.columns) * tile.columns
    full, rest = divmod(vectors, tile.vectors)
    cycles = full * _cycles(tile.vectors, tile.pixels) + (_cycles(rest, tile.pixels) if rest else 0.0)
    # what a tile costs once: starting and storing its sums
    return (height * width / made) * vectors * tile.pixels / 2 / (cycles * (1 + 0.1 / tile.pixels))


@cache
def tiles_for(vectors: int, height: int, width: int, most_pixels: int = 28) -> Sequence[Tile]:
    """The best tile for each number of vectors, the best of all first."""
    best: list[tuple[float, Tile]] = []
    for wanted in range(1, min(vectors, 4) + 1):
        tiles = list(_tiles(wanted, height, width, min(most_pixels, MOST_PIXELS[wanted])))
        best.append(max(((efficiency(vectors, tile, height, width), tile) for tile in tiles), key=lambda pair: (pair[0], pair[1].columns)))
    return tuple(tile for _, tile in sorted(best, key=lambda pair: -pair[0]))


def _tiles(vectors: int, height: int, width: int, most: int) -> Iterator[Tile]:
    for columns in sorted({cut(width, size) for size in range(1, most + 1)}):
        for rows in sorted({cut(height, size) for size in range(1, most // columns + 1)}):
            yield Tile(vectors, rows, columns)


def chunk_for(depth: int, taps: int, vectors: int) -> int:
    """Input channels whose weights fit into L1, a multiple of 16, or all."""
    channels = max(LANES, CHUNK_BYTES // (max(taps, 1) * vectors * LANES * 4) // LANES * LANES)
    # a short last chunk is hardly worth a pass
    return depth if depth <= channels * 5 // 4 else channels
