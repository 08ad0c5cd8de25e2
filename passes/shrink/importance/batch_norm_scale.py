"""Importance "bn-scale": the size of the scale that a batch norm gives to a unit. Needs no data.

    score[u] = mean over batch norms of the group, and over the positions of unit u, of |gamma|

Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017. Scales compare
between layers because batch norms bring all channels to the same variance first.

Units without a batch norm, as in the transformer half of a hybrid network or behind folded batch norms, fall back to
their "l2" score (1 is the average unit of a group) times the mean of |gamma| over the graph, so that the average such
unit ranks like the average unit with a batch norm.
"""

from __future__ import annotations

import numpy
import torch
from numpy.typing import NDArray

from graphopt.analysis.axes import AxisGroup, AxisGroups
from graphopt.errors import PassError
from graphopt.ir.graph import Graph
from graphopt.passes.shrink.importance.members import Scores, Weight, unit_counts, unit_sums, weights_of
from graphopt.passes.shrink.importance.norms import group_norms

__all__ = ["batch_norm_scales"]


def batch_norm_scales(graph: Graph, groups: AxisGroups) -> dict[AxisGroup, Scores]:
    """The scores of all groups.

    Raises:
        PassError: no unit of the graph has a batch norm with a scale.
    """
    found = {group: _scales(graph, group) for group in groups}
    known = [scales[~missing] for scales, missing in found.values() if not missing.all()]
    if found and not known:
        raise PassError(
            "importance 'bn-scale' ranks units by the scales of batch norms, and no unit of this graph has one",
            fix="shrink before batch norms are folded, or use importance 'l2'",
        )
    for group, (scales, missing) in found.items():
        if missing.any():
            scales[missing] = float(numpy.concatenate(known).mean()) * group_norms(graph, group, 2)[missing]
    return {group: scales for group, (scales, _) in found.items()}


def _scales(graph: Graph, group: AxisGroup) -> tuple[Scores, NDArray[numpy.bool_]]:
    """Mean |gamma| of each unit, and which units have no batch norm."""
    total, count = numpy.zeros(group.size), numpy.zeros(group.size)
    for weight in weights_of(graph, group):
        if _is_batch_norm_scale(weight):
            total += unit_sums(weight.tensor().to(torch.float64).abs(), weight.member.units, group.size)
            count += unit_counts(weight.member.units, group.size)
    return total / numpy.maximum(count, 1), count == 0


def _is_batch_norm_scale(weight: Weight) -> bool:
    return any(use.node.op == "batch_norm" and use.index == 1 for use in weight.member.value.uses)
