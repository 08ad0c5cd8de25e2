"""A weight matrix with zeros as lists of entries, in the order in which `sparse.hpp` reads them.

[outputs, depth] -> per band, chunk of depth and panel of outputs:
  groups   lists of `rows` outputs that share a pattern, `lists` of them in lock step; equally long ones
           come together, because loops that end alike are foreseen by the processor
  entries  per step of a group: byte offsets of rows of the tile, then the weights
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.backends.cpu.storage import LANES

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float32]
    Integers = NDArray[numpy.int64]
    Words = NDArray[numpy.int32]
    Flags = NDArray[numpy.bool_]

__all__ = ["SparseTiling", "count_entries", "fill_of_rows", "pack_entries"]

GROUP_COST = 4
"""What a group costs besides its entries, in entries: sums are started and stored."""


@dataclass(frozen=True, slots=True)
class SparseTiling:
    """See the constants of the same names in `sparse.hpp`; `bands` split outputs and depth, `vectors` are of the larger tiles."""

    rows: int
    lists: int
    vectors: int
    chunk: int
    panel: int
    bands: int = 1
    row: int = 0
    """Vectors from a row of the tile to the next where tiles are read in planes of x, else 0."""
    joined: bool = False
    """Tiles may have pixels of several images."""

    @property
    def group_rows(self) -> int:
        """Outputs of a group."""
        return self.rows * self.lists

    @property
    def entry_words(self) -> int:
        """32-bit words of an entry: offsets of 16 bits, then weights."""
        return max(self.lists, 2) // 2 + self.group_rows

    def panels(self, outputs: int) -> int:
        """Of a band of so many outputs."""
        return -(-padded(outputs) // self.panel)

    @property
    def text(self) -> str:
        """`rows 1x4, 64 pixels, chunk 96`."""
        images = " of joined images" if self.joined else ""
        return f"rows {self.rows}x{self.lists}, {self.vectors * LANES} pixels{images}, chunk {self.chunk}"


def padded(outputs: int) -> int:
    """To whole vectors."""
    return -(-outputs // LANES) * LANES


@dataclass(frozen=True)
class _Chunk:
    """Groups of one band and chunk: blocks in the order of their lists, and lengths of groups."""

    order: Integers
    """Block (of `rows` outputs) of each list, list after list."""
    lengths: Integers
    """Entries of each group."""
    filled: Flags
    """[block, depth of the chunk]: what has an entry."""


def _chunks(matrix: Floats, tiling: SparseTiling, depth: int) -> list[tuple[int, int, _Chunk]]:
    """(first output, first of depth, groups) for each band and chunk. `matrix` is [outputs of a band, depth] per band."""
    import numpy

    found: list[tuple[int, int, _Chunk]] = []
    for band in range(tiling.bands):
        outputs = matrix.shape[0] // tiling.bands
        mine = matrix[band * outputs : (band + 1) * outputs]
        whole = numpy.zeros((padded(outputs), depth), dtype=bool)
        whole[:outputs] = mine != 0
        blocks = numpy.asarray(whole.reshape(-1, tiling.rows, depth).any(1))
        for first in range(0, depth, tiling.chunk):
            filled = blocks[:, first : first + tiling.chunk]
            counts = filled.sum(1)
            size = tiling.panel // tiling.rows
            order = numpy.concatenate(
                [start + numpy.argsort(counts[start : start + size], kind="stable") for start in range(0, len(counts), size)]
            )
            lengths = counts[order].reshape(-1, tiling.lists).max(1)
            found.append((band * outputs, first, _Chunk(order, lengths, filled)))
    return found


def count_entries(matrix: Floats, tiling: SparseTiling) -> int:
    """Entries of a matrix [outputs, depth of a band], padding of lists among them."""
    return int(sum(chunk.lengths.sum() for _, _, chunk in _chunks(matrix, tiling, matrix.shape[1])))


def fill_of_rows(matrix: Floats, rows: int) -> float:
    """Fraction of the weights that are stored when `rows` neighbouring outputs share a pattern."""
    import numpy

    outputs, depth = matrix.shape
    whole = numpy.zeros((-(-outputs // rows) * rows, depth), dtype=bool)
    whole[:outputs] = matrix != 0
    return float(whole.reshape(-1, rows, depth).any(1).mean()) if whole.size else 0.0


def pack_entries(matrix: Floats, real: Flags, tiling: SparseTiling) -> tuple[Words, Words, Words, Words]:
    """(groups, entries, starts, work) of a matrix [outputs, depth of a band]. `real` tells inputs that exist from padding."""
    import numpy

    outputs, depth = matrix.shape[0] // tiling.bands, matrix.shape[1]
    chunks = _chunks(matrix, tiling, depth)
    panel_groups = tiling.panel // tiling.group_rows
    groups: list[Words] = []
    entries: list[Words] = []
    starts: list[Integers] = []
    panels = tiling.panels(outputs)
    work = numpy.zeros(tiling.bands * panels, dtype=numpy.int64)
    total = 0
    for first_output, first, chunk in chunks:
        ends = numpy.cumsum(chunk.lengths)
        begins = ends - chunk.lengths
        starts.append(total + begins[::panel_groups])
        total += int(ends[-1])
        words = numpy.zeros((len(chunk.lengths), 2), dtype=numpy.int32)
        words[:, 0] = chunk.lengths
        places = numpy.zeros((len(chunk.lengths), 4), dtype=numpy.uint8)
        places[:, : tiling.lists] = (chunk.order % (tiling.panel // tiling.rows)).reshape(-1, tiling.lists)
        words[:, 1] = places.view("<i4")[:, 0]
        groups.append(words)
        mine = matrix[first_output : first_output + outputs, first : first + tiling.chunk]
        entries.append(_entries(mine, real[first : first + tiling.chunk], chunk, begins, tiling))
        band = first_output // outputs
        cost = numpy.add.reduceat(chunk.lengths + GROUP_COST, numpy.arange(0, len(chunk.lengths), panel_groups))
        work[band * panels : (band + 1) * panels] += cost
    shares = numpy.concatenate([[0], numpy.cumsum(work)])
    return (
        numpy.concatenate(groups).reshape(-1),
        numpy.concatenate(entries).reshape(-1),
        numpy.concatenate(starts).astype(numpy.int32),
        shares.astype(numpy.int32),
    )


def _entries(weights: Floats, real: Flags, chunk: _Chunk, begins: Integers, tiling: SparseTiling) -> Words:
    import numpy

    depth = weights.shape[1]
    row = tiling.row or tiling.vectors
    # Where a list ends early: an input at which all weights of its outputs are zero. If there is none, no list is longer.
    free = (~chunk.filled & real).argmax(1)[chunk.order].reshape(-1, tiling.lists)
    at = numpy.zeros((int(chunk.lengths.sum()), max(tiling.lists, 2)), dtype=numpy.uint16)
    at[:, : tiling.lists] = numpy.repeat(free, chunk.lengths, axis=0) * row
    values = numpy.zeros((len(at), tiling.lists, tiling.rows), dtype=numpy.float32)
    place = numpy.empty_like(chunk.order)  # of a block in the order of lists
    place[chunk.order] = numpy.arange(len(chunk.order))
    block, inner = chunk.filled.nonzero()
    counts = chunk.filled.sum(1)
    rank = numpy.arange(len(block)) - numpy.repeat(numpy.cumsum(counts) - counts, counts)
    entry = begins[place[block] // tiling.lists] + rank
    lane = place[block] % tiling.lists
    at[entry, lane] = inner * row
    whole = numpy.zeros((len(chunk.filled) * tiling.rows, depth), dtype=numpy.float32)
    whole[: len(weights)] = weights
    values[entry, lane] = whole.reshape(-1, tiling.rows, depth)[block, :, inner]
    return numpy.concatenate([at.view(numpy.int32), values.reshape(len(at), tiling.group_rows).view(numpy.int32)], axis=1)
