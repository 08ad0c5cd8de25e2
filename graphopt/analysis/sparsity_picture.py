"""A picture of where the numbers of a weight are, for a text terminal.

    picture(weight, 32, 8)      a line of characters per row of cells: ' ' is empty, '█' is full

Rows are positions of axis 0 (output channels), columns the rest flattened (inputs, then taps). A cell shows the fraction of
its numbers that are not zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["SHADES", "picture"]

SHADES = " ·░▒▓█"
"""From no number to all of them; the second is anything up to a quarter, the last is all."""


def picture(numbers: torch.Tensor, width: int = 64, height: int = 16) -> tuple[str, ...]:
    """The density of a tensor of an axis or more, in at most `width` x `height` cells."""
    import torch

    if not numbers.numel():
        return ()
    matrix = (numbers != 0).reshape(numbers.shape[0] if numbers.dim() else 1, -1)
    rows, columns = matrix.shape
    across, down = _edges(columns, width), _edges(rows, height)
    sums = torch.zeros(rows + 1, columns + 1, dtype=torch.int64)
    sums[1:, 1:] = matrix.long().cumsum(0).cumsum(1)
    corners = sums[down][:, across]
    counts = corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]
    sizes = torch.outer(down.diff(), across.diff())
    return tuple("".join(_shade(int(n), int(size)) for n, size in zip(*line, strict=True)) for line in zip(counts, sizes, strict=True))


def _edges(size: int, most: int) -> torch.Tensor:
    """Where cells begin and end: as equal as they can be."""
    import torch

    cells = max(1, min(size, most))
    return torch.arange(cells + 1) * size // cells


def _shade(count: int, size: int) -> str:
    if count in (0, size):
        return SHADES[-1] if count else SHADES[0]
    return SHADES[1 + 4 * count // size]
