"""Importance "hessian": how much the loss changes to second order when a unit's weights become zero.

    score[u] = sum over all parameters w of unit u of  1/2 h w^2,   h = mean over samples of g^2

h is the diagonal of the empirical Fisher matrix, which stands for the Hessian near a minimum of the loss; g are
gradients of single samples. Without targets g are those of `graphopt.passes.shrink.importance.loss`, and h the
diagonal of the Gauss-Newton matrix of the distance to the model's own outputs.

Sources: LeCun et al., "Optimal Brain Damage", NIPS 1989, equation 5 (the diagonal); Theis et al., "Faster gaze
prediction with dense networks and Fisher pruning", 2018 (Fisher in its place).

Gradients of single samples are those of `graphopt.train.batched.per_sample`: by torch.func (vmap over grad) in chunks of
samples, or one by one where a graph has an op that vmap can't do. Where a graph was captured for a fixed batch, every
batch counts as one sample.
"""

from __future__ import annotations

from typing import Any

import numpy
import torch

from graphopt.analysis.axes import AxisGroup, AxisGroups
from graphopt.ir.graph import Graph
from graphopt.passes.shrink.importance.gradients import Differentiable
from graphopt.passes.shrink.importance.kept_batches import KeptBatches
from graphopt.passes.shrink.importance.members import Scores
from graphopt.passes.shrink.importance.unit_losses import UnitLosses
from graphopt.pipeline.calibration import Batch

__all__ = ["hessian_scores"]


def hessian_scores(graph: Graph, groups: AxisGroups, batches: KeptBatches, seed: int) -> dict[AxisGroup, Scores]:
    """The scores of all groups, from one backward pass per sample.

    Raises:
        PassError: the graph has no gradients, or its outputs do not fit the targets.
    """
    losses = UnitLosses(graph, groups)
    model = Differentiable(graph, losses.names, seed)
    fisher = _Fisher(graph, model, losses)
    total = {group: numpy.zeros(group.size) for group in groups}
    samples = 0

    def changes(index: int, batch: Batch) -> dict[str, Any]:
        part = {group: numpy.zeros(group.size) for group in groups}
        count = fisher.add(batch, model.signs(batch, index), part)
        return {"samples": count, "scores": batches.packed(part)}

    for _, found in batches.each(changes):
        samples += found["samples"]
        for group, numbers in batches.scores(found["scores"]).items():
            total[group] += numbers
    return {group: numbers / (2 * max(samples, 1)) for group, numbers in total.items()}


class _Fisher:
    """Sums of squared gradients of single samples, in the fastest way that the graph allows."""

    def __init__(self, graph: Graph, model: Differentiable, losses: UnitLosses) -> None:
        self._model = model
        self._losses = losses
        self._single = all(value.type.rank > 0 and (value.shape[0] == 1 or not isinstance(value.shape[0], int)) for value in graph.inputs)

    def add(self, batch: Batch, signs: list[torch.Tensor | None], total: dict[AxisGroup, Scores]) -> int:
        """Add the squared changes of a batch to `total`; returns how many samples it has."""
        samples = batch.inputs[0].shape[0] if self._single and batch.inputs else 1
        aligned = all(tensor.dim() and tensor.shape[0] == samples for tensor in (*batch.inputs, *_given(batch.target, signs)))
        if samples == 1 or not aligned:
            self._add(self._model.gradients(batch.inputs, batch.target, signs), total)
            return 1
        for gradients in self._model.per_sample(batch.inputs, batch.target, signs):
            self._add(gradients, total)
        return samples

    def _add(self, gradients: dict[str, torch.Tensor], total: dict[AxisGroup, Scores]) -> None:
        for group, numbers in self._losses.squared_changes(gradients).items():
            total[group] += numbers


def _given(target: torch.Tensor | None, signs: list[torch.Tensor | None]) -> list[torch.Tensor]:
    return [tensor for tensor in (target, *signs) if tensor is not None]
