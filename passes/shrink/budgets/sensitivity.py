"""How much the output changes when a group gets narrower, measured on calibration data.

    error(group, width) = sum |y' - y|^2 / sum |y|^2        y: outputs of the graph, y': of the graph with only that group cut

over all floating-point outputs and samples; or the fall of the user's metric, which has no end where the metric
raises or is no finite number. The graph is really cut, so that layers that normalise over the units see what they will see.
Where layers make up for a cut in the end, those that read the group do so here too: without, a small cut looks as bad
as it is before it is mended, and a search would rather cut few groups hard than many a little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy
from numpy.typing import NDArray

from graphopt.analysis.axes.groups import AxisGroup, Removal
from graphopt.errors import PassError
from graphopt.ir.graph import Graph
from graphopt.passes.finished import Finished
from graphopt.passes.shrink.budgets.choices import Choice, least_important, narrowed
from graphopt.passes.shrink.budgets.search import Curve
from graphopt.passes.shrink.compensation import compensate_readers
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Metric
from graphopt.pipeline.quality import QualityGuard
from graphopt.pipeline.recording import run_outputs
from graphopt.rewrite.cut import CutRecord
from graphopt.rewrite.rewriter import Rewriter
from graphopt.train.recovery.checkpoint import fingerprint

if TYPE_CHECKING:
    import torch

__all__ = ["first_batches", "mending", "metric_falls", "output_errors", "sensitivities"]

_HOPELESS = 1e30
"""From this error on outputs or metric are no numbers, and the width is never chosen."""

_ROUNDING = 1e-12
"""Error that single precision makes by adding in another order: none."""

Measure = Callable[[Graph], float]

Mend = Callable[[Graph, CutRecord], None]
"""Gives the layers of a graph that was cut new numbers."""


def sensitivities(
    graph: Graph,
    choices: Sequence[Choice],
    scores: Mapping[AxisGroup, NDArray[numpy.float64]],
    measure: Measure,
    *,
    points: int,
    tell: Callable[[float], None],
    mend: Mend | None = None,
    finished: Finished | None = None,
) -> list[Curve]:
    """For each choice its error curve, through `points` of its widths, the narrowest among them; `mend` is called after each cut.

    What was measured of a group is kept in `finished`, by its name and widths: those on offer may differ from run to run
    where they depend on measured times.
    """
    curves: list[Curve] = []
    for number, choice in enumerate(choices):
        tell(number / len(choices))
        least = choice.widths[-1] / choice.group.size
        widths = list(dict.fromkeys(choice.nearest(1 - (1 - least) * (index + 1) / points) for index in range(points)))

        def measured(choice: Choice = choice, widths: Sequence[int] = widths) -> dict[str, list[float]]:
            gone = (least_important(scores[choice.group], width) for width in widths)
            return {"errors": [_error(graph, {choice.group: mask}, measure, mend) for mask in gone]}

        if finished is None:
            errors = measured()["errors"]
        else:
            key = fingerprint((), {"group": choice.group.name, "widths": widths})
            errors = finished.result(f"group-{key[:16]}", measured)["errors"]
        curves.append(Curve.through(list(zip(widths, errors, strict=True)), choice.group.size))
    return curves


def _error(graph: Graph, removal: Removal, measure: Measure, mend: Mend | None) -> float:
    """What one cut costs; infinite where outputs or metric are no numbers."""
    copy, record = narrowed(graph, removal)
    if mend is not None:
        mend(copy, record)
    error = measure(copy)
    return 0.0 if error < _ROUNDING else error if error < _HOPELESS else math.inf


def first_batches(calibration: Calibration, samples: int) -> Calibration:
    """The first batches, until they have so many samples; at least one."""
    count = 0
    taken: list[Batch] = []
    for batch in calibration:
        if count >= samples and taken:
            break
        taken.append(batch)
        count += batch.samples
    return Calibration(taken)


def mending(graph: Graph, calibration: Calibration, method: str, seed: int) -> Mend | None:
    """How the layers that read a group make up for a cut of `graph`; None where they do not."""
    if method == "none":
        return None
    chosen = "bias" if method == "bias" else "least-squares"

    def mend(copy: Graph, record: CutRecord) -> None:
        compensate_readers(Rewriter(copy), graph, record, calibration, chosen, seed=seed)

    return mend


def output_errors(graph: Graph, calibration: Calibration) -> Measure:
    """A measure of the squared error of the outputs relative to those of `graph`.

    Raises:
        PassError: the graph has no floating-point output, or its outputs are all zero.
    """
    batches = [batch.inputs for batch in calibration]
    expected = [_floats(graph, inputs) for inputs in batches]
    size = sum(float(tensor.square().sum()) for outputs in expected for tensor in outputs)
    if not 0 < size < float("inf"):
        raise PassError(
            f"the outputs of graph '{graph.name}' on the calibration data have the squared sum {size}, so errors can't be measured",
            fix='give data that the model answers to, or sensitivity="metric" with a metric',
        )

    def measure(other: Graph) -> float:
        error = 0.0
        for inputs, wanted in zip(batches, expected, strict=True):
            error += sum(float((new - old).square().sum()) for new, old in zip(_floats(other, inputs), wanted, strict=True))
        return error / size

    return measure


def metric_falls(graph: Graph, metric: Metric) -> Measure:
    """A measure of how far the user's metric falls from that of `graph`; rises count as no fall.

    Raises:
        UsageError: the metric gives no finite number for `graph`, or changes the module that it is given.
    """
    guard = QualityGuard(graph, metric, None)

    def measure(other: Graph) -> float:
        trial = guard.measure(other, "")
        return max(0.0, trial.drop) if trial.holds and trial.drop is not None else math.inf

    return measure


def _floats(graph: Graph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [output.double() for output in run_outputs(graph, inputs, precise=False) if output.is_floating_point()]
