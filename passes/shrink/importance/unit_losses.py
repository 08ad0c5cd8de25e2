"""From gradients of weights to numbers of units: the sum over a unit's parameters of (gradient x weight)^2."""

from __future__ import annotations

from collections.abc import Mapping

import numpy
import torch

from graphopt.analysis.axes import AxisGroup, AxisGroups
from graphopt.ir.graph import Graph
from graphopt.passes.shrink.importance.members import Scores, Weight, other_axes, unit_sums, weights_of

__all__ = ["UnitLosses"]


class UnitLosses:
    """The parameters of all units of all groups."""

    def __init__(self, graph: Graph, groups: AxisGroups) -> None:
        self._weights: dict[AxisGroup, list[Weight]] = {group: list(weights_of(graph, group, biases=True)) for group in groups}
        self.names: tuple[str, ...] = tuple(dict.fromkeys(weight.state.name for found in self._weights.values() for weight in found))

    def squared_changes(self, gradients: Mapping[str, torch.Tensor]) -> dict[AxisGroup, Scores]:
        """For each unit the sum of (g w)^2 over its parameters. A gradient may have samples on a leading axis: they are summed."""
        cached: dict[tuple[str, int], torch.Tensor] = {}
        squares: dict[str, torch.Tensor] = {}
        found: dict[AxisGroup, Scores] = {}
        for group, weights in self._weights.items():
            total = numpy.zeros(group.size)
            for weight in weights:
                key = (weight.state.name, weight.member.axis)
                if key not in cached:
                    if weight.state.name not in squares:
                        tensor, gradient = weight.tensor(), gradients[weight.state.name]
                        if gradient.dtype.itemsize < 4:  # squares of small numbers are zero in half precision
                            gradient = gradient.to(torch.float32)
                        changes = (gradient * tensor).square_()
                        squares[weight.state.name] = changes.sum(0) if gradient.dim() > tensor.dim() else changes
                    square = squares[weight.state.name]
                    others = other_axes(square.dim(), weight.member.axis)
                    cached[key] = square.sum(others, dtype=torch.float64) if others else square
                total += unit_sums(cached[key], weight.member.units, group.size)
            found[group] = total
        return found
