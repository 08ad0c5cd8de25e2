"""The weights that belong to the units of a group, and sums over the positions of a unit.

group layer1.0.conv1, 64 units
  %layer1.0.conv1.weight  [64, 64, 3, 3]  axis 0  written     one number per unit, summed over the other axes
  %layer1.0.bn1.weight    [64]            axis 0  scaled
  %layer1.0.conv2.weight  [64, 64, 3, 3]  axis 1  read
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray

from graphopt.analysis.axes import AxisGroup, Member, Role, Units
from graphopt.backends.reference.interpreter import state_tensor
from graphopt.ir.graph import Graph, State, Value
from graphopt.ops.registry import definition, is_canonical

__all__ = ["Scores", "Weight", "mean_of_relative", "operand_names", "other_axes", "unit_counts", "unit_sums", "weights_of"]

Scores = NDArray[numpy.float64]
"""One number per unit of a group."""

_STATISTICS = frozenset({"mean", "var"})


@dataclass(frozen=True, slots=True)
class Weight:
    """A state whose axis `member.axis` holds units of a group."""

    member: Member
    state: State

    def tensor(self) -> torch.Tensor:
        """The numbers, shared with the graph.

        Raises:
            BackendError: the graph has none.
        """
        return state_tensor(self.state)


def weights_of(graph: Graph, group: AxisGroup, *, biases: bool = False, roles: Sequence[Role] = tuple(Role)) -> Iterator[Weight]:
    """The parameters of a group in the order of its members: weights and scales, with `biases` shifts too.

    Running statistics are no parameters. Constants and other buffers that are coupled to the units, such as tables of
    positions that do not train, are left out where the group has parameters.
    """
    found = [
        Weight(member, state)
        for member in group.members
        if member.role in roles
        and (state := graph.state_of(member.value)) is not None
        and state.type.dtype.is_float
        and not (names := operand_names(member.value)) & _STATISTICS
        and (biases or "bias" not in names)
    ]
    parameters = [weight for weight in found if weight.state.kind == "param"]
    yield from parameters or found


def operand_names(value: Value) -> set[str]:
    """What the ops that read a value call it: `weight`, `bias`, `mean`; nothing for opaque ops."""
    names: set[str] = set()
    for use in value.uses:
        if is_canonical(use.node.op):
            known = definition(use.node.op).operand_names
            names.add(known[min(use.index, len(known) - 1)])
    return names


def other_axes(rank: int, axis: int) -> tuple[int, ...]:
    """All axes but one."""
    return tuple(other for other in range(rank) if other != axis)


def unit_sums(per_position: torch.Tensor, units: Units, size: int) -> Scores:
    """Sum numbers of the positions of an axis into numbers of units; positions that belong to none are left out."""
    inside = units >= 0
    numbers = per_position.detach().to("cpu", torch.float64).numpy()
    return numpy.bincount(units[inside], weights=numbers[inside], minlength=size).astype(numpy.float64)


def unit_counts(units: Units, size: int) -> NDArray[numpy.int64]:
    """How many positions of an axis each unit has."""
    return numpy.bincount(units[units >= 0], minlength=size)


def mean_of_relative(terms: Sequence[tuple[Scores, Units]], size: int) -> Scores:
    """The mean over members of scores that are divided by their mean over units, so that 1 is the average unit.

    A unit that has no position on a member takes its mean over the others; one that is on no member at all, such as a
    row of a table of integers, counts as an average unit. A member without any score above 0 says nothing in favour of
    a unit: all its units get 0.
    """
    total, members = numpy.zeros(size), numpy.zeros(size)
    for numbers, units in terms:
        present = unit_counts(units, size) > 0
        average = float(numbers[present].mean()) if present.any() else 0.0
        if average > 0 or not numpy.isfinite(average):
            total[present] += numbers[present] / average
        members += present
    return numpy.where(members > 0, total / numpy.maximum(members, 1), 1.0)
