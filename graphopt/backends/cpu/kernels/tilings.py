"""Sizes that a dense kernel is cut into: the register tile, chunks of channels, blocks of tiles."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.cpu.chain import Chain

__all__ = ["Tile", "Tiling", "is_long"]


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
        return f"tile {tile.vectors}x({tile.rows}x{tile.columns}) chunk {self.chunk} block {self.block} {'w' if self.weights_outer else 'x'}"


def is_long(chain: Chain) -> bool:
    """True when the chain should not be repeated in the code for every sum of a tile."""
    cheap = {"relu", "add", "mul", "sub", "clamp", "relu6"}
    return any(operation.op not in cheap for operation in chain.operations) or len(chain.operations) > 2
