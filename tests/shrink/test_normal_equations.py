"""Regressions from sums, against torch's least squares on the rows themselves."""

from __future__ import annotations

import pytest
import torch

from graphopt.passes.shrink.statistics.normal_equations import NormalEquations, Solution

MANY, FEW = 200, 11
"""Rows with which 24 features are summed up, and rows that are kept as they are."""


def _rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(2, count, 24, generator=generator, dtype=torch.float64) + 3
    return x, torch.randn(2, count, 5, generator=generator, dtype=torch.float64) + x[..., :5]


def _sums(x: torch.Tensor, r: torch.Tensor, *, fits_shift: bool) -> NormalEquations:
    equations = NormalEquations(2, 24, 5, fits_shift=fits_shift)
    for features, targets in zip(x.split(7, 1), r.split(7, 1), strict=True):
        equations.add(features, targets)
    return equations


def _ridge_regression(x: torch.Tensor, r: torch.Tensor, ridge: float, *, fits_shift: bool) -> torch.Tensor:
    """By an augmented system: a row sqrt(ridge t) per feature."""
    if fits_shift:
        x, r = x - x.mean(1, keepdim=True), r - r.mean(1, keepdim=True)
    weight = (ridge * x.square().sum((1, 2)) / x.shape[2]).sqrt()
    rows = torch.cat([x, weight.reshape(-1, 1, 1) * torch.eye(24, dtype=torch.float64)], 1)
    return torch.linalg.lstsq(rows, torch.cat([r, torch.zeros(2, 24, 5, dtype=torch.float64)], 1)).solution


@pytest.mark.parametrize("count", [MANY, FEW])
@pytest.mark.parametrize("fits_shift", [True, False])
@pytest.mark.parametrize("ridge", [1e-6, 1e-2])
def test_ridge_regression_and_its_error(count: int, fits_shift: bool, ridge: float) -> None:
    x, r = _rows(count)
    equations = _sums(x, r, fits_shift=fits_shift)
    found = equations.solve(ridge)
    assert found is not None
    torch.testing.assert_close(found.slope, _ridge_regression(x, r, ridge, fits_shift=fits_shift), rtol=1e-6, atol=1e-8)
    shift = (r - x @ found.slope).mean(1) if fits_shift else torch.zeros(2, 5, dtype=torch.float64)
    torch.testing.assert_close(found.shift, shift, rtol=1e-6, atol=1e-8)
    wanted = (r - x @ found.slope - found.shift.unsqueeze(1)).square().sum(1)
    torch.testing.assert_close(equations.errors(found), wanted, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(equations.errors(equations.no_change()), r.square().sum(1))


def test_constant_features_get_no_slope() -> None:
    x, r = _rows(MANY)
    x[1] = 0
    found = _sums(x, r, fits_shift=True).solve(1e-10)
    assert found is not None
    assert not found.slope[1].any()
    torch.testing.assert_close(found.shift[1], r[1].mean(0))


def test_equal_features_share_the_slope_and_exactly_singular_sums_are_refused() -> None:
    x, r = _rows(MANY)
    x[..., 1] = x[..., 0]
    equations = _sums(x, r, fits_shift=False)
    found = equations.solve(1e-8)
    assert found is not None
    torch.testing.assert_close(found.slope[:, 0], found.slope[:, 1], rtol=1e-5, atol=1e-7)
    zeros = _sums(x * torch.tensor([1.0] + [0.0] * 23), r, fits_shift=False)
    assert zeros.solve(0.0) is None


def test_sums_that_are_not_finite() -> None:
    x, r = _rows(MANY)
    r[0, 3, 2] = torch.inf
    assert not _sums(x, r, fits_shift=True).is_finite()


def test_no_rows() -> None:
    equations = NormalEquations(1, 3, 2, fits_shift=True)
    nothing = equations.shift_only()
    assert isinstance(nothing, Solution)
    assert not nothing.shift.any()
    assert not equations.errors(nothing).any()
