"""Importance "activation": how large the values of a unit are on calibration data.

    score[u] = mean over carried values c of  a_c[u] / (mean over units v of a_c[v]),
    a_c[u]   = mean over samples and positions of |c| where c belongs to unit u; without floating-point values score[u] = 1

The values that count are those that layers read (behind norms and activations); where the analysis names no such
value, all that carry the units. The division makes values of different scale count the same; 1 is the average unit.

Source: Hu et al., "Network Trimming", 2016 (there the fraction of nonzeros after ReLU; the mean magnitude does the
same for activations that are not sparse) and Molchanov et al., "Pruning Convolutional Neural Networks for Resource
Efficient Inference", ICLR 2017, section 2.2 "activation". Memory: one number per position of an axis.
"""

from __future__ import annotations

from typing import Any

import numpy
import torch

from graphopt.analysis.axes import AxisGroup, AxisGroups, Member, Role
from graphopt.ir.graph import Graph, Value
from graphopt.passes.shrink.importance.kept_batches import KeptBatches
from graphopt.passes.shrink.importance.members import Scores, mean_of_relative, other_axes, unit_counts, unit_sums
from graphopt.passes.shrink.statistics.observing import observe
from graphopt.pipeline.calibration import Batch, Calibration

__all__ = ["activation_sizes"]


def activation_sizes(graph: Graph, groups: AxisGroups, batches: KeptBatches) -> dict[AxisGroup, Scores]:
    """The scores of all groups, from one run over the calibration data.

    Raises:
        RunInputError: a batch does not fit the graph.
    """
    chosen = {group: _read_values(group) for group in groups}
    sums: dict[tuple[Value, int], torch.Tensor] = {}
    counts: dict[tuple[Value, int], int] = {}
    axes: dict[Value, set[int]] = {}
    for members in chosen.values():
        for member in members:
            axes.setdefault(member.value, set()).add(member.axis)

    def sizes(_: int, batch: Batch) -> dict[str, Any]:
        found: list[tuple[str, int, torch.Tensor, int]] = []

        def see(value: Value, tensor: torch.Tensor) -> None:
            for axis in sorted(axes[value]):
                others = other_axes(tensor.dim(), axis)
                size = tensor.abs().sum(others, dtype=torch.float64) if others else tensor.abs().to(torch.float64)
                found.append((value.name, axis, size, tensor.numel() // max(tensor.shape[axis], 1)))

        observe(graph, Calibration([batch]), axes.keys(), see)
        return {"sizes": found}

    by_name = {value.name: value for value in axes}
    for _, found in batches.each(sizes):
        for name, axis, size, count in found["sizes"]:
            key = (by_name[name], axis)
            sums[key] = sums[key] + size if key in sums else size
            counts[key] = counts.get(key, 0) + count
    return {
        group: mean_of_relative(
            [
                (_unit_means(sums[m.value, m.axis] / max(counts[m.value, m.axis], 1), m, group.size), m.units)
                for m in members
                if (m.value, m.axis) in sums
            ],
            group.size,
        )
        for group, members in chosen.items()
    }


def _unit_means(per_position: torch.Tensor, member: Member, size: int) -> Scores:
    return unit_sums(per_position, member.units, size) / numpy.maximum(unit_counts(member.units, size), 1)


def _read_values(group: AxisGroup) -> list[Member]:
    """The carried members that are operand 0 of a layer whose weight reads them; all carried ones where that misses a unit."""
    carried = [m for m in group.members if m.role is Role.CARRIED and m.value.type.dtype.is_float]
    readers = {use.node for m in group.members if m.role is Role.READ for use in m.value.uses}
    read = [m for m in carried if any(use.node in readers and use.index == 0 for use in m.value.uses)]
    covered = sum((unit_counts(m.units, group.size) for m in read), numpy.zeros(group.size, dtype=numpy.int64))
    return read if (covered > 0).all() else carried
