"""How important each unit of a group is: what goes last when a network is shrunk.

    scores = score(graph, axis_groups(graph), "l2", context)
    scores[group][7]      a float64 for unit 7 of the group; the lowest go first

| method | says | data |
|---|---|---|
| `l1`, `l2` | how large the unit's weights are | no |
| `bn-scale` | how much its batch norms let through | no |
| `geometric-median` | how far its weights are from those of other units | no |
| `random` | nothing: the baseline | no |
| `activation` | how large its values are | inputs |
| `taylor` | first-order change of the loss | inputs, targets where there are any |
| `hessian` | second-order change of the loss | inputs, targets where there are any |

Each stands in a file of its own with its formula and source.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy

from graphopt.analysis.axes import AxisGroup, AxisGroups
from graphopt.errors import PassError, PassOptionError
from graphopt.ir.graph import Graph
from graphopt.passes.shrink.importance.activation import activation_sizes
from graphopt.passes.shrink.importance.batch_norm_scale import batch_norm_scales
from graphopt.passes.shrink.importance.geometric_median import geometric_median_distances
from graphopt.passes.shrink.importance.hessian import hessian_scores
from graphopt.passes.shrink.importance.kept_batches import KeptBatches
from graphopt.passes.shrink.importance.members import Scores
from graphopt.passes.shrink.importance.norms import norm_scores
from graphopt.passes.shrink.importance.random_scores import random_scores
from graphopt.passes.shrink.importance.taylor import taylor_scores
from graphopt.pipeline.context import Context

__all__ = ["METHODS", "needs_data", "score"]

Score = Callable[[Graph, AxisGroups, Context, list[str]], dict[AxisGroup, Scores]]

_TABLE: dict[str, Score] = {
    "l1": lambda graph, groups, context, notes: norm_scores(graph, groups, 1),
    "l2": lambda graph, groups, context, notes: norm_scores(graph, groups, 2),
    "bn-scale": lambda graph, groups, context, notes: batch_norm_scales(graph, groups),
    "taylor": lambda graph, groups, context, notes: taylor_scores(
        graph, groups, _data("taylor", graph, groups, context, notes), context.seed
    ),
    "hessian": lambda graph, groups, context, notes: hessian_scores(
        graph, groups, _data("hessian", graph, groups, context, notes), context.seed
    ),
    "activation": lambda graph, groups, context, notes: activation_sizes(graph, groups, _data("activation", graph, groups, context, notes)),
    "geometric-median": lambda graph, groups, context, notes: geometric_median_distances(graph, groups),
    "random": lambda graph, groups, context, notes: random_scores(groups, context.seed),
}

METHODS: tuple[str, ...] = tuple(_TABLE)
"""The names of all methods."""


def needs_data(method: str) -> bool:
    """True when a method looks at calibration data."""
    return method in ("taylor", "hessian", "activation")


def score(graph: Graph, groups: AxisGroups, method: str, context: Context, notes: list[str] | None = None) -> dict[AxisGroup, Scores]:
    """The importance of every unit of every group, higher is more important.

    `notes` gets what there is to say of the context's checkpoint, for the report.

    Raises:
        PassOptionError: no such method.
        PassError: the method needs calibration data and there is none, or a score is not finite; for `bn-scale` no
            unit has a batch norm, for `taylor` and `hessian` the graph has no gradients; or the checkpoint can't be written.
        BackendError: the graph has no numbers.
    """
    function = _TABLE.get(method)
    if function is None:
        raise PassOptionError(f"importance is '{method}', needs one of {', '.join(METHODS)}")
    scores = function(graph, groups, context, [] if notes is None else notes)
    for group, numbers in scores.items():
        broken = ~numpy.isfinite(numbers)
        if broken.any():
            unit = int(broken.nonzero()[0][0])
            raise PassError(
                f"importance '{method}' of unit {unit} of group '{group.name}' is {numbers[unit]}, needs a finite number",
                fix=f"look for NaN or infinity in its weights or in the calibration data, or exclude '{group.name}'",
            )
    return scores


def _data(method: str, graph: Graph, groups: AxisGroups, context: Context, notes: list[str]) -> KeptBatches:
    """The calibration data of a context.

    Raises:
        PassError: there is none.
    """
    if context.calibration is None or not len(context.calibration):
        raise PassError(
            f"importance '{method}' needs calibration data and there is none",
            fix="pass some: optimize(..., calibration=loader); or use importance 'l2', which needs none",
        )
    return KeptBatches(context, context.calibration, method, graph, groups, notes)
