"""Importance "geometric-median": how far the weights of a unit are from those of the others. Needs no data.

    score[u] = mean over written weights of  d[u] / (mean over units v of d[v]),
    d[u]     = sum over units v of || w_u - w_v ||

A unit near the geometric median of its layer can be expressed by the others, whatever its norm: of two equal units
one goes first.

Source: He et al., "Filter Pruning via Geometric Median for Deep Neural Networks Acceleration", CVPR 2019, equation 6.
Memory: one copy of a written weight in float64 and its distances, size^2 x 8 bytes, one group at a time.
"""

from __future__ import annotations

import numpy
import torch

from graphopt.analysis.axes import AxisGroup, AxisGroups, Role
from graphopt.ir.graph import Graph
from graphopt.passes.shrink.importance.members import Scores, Weight, mean_of_relative, unit_counts, weights_of

__all__ = ["geometric_median_distances"]


def geometric_median_distances(graph: Graph, groups: AxisGroups) -> dict[AxisGroup, Scores]:
    """The scores of all groups.

    Raises:
        BackendError: the graph has no numbers.
    """
    return {group: _distances(graph, group) for group in groups}


def _distances(graph: Graph, group: AxisGroup) -> Scores:
    """By the layers that compute the units; a unit that only depthwise weights or scales act on is told apart by those."""
    written = list(weights_of(graph, group, roles=(Role.WRITTEN,)))
    covered = sum((unit_counts(weight.member.units, group.size) for weight in written), numpy.zeros(group.size, dtype=numpy.int64))
    weights = written if written and (covered > 0).all() else list(weights_of(graph, group))
    return mean_of_relative([(_distance_sums(weight, group.size), weight.member.units) for weight in weights], group.size)


def _distance_sums(weight: Weight, size: int) -> Scores:
    rows = _unit_rows(weight, size)
    present = unit_counts(weight.member.units, size) > 0
    sums = numpy.zeros(size)
    rows = rows[torch.from_numpy(present)]
    sums[present] = torch.cdist(rows, rows).sum(1).numpy()
    return sums


def _unit_rows(weight: Weight, size: int) -> torch.Tensor:
    """[size, elements]: the weights of each unit in a row, its positions behind each other; zeros where one has fewer."""
    units, axis = weight.member.units, weight.member.axis
    counts = unit_counts(units, size)
    positions = numpy.argsort(units, kind="stable")[int((units < 0).sum()) :]
    owners = units[positions]
    places = numpy.arange(len(owners)) - (numpy.cumsum(counts) - counts)[owners]
    flat = weight.tensor().detach().movedim(axis, 0).flatten(1) if weight.state.type.rank > 1 else weight.tensor().detach()[:, None]
    rows = torch.zeros((size, int(counts.max(initial=1)), flat.shape[1]), dtype=torch.float64)
    rows[torch.from_numpy(owners), torch.from_numpy(places)] = flat[torch.from_numpy(positions)].to("cpu", torch.float64)
    return rows.flatten(1)
