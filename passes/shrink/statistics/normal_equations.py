"""Sums from which a linear regression follows, of any number of rows in the memory of one matrix.

    r = x D + d          x: [rows, features], r: [rows, outputs], for each of some groups by itself

    sums: n, sum x, sum r, X'X, X'R, sum r^2      all in float64

Errors of any D and d on the rows that were added follow from the sums too, without going through the rows again.
While there are fewer rows than half the features, the rows themselves are kept: they are smaller than the sums, and
the solution follows from the matrix of their products, X X', which is smaller too (the dual form of ridge regression).
Memory: at most (features^2 + features x outputs) x 8 bytes per group: 134 MB for 4096 features.
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
        self._features = features
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] | None = []
        self._zeros = zeros
        self._shape = (groups, features, outputs)
        self._x = zeros(groups, features)
        self._r = zeros(groups, outputs)
        self._rr = zeros(groups, outputs)
        self._xx = self._xr = zeros(0)

    def add(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Add rows: `features` [groups, rows, features] and `targets` [groups, rows, outputs], both float64."""
        self.rows += features.shape[1]
        self._x += features.sum(1)
        self._r += targets.sum(1)
        self._rr += targets.square().sum(1)
        if self._kept is not None:
            self._kept.append((features, targets))
            if 2 * self.rows <= self._features:
                return
            groups, size, outputs = self._shape
            self._xx, self._xr = self._zeros(groups, size, size), self._zeros(groups, size, outputs)
            kept, self._kept = self._kept, None
            for part in kept:
                self._add_products(*part)
        else:
            self._add_products(features, targets)

    def _add_products(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        self._xx.baddbmm_(features.transpose(1, 2), features)
        self._xr.baddbmm_(features.transpose(1, 2), targets)

    def is_finite(self) -> bool:
        """False where a row had NaN or infinity, or sums have overflown."""
        return all(bool(sums.isfinite().all()) for sums in (self._x, self._r, self._rr, self._xx, self._xr))

    def no_change(self) -> Solution:
        """D = 0, d = 0."""
        groups, features, outputs = self._shape
        return Solution(self._zeros(groups, features, outputs), self._zeros(groups, outputs))

    def shift_only(self) -> Solution:
        """The best d for D = 0; zero where the shift is held."""
        nothing = self.no_change()
        return Solution(nothing.slope, self._r / max(self.rows, 1)) if self.fits_shift else nothing

    def solve(self, ridge: float) -> Solution | None:
        """The D and d with the least  sum |r - x D - d|^2 + ridge * t * |D|^2,  t = mean variance of the features of a group.

        By Cholesky of the centred normal equations (or their dual); None where they are singular in float64.
        """
        count = max(self.rows, 1)
        mean_x, mean_r = self._x / count, self._r / count
        if not self.fits_shift:
            mean_x, mean_r = torch.zeros_like(mean_x), torch.zeros_like(mean_r)
        slope = self._dual_slope(mean_x, mean_r, ridge) if self._kept is not None else self._slope(mean_x, mean_r, ridge)
        if slope is None or not bool(slope.isfinite().all()):
            return None
        return Solution(slope, mean_r - torch.einsum("gf,gfo->go", mean_x, slope))

    def _slope(self, mean_x: torch.Tensor, mean_r: torch.Tensor, ridge: float) -> torch.Tensor | None:
        gram = self._xx - self._x.unsqueeze(2) * mean_x.unsqueeze(1)
        cross = self._xr - self._x.unsqueeze(2) * mean_r.unsqueeze(1)
        scale = gram.diagonal(dim1=1, dim2=2).mean(1)
        return _solved(gram, cross, scale, ridge)

    def _dual_slope(self, mean_x: torch.Tensor, mean_r: torch.Tensor, ridge: float) -> torch.Tensor | None:
        x, r = self._rows()
        x, r = x - mean_x.unsqueeze(1), r - mean_r.unsqueeze(1)
        products = torch.bmm(x, x.transpose(1, 2))
        scale = products.diagonal(dim1=1, dim2=2).sum(1) / max(self._features, 1)
        weights = _solved(products, r, scale, ridge)
        return None if weights is None else torch.bmm(x.transpose(1, 2), weights)

    def _rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._kept is not None, "asked while rows are kept"
        if not self._kept:
            groups, features, outputs = self._shape
            return self._zeros(groups, 0, features), self._zeros(groups, 0, outputs)
        if len(self._kept) > 1:
            self._kept = [(torch.cat([x for x, _ in self._kept], 1), torch.cat([r for _, r in self._kept], 1))]
        return self._kept[0]

    def errors(self, solution: Solution) -> torch.Tensor:
        """sum |r - x D - d|^2 over the rows, for each group and output; at least 0."""
        slope, shift = solution.slope, solution.shift
        if self._kept is not None:
            x, r = self._rows()
            return (r - torch.bmm(x, slope) - shift.unsqueeze(1)).square().sum(1)
        bilinear = (torch.bmm(self._xx, slope) * slope).sum(1) - 2 * (self._xr * slope).sum(1)
        linear = 2 * shift * (torch.einsum("gf,gfo->go", self._x, slope) - self._r)
        return (self._rr + bilinear + linear + self.rows * shift.square()).clamp_min(0)


def _solved(matrix: torch.Tensor, right: torch.Tensor, scale: torch.Tensor, ridge: float) -> torch.Tensor | None:
    """(matrix + ridge * scale * I)^-1 right, zero for groups whose features are all constant; None where it is singular."""
    varies = scale > 0
    penalty = torch.where(varies, scale * ridge, torch.ones_like(scale))
    matrix = matrix.clone()
    matrix.diagonal(dim1=1, dim2=2).add_(penalty.unsqueeze(1))
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed.any()):
        return None
    return torch.where(varies.reshape(-1, 1, 1), torch.cholesky_solve(right, factor), 0.0)
