"""The core: given what a layer reads now and what it should give, find its weights.

    W', b' = W + D, b + d    with the least  sum |y - (x (W + D) + b + d)|^2 + ridge * t * |D|^2

x are the layer's real inputs on calibration data, y its targets (what the uncut layer gave), W and b the weights that
it has now. D is the *change*: an infinite ridge gives the weights back as they are, so data that says little changes
little. t is the mean variance of a feature (the trace of the normal matrix by its size), so `ridge` has no unit.

A quarter of the data is held out (see `held_out`). For each output the choice among no change, a shift alone, and the changes
for every ridge of `RIDGES` is what has the least error there, so no output gets worse on the held-out samples.
Outputs are independent of each other, so each may choose another ridge.

Sources: least squares on what the cut layer really reads as in He et al., "Channel Pruning for Accelerating Very Deep
Neural Networks", ICCV 2017, section 3.1 ii, and Luo et al., "ThiNet", ICCV 2017, section 3.2.4; the shift alone is the
bias correction of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
section 4.2.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from graphopt.passes.shrink.compensation.held_out import first_held
from graphopt.passes.shrink.compensation.layers import LinearLayer
from graphopt.passes.shrink.statistics.normal_equations import NormalEquations, Solution

__all__ = ["RIDGES", "Best", "Fit", "Sample", "choose", "fit_layer", "fit_shift"]

RIDGES = (1e-10, 1e-5, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridges that are tried, relative to the mean variance of a feature."""

_ROUNDING = 1e-14
"""Smaller gains, relative to the error without a change, are the rounding of float64 sums."""
_ROWS_PER_FEATURE = 8
_LEAST_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Sample:
    """One batch of a layer: what it reads, what it gives with its present weights, and what it should give."""

    inputs: torch.Tensor
    outputs: torch.Tensor
    targets: torch.Tensor

    def residuals(self) -> torch.Tensor:
        """What is missing, in float64."""
        return self.targets.to(torch.float64) - self.outputs.to(torch.float64)


@dataclass(frozen=True, slots=True)
class Fit:
    """The change of a layer, float64: `weight` in its layout (None for a shift alone), `shift` one number per output.

    `before` and `after` are the sums of squared errors of the held-out rows with the present and the new weights.
    """

    weight: torch.Tensor | None
    shift: torch.Tensor
    before: float
    after: float


def fit_layer(layer: LinearLayer, samples: Iterable[Sample], batches: int, *, fits_shift: bool = True, seed: int = 0) -> Fit | None:
    """Fit a layer to targets; None where that is no better on held-out rows, or numbers are not finite.

    A batch of `batches` gives at most its part of max(8192, 8 rows per feature) rows, drawn without replacement from
    all positions by `seed`: positions of one image say much the same. With `fits_shift` a layer without bias
    is fitted as if it had one, for a batch norm behind it that takes the mean out.
    """
    generator = torch.Generator().manual_seed(abs(seed))
    limit = max(1, max(_LEAST_ROWS, _ROWS_PER_FEATURE * layer.features) // max(batches, 1))
    sums: tuple[NormalEquations, NormalEquations] | None = None
    for batch, sample in enumerate(samples):
        residuals = sample.residuals()
        if sums is None:
            shape = (layer.groups, layer.features, layer.outputs)
            sums = _pair(*shape, fits_shift=fits_shift, device=residuals.device)
        rows = layer.row_count(residuals)
        chosen = torch.randperm(rows, generator=generator)[:limit].sort().values.to(residuals.device)
        border = first_held(rows, batch, batches)
        for part, equations in zip((chosen[chosen < border], chosen[chosen >= border]), sums, strict=True):
            for features, targets in layer.rows(sample.inputs, residuals, part):
                equations.add(features, targets)
    best = None if sums is None else choose(*sums, ridges=RIDGES)
    return None if best is None else Fit(layer.weight_change(best.solution.slope), best.solution.shift.flatten(), best.before, best.after)


def fit_shift(samples: Iterable[Sample], batches: int, axis: int) -> Fit | None:
    """The shift alone, of anything whose result has its channels on `axis`; None where that is no better on held-out rows."""
    sums: tuple[NormalEquations, NormalEquations] | None = None
    for batch, sample in enumerate(samples):
        rows = sample.residuals().movedim(axis, -1)
        rows = rows.reshape(1, -1, rows.shape[-1])
        if sums is None:
            sums = _pair(1, 0, rows.shape[-1], fits_shift=True, device=rows.device)
        border = first_held(rows.shape[1], batch, batches)
        for part, equations in zip((rows[:, :border], rows[:, border:]), sums, strict=True):
            equations.add(part[..., :0], part)
    best = None if sums is None else choose(*sums)
    return None if best is None else Fit(None, best.solution.shift.flatten(), best.before, best.after)


@dataclass(frozen=True, slots=True)
class Best:
    """The solution that was chosen, and sums of squared held-out errors without and with it."""

    solution: Solution
    before: float
    after: float


def choose(fitted: NormalEquations, held: NormalEquations, *, ridges: Sequence[float] = (), others: Sequence[Solution] = ()) -> Best | None:
    """For each output the solution with the least held-out error: none at all, the shift alone, one per ridge, `others`.

    None where nothing is better than no change, or the sums are not finite.
    """
    if not fitted.rows or not held.rows or not fitted.is_finite() or not held.is_finite():
        return None
    best = fitted.no_change()
    before = least = held.errors(best)
    for candidate in (fitted.shift_only(), *others, *(fitted.solve(ridge) for ridge in ridges)):
        if candidate is None:
            continue
        errors = held.errors(candidate)
        better = errors < least - _ROUNDING * before
        least = torch.where(better, errors, least)
        best = Solution(torch.where(better.unsqueeze(1), candidate.slope, best.slope), torch.where(better, candidate.shift, best.shift))
    if not bool((least < before).any()):
        return None
    return Best(best, float(before.sum()), float(least.sum()))


def _pair(groups: int, features: int, outputs: int, *, fits_shift: bool, device: torch.device) -> tuple[NormalEquations, NormalEquations]:
    """Sums of the rows to fit to, and of those that are held out."""
    first, second = (NormalEquations(groups, features, outputs, fits_shift=fits_shift, device=device) for _ in range(2))
    return first, second
