"""Importance "l1" and "l2": how large the weights of a unit are. Needs no data.

    score[u] = mean over weights m of  n_m[u] / (mean over units v of n_m[v]),
    n_m[u]   = (sum over the elements of unit u in m of |w|^p)^(1/p),   p = 1 or 2

The weights of a unit are all that depend on it: the rows of the layers that write it, the scales of the norms and
depthwise layers that act on it, the columns of the layers that read it; biases and running statistics are left out.
Every weight counts the same, whatever its size, by the division. So 1 is the average unit of a group, and scores of
different groups can be ranked together. A unit without weights, such as a row of a table of integers, counts as 1.

Sources: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017 (the L1 norm of the written rows alone);
Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, section 3.4 (norms over all coupled weights).
Difference from the latter's code: it sums |w|^2 without the root, which weighs outliers more.
"""

from __future__ import annotations

import torch

from graphopt.analysis.axes import AxisGroup, AxisGroups
from graphopt.ir.graph import Graph
from graphopt.passes.shrink.importance.members import Scores, Weight, mean_of_relative, other_axes, unit_sums, weights_of

__all__ = ["group_norms", "norm_scores"]


def norm_scores(graph: Graph, groups: AxisGroups, order: int) -> dict[AxisGroup, Scores]:
    """The scores of all groups by the norm of order 1 or 2.

    Raises:
        BackendError: the graph has no numbers.
    """
    return {group: group_norms(graph, group, order) for group in groups}


def group_norms(graph: Graph, group: AxisGroup, order: int) -> Scores:
    """The scores of one group."""
    terms = [(_unit_norms(weight, group.size, order), weight.member.units) for weight in weights_of(graph, group)]
    return mean_of_relative(terms, group.size)


def _unit_norms(weight: Weight, size: int, order: int) -> Scores:
    tensor, axis = weight.tensor(), weight.member.axis
    others = other_axes(tensor.dim(), axis)
    if others:
        lengths = torch.linalg.vector_norm(tensor, ord=order, dim=others, dtype=torch.float64)
    else:
        lengths = tensor.to(torch.float64).abs()
    return unit_sums(lengths**order, weight.member.units, size) ** (1 / order)
