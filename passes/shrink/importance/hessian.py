"""Importance "hessian": how much the loss changes to second order when a unit's weights become zero.

    score[u] = sum over all parameters w of unit u of  1/2 h w^2,   h = mean over samples of g^2

h is the diagonal of the empirical Fisher matrix, which stands for the Hessian near a minimum of the loss; g are
gradients of single samples. Without targets g are those of `graphopt.passes.shrink.importance.loss`, and h the
diagonal of the Gauss-Newton matrix of the distance to the model's own outputs.

Sources: LeCun et al., "Optimal Brain Damage", NIPS 1989, equation 5 (the diagonal); Theis et al., "Faster gaze
prediction with dense networks and Fisher pruning", 2018 (Fisher in its place).

Gradients of single samples come from torch.func (vmap over grad), in chunks of samples that need at most
`CHUNK_BYTES` for gradients. Where a graph has an op that vmap can't do, samples are run one by one; where a graph was
captured for a fixed batch, every batch counts as one sample.
"""

from __future__ import annotations

import numpy
import torch

from graphopt.analysis.axes import AxisGroup, AxisGroups
from graphopt.ir.graph import Graph
from graphopt.passes.shrink.importance.gradients import Differentiable
from graphopt.passes.shrink.importance.members import Scores
from graphopt.passes.shrink.importance.unit_losses import UnitLosses
from graphopt.pipeline.calibration import Batch, Calibration

__all__ = ["CHUNK_BYTES", "hessian_scores"]

CHUNK_BYTES = 256 << 20
"""Most memory for gradients of single samples (bytes)."""


def hessian_scores(graph: Graph, groups: AxisGroups, calibration: Calibration, seed: int) -> dict[AxisGroup, Scores]:
    """The scores of all groups, from one backward pass per sample.

    Raises:
        PassError: the graph has no gradients, or its outputs do not fit the targets.
    """
    losses = UnitLosses(graph, groups)
    model = Differentiable(graph, losses.names, seed)
    fisher = _Fisher(graph, model, losses)
    total = {group: numpy.zeros(group.size) for group in groups}
    samples = 0
    for index, batch in enumerate(calibration):
        samples += fisher.add(batch, model.signs(batch, index), total)
    return {group: numbers / (2 * max(samples, 1)) for group, numbers in total.items()}


class _Fisher:
    """Sums of squared gradients of single samples, in the fastest way that the graph allows."""

    def __init__(self, graph: Graph, model: Differentiable, losses: UnitLosses) -> None:
        self._model = model
        self._losses = losses
        self._single = all(value.type.rank > 0 and (value.shape[0] == 1 or not isinstance(value.shape[0], int)) for value in graph.inputs)
        self._vmaps = self._single
        size = sum(weight.numel() * weight.element_size() for weight in model.weights.values())
        self._chunk = max(1, CHUNK_BYTES // max(size, 1))

    def add(self, batch: Batch, signs: list[torch.Tensor | None], total: dict[AxisGroup, Scores]) -> int:
        """Add the squared changes of a batch to `total`; returns how many samples it has."""
        samples = batch.inputs[0].shape[0] if self._single and batch.inputs else 1
        aligned = all(tensor.dim() and tensor.shape[0] == samples for tensor in (*batch.inputs, *_given(batch.target, signs)))
        if samples == 1 or not aligned:
            self._add(self._model.gradients(batch.inputs, batch.target, signs), total)
            return 1
        start = 0
        while start < samples:
            part = slice(start, start + (self._chunk if self._vmaps else 1))
            inputs = tuple(tensor[part] for tensor in batch.inputs)
            target = None if batch.target is None else batch.target[part]
            chosen = tuple(None if sign is None else sign[part] for sign in signs)
            if self._vmaps:
                gradients = self._per_sample(inputs, target, chosen)
                if gradients is None:
                    self._vmaps = False
                    continue
            else:
                gradients = self._model.gradients(inputs, target, chosen)
            self._add(gradients, total)
            start = part.stop
        return samples

    def _per_sample(
        self, inputs: tuple[torch.Tensor, ...], target: torch.Tensor | None, signs: tuple[torch.Tensor | None, ...]
    ) -> dict[str, torch.Tensor] | None:
        """Gradients with samples on axis 0, or None where vmap can't do an op of the graph."""
        try:
            return self._model.per_sample(inputs, target, signs)
        except (RuntimeError, ValueError, IndexError):  # NotImplementedError is a RuntimeError
            return None

    def _add(self, gradients: dict[str, torch.Tensor], total: dict[AxisGroup, Scores]) -> None:
        for group, numbers in self._losses.squared_changes(gradients).items():
            total[group] += numbers


def _given(target: torch.Tensor | None, signs: list[torch.Tensor | None]) -> list[torch.Tensor]:
    return [tensor for tensor in (target, *signs) if tensor is not None]
