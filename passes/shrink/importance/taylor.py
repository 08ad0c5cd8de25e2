"""Importance "taylor": how much the loss changes to first order when a unit's weights become zero.

    score[u] = mean over batches of  n / mean n  sum over all parameters w of unit u of (g w)^2,   g = gradient of the mean loss

n is the number of samples of a batch: gradients of samples differ in sign, so the square of their mean falls with 1 / n,
and without n the last, smaller batch of a loader would count for more than the others.

All parameters of a unit are summed: written rows, read columns, scales and shifts. Scores are squared changes of the
loss, so those of different groups compare.

Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equations 7 and 8. The loss is
that of `graphopt.passes.shrink.importance.loss`: with targets cross-entropy, without the distance to the own outputs.
"""

from __future__ import annotations

from typing import Any

import numpy

from graphopt.analysis.axes import AxisGroup, AxisGroups
from graphopt.ir.graph import Graph
from graphopt.passes.shrink.importance.gradients import Differentiable
from graphopt.passes.shrink.importance.kept_batches import KeptBatches
from graphopt.passes.shrink.importance.members import Scores
from graphopt.passes.shrink.importance.unit_losses import UnitLosses
from graphopt.pipeline.calibration import Batch

__all__ = ["taylor_scores"]


def taylor_scores(graph: Graph, groups: AxisGroups, batches: KeptBatches, seed: int) -> dict[AxisGroup, Scores]:
    """The scores of all groups, from one backward pass per batch.

    Raises:
        PassError: the graph has no gradients, or its outputs do not fit the targets.
    """
    losses = UnitLosses(graph, groups)
    model = Differentiable(graph, losses.names, seed)
    total = {group: numpy.zeros(group.size) for group in groups}

    def changes(index: int, batch: Batch) -> dict[str, Any]:
        gradients = model.gradients(batch.inputs, batch.target, model.signs(batch, index))
        return batches.packed(losses.squared_changes(gradients))

    for batch, found in batches.each(changes):
        weight = batch.samples * len(batches) / batches.samples
        for group, numbers in batches.scores(found).items():
            total[group] += numbers * weight
    return {group: numbers / len(batches) for group, numbers in total.items()}
