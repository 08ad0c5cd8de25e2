"""Batch norms on calibration data: running statistics that are true again, and scales fitted like any other layer.

    mean', var' = mean and unbiased variance of what the batch norm really reads, over all calibration samples

After a cut the inputs of a batch norm have other statistics than those that training stored. They are estimated
again in execution order, so each batch norm sees the effect of those before it. Sums are float64 over all samples at
once: the limit of `torch.optim.swa_utils.update_bn` for one large batch. (Cumulative averages of many small batches
would leave out how the batches differ.)

Sources: Ioffe & Szegedy, "Batch Normalization", ICML 2015, algorithm 2 (the unbiased variance); Li et al., "EagleEye",
ECCV 2020 (adaptive batch normalisation of pruned networks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from graphopt.ir.graph import Node
from graphopt.passes.shrink.compensation.fit import Sample, choose
from graphopt.passes.shrink.compensation.held_out import first_held
from graphopt.passes.shrink.compensation.layers import CHUNK_ELEMENTS
from graphopt.passes.shrink.statistics.normal_equations import NormalEquations, Solution

__all__ = ["NormFit", "Statistics", "fit_batch_norm", "statistics_of"]

_LEAST_RIDGE = 1e-10
"""Two numbers per channel are fitted to thousands of rows: this only keeps constant channels apart."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and unbiased variance of each channel, float64."""

    mean: torch.Tensor
    var: torch.Tensor


@dataclass(frozen=True, slots=True)
class NormFit:
    """New numbers of a batch norm, float64 [channels], and sums of squared held-out errors with the old and new ones."""

    weight: torch.Tensor
    bias: torch.Tensor
    statistics: Statistics
    before: float
    after: float


def statistics_of(inputs: Sequence[torch.Tensor]) -> Statistics | None:
    """Statistics over all batches, channels on axis 1; None where they are not finite or rest on fewer than two numbers."""
    count = sum(x.numel() // max(x.shape[1], 1) for x in inputs)
    if count < 2:
        return None
    axes = [axis for axis in range(inputs[0].dim()) if axis != 1]
    total = torch.stack([x.sum(axes, dtype=torch.float64) for x in inputs]).sum(0)
    mean = total / count
    # Batch by batch around each one's own mean, as squares around zero would lose the digits of a large mean.
    squares = torch.zeros_like(mean)
    for x in inputs:
        own = x.numel() // max(x.shape[1], 1)
        if own:
            var, own_mean = torch.var_mean(x.to(torch.float64), axes, correction=0)
            squares += own * (var + (own_mean - mean).square())
    var = squares / (count - 1)
    return Statistics(mean, var) if bool(mean.isfinite().all() and var.isfinite().all()) else None


def fit_batch_norm(node: Node, old: Sequence[torch.Tensor], samples: Sequence[Sample]) -> NormFit | None:
    """Fit scale and shift of each channel to targets, and put true statistics beside them.

    `old` are weight, bias, mean and var. For each channel what has the least error on held-out data is taken: the
    function as it was, with new statistics, with a new shift, or with new scale and shift. The function is then written
    down for the new statistics. None where there are no statistics.
    """
    statistics = statistics_of([sample.inputs for sample in samples])
    eps = node.attrs["eps"]
    if statistics is None or not isinstance(eps, int | float):
        return None
    weight, bias, mean, var = (tensor.to(torch.float64) for tensor in old)
    deviation = (statistics.var + eps).sqrt()
    scale = weight / (var + eps).sqrt()
    shift = bias - mean * scale
    slope_change = weight / deviation - scale
    shift_change = bias - statistics.mean * weight / deviation - shift
    before = after = 0.0
    for part in _channel_parts(samples):
        renewed = Solution(slope_change[part].reshape(-1, 1, 1), shift_change[part].reshape(-1, 1))
        best = choose(*_sums(samples, part), ridges=(_LEAST_RIDGE,), others=(renewed,))
        if best is not None:
            scale[part] += best.solution.slope.flatten()
            shift[part] += best.solution.shift.flatten()
            before, after = before + best.before, after + best.after
    return NormFit(scale * deviation, shift + statistics.mean * scale, statistics, before, after)


def _sums(samples: Sequence[Sample], channels: slice) -> tuple[NormalEquations, NormalEquations]:
    """One regression per channel: of the rows to fit to, and of those that are held out."""
    size = channels.stop - channels.start
    fitted, held = (NormalEquations(size, 1, 1, fits_shift=True, device=samples[0].inputs.device) for _ in range(2))
    for batch, sample in enumerate(samples):
        inputs, outputs, targets = (
            tensor[:, channels].to(torch.float64).movedim(1, 0).reshape(size, -1, 1)
            for tensor in (sample.inputs, sample.outputs, sample.targets)
        )
        border = first_held(inputs.shape[1], batch, len(samples))
        fitted.add(inputs[:, :border], (targets - outputs)[:, :border])
        held.add(inputs[:, border:], (targets - outputs)[:, border:])
    return fitted, held


def _channel_parts(samples: Sequence[Sample]) -> list[slice]:
    """Channels in parts whose numbers of one batch fit into `CHUNK_ELEMENTS`."""
    channels = samples[0].inputs.shape[1]
    largest = max(sample.inputs.numel() for sample in samples)
    step = max(1, CHUNK_ELEMENTS * channels // max(largest, 1))
    return [slice(start, min(start + step, channels)) for start in range(0, channels, step)]
