"""The few directions in which the outputs of a linear map vary most.

With P [out, r], the r first principal directions of the outputs y = W x, the map W' = P (P' W) of rank r has the least
squared error of all (Eckart and Young; with data it is the truncated SVD of W S for S S' = E[x x'], as in data-aware
SVD of language models: SVD-LLM, Wang et al., 2024). Without data x counts as white noise, and P are the left singular
vectors of W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["Basis", "basis_of_inputs", "basis_of_outputs", "basis_of_weight", "rank_for"]

_NOTHING = 1e-15
"""Squared singular values below this part of the largest are rounding errors."""


@dataclass(frozen=True, slots=True)
class Basis:
    """Orthonormal `vectors` [out, k] and the `energies` [k] along them, largest first, float64.

    `mean` [out] is that of the outputs that were seen without bias, None where it can't be made up for.
    """

    vectors: torch.Tensor
    energies: torch.Tensor
    mean: torch.Tensor | None = None

    def lost(self, rank: int) -> float:
        """The fraction of the energy that a map of this rank loses."""
        total = float(self.energies.sum())
        return max(float(self.energies[rank:].sum()), 0.0) / total if total > 0 else 0.0

    def shift(self, rank: int) -> torch.Tensor | None:
        """What to add to the bias, so that the mean of the outputs stays: [out], None where there is no bias."""
        if self.mean is None:
            return None
        kept = self.vectors[:, :rank]
        return self.mean - kept @ (kept.T @ self.mean)


def basis_of_weight(weight: torch.Tensor) -> Basis:
    """Of `weight` [out, in] alone."""
    return Basis(*_left_directions(weight.double()))


def basis_of_outputs(outputs: Sequence[torch.Tensor], *, centred: bool) -> Basis:
    """Of outputs [rows, out], one tensor per batch, without bias. `centred` where a bias can take up the mean."""
    second, mean = _moments(outputs)
    energies, vectors = torch.linalg.eigh(second - torch.outer(mean, mean) if centred else second)
    return Basis(vectors.flip(1), energies.flip(0).clamp_min(0), mean if centred else None)


def basis_of_inputs(weight: torch.Tensor, inputs: Sequence[torch.Tensor], *, centred: bool) -> Basis:
    """The same from inputs [rows, in]: for a `weight` [out, in] with more outputs than inputs."""
    weight = weight.double()
    second, mean = _moments(inputs)
    values, vectors = torch.linalg.eigh(second - torch.outer(mean, mean) if centred else second)
    root = vectors * values.clamp_min(0).sqrt()
    return Basis(*_left_directions(weight @ root), weight @ mean if centred else None)


def rank_for(basis: Basis, energy: float) -> int:
    """The smallest rank, at least 1, that loses at most the fraction `energy`."""
    total = float(basis.energies.sum())
    if total <= 0:
        return 1
    tail = basis.energies.flip(0).cumsum(0).flip(0) / total  # tail[r] is lost with rank r
    small = (tail <= energy).nonzero()
    return max(1, int(small[0])) if len(small) else len(tail)


def _left_directions(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Left singular vectors and squared singular values of `matrix` [out, in], by way of the smaller of its two squares.

    That is several times faster than an SVD; directions below the square root of the rounding error, which no
    truncation would keep, are left out.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    energies, vectors = torch.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
    energies, vectors = energies.flip(0), vectors.flip(1)
    present = energies > _NOTHING * energies[0].clamp_min(1e-300)
    present[0] = True
    energies, vectors = energies[present].clamp_min(0), vectors[:, present]
    if not wide:
        vectors = torch.linalg.qr(matrix @ vectors).Q
    return vectors, energies


def _moments(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of products and of the numbers themselves over all rows, float64.

    Of many rows some are drawn, always the same: evenly spaced ones of an image could all be from a few of its columns.
    """
    size = rows[0].shape[-1]
    second, total, count = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64), 0
    wanted = -(-max(4096, 8 * size) // len(rows))
    generator = torch.Generator().manual_seed(0)
    for piece in rows:
        flat = piece.reshape(-1, size)
        if flat.shape[0] > wanted:
            flat = flat[torch.randperm(flat.shape[0], generator=generator)[:wanted].sort().values.to(flat.device)]
        flat = flat.cpu().double()
        second += flat.T @ flat
        total += flat.sum(0)
        count += flat.shape[0]
    return second / max(count, 1), total / max(count, 1)
