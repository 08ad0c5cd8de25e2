"""Sums from which a linear regression follows, of any number of rows in the memory of one matrix.

    r = x D + d          x: [rows, features], r: [rows, outputs], for each of some groups by itself

    sums: n, sum x, sum r, X'X, X'R, sum r^2      all in float64

Errors of any D and d on the rows that were added follow from the sums too, without going through the rows again.
Memory: (features^2 + features x outputs) x 8 bytes per group: 134 MB for 4096 features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["NormalEquations", "Solution"]


@dataclass(frozen=True, slots=True)
class Solution:
    """A map from features to outputs: `slope` [groups, features, outputs], `shift` [groups, outputs]; float64."""

    slope: torch.Tensor
    shift: torch.Tensor


class NormalEquations:
    """The sums of one regression per group. `fits_shift` False holds d at zero."""

    def __init__(self, groups: int, features: int, outputs: int, *, fits_shift: bool, device: torch.device | None = None) -> None:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.fits_shift = fits_shift
        self.rows = 0
        self._x = zeros(groups, features)
        self._r = zeros(groups, outputs)
        self._xx = zeros(groups, features, features)
        self._xr = zeros(groups, features, outputs)
        self._rr = zeros(groups, outputs)

    def add(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Add rows: `features` [groups, rows, features] and `targets` [groups, rows, outputs], both float64."""
        self.rows += features.shape[1]
        self._x += features.sum(1)
        self._r += targets.sum(1)
        self._xx.baddbmm_(features.transpose(1, 2), features)
        self._xr.baddbmm_(features.transpose(1, 2), targets)
        self._rr += targets.square().sum(1)

    def is_finite(self) -> bool:
        """False where a row had NaN or infinity, or sums have overflown."""
        return all(bool(sums.isfinite().all()) for sums in (self._x, self._r, self._xx, self._xr, self._rr))

    def shift_only(self) -> Solution:
        """The best d for D = 0; zero where the shift is held."""
        shift = self._r / max(self.rows, 1) if self.fits_shift else torch.zeros_like(self._r)
        return Solution(torch.zeros_like(self._xr), shift)

    def solve(self, ridge: float) -> Solution | None:
        """The D and d with the least  sum |r - x D - d|^2 + ridge * t * |D|^2,  t = mean variance of the features of a group.

        By Cholesky of the centred normal equations; None where they are singular in float64.
        """
        count = max(self.rows, 1)
        mean_x, mean_r = self._x / count, self._r / count
        gram, cross = self._xx, self._xr
        if self.fits_shift:
            gram = gram - self._x.unsqueeze(2) * mean_x.unsqueeze(1)
            cross = cross - self._x.unsqueeze(2) * mean_r.unsqueeze(1)
        scale = gram.diagonal(dim1=1, dim2=2).mean(1)
        # A group whose features are all constant has nothing to fit; the identity keeps it out of the others' way.
        penalty = torch.where(scale > 0, scale * ridge, torch.ones_like(scale))
        gram = gram.clone() if gram is self._xx else gram
        gram.diagonal(dim1=1, dim2=2).add_(penalty.unsqueeze(1))
        factor, failed = torch.linalg.cholesky_ex(gram)
        if bool(failed.any()):
            return None
        slope = torch.cholesky_solve(cross, factor)
        slope[~(scale > 0)] = 0
        if not bool(slope.isfinite().all()):
            return None
        shift = mean_r - torch.einsum("gf,gfo->go", mean_x, slope) if self.fits_shift else torch.zeros_like(mean_r)
        return Solution(slope, shift)

    def errors(self, solution: Solution) -> torch.Tensor:
        """sum |r - x D - d|^2 over the rows, for each group and output; at least 0."""
        slope, shift = solution.slope, solution.shift
        bilinear = (torch.bmm(self._xx, slope) * slope).sum(1) - 2 * (self._xr * slope).sum(1)
        linear = 2 * shift * (torch.einsum("gf,gfo->go", self._x, slope) - self._r)
        return (self._rr + bilinear + linear + self.rows * shift.square()).clamp_min(0)
