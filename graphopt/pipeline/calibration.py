"""Calibration data: a few batches of the user's own, as flat inputs of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Batch", "Calibration"]


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch: flat inputs in the graph's order, and labels where the data has them."""

    inputs: tuple[torch.Tensor, ...]
    target: torch.Tensor | None = None


class Calibration:
    """Batches that can be gone through any number of times, always in the same order."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = tuple(batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)
