"""Compensation without training: what stays makes up for what went, on calibration data.

    before = graph.clone()
    record = cut(rewriter, groups, removal)
    notes = compensate(rewriter, before, record, context, "least-squares")

| method | changes |
|---|---|
| `none` | nothing |
| `bias` | biases and shifts of batch norms, by the mean difference of each layer's outputs |
| `least-squares` | weights, biases, scales, shifts and running statistics of every layer that reads something else than before |

Other passes that change what layers read use `compensate_layers`; to fit one layer to targets of your own, see `fit_layer`.
A search that looks at many cuts uses `compensate_readers`.
"""

from __future__ import annotations

from typing import Literal

from graphopt.errors import PassOptionError
from graphopt.ir.graph import Graph
from graphopt.passes.finished import Finished
from graphopt.passes.shrink.compensation.changes import Kept
from graphopt.passes.shrink.compensation.fit import RIDGES, Fit, Sample, fit_layer, fit_shift
from graphopt.passes.shrink.compensation.layers import LinearLayer, linear_layer
from graphopt.passes.shrink.compensation.sequence import LIMIT_BYTES, Compensation, Method
from graphopt.pipeline.calibration import Calibration
from graphopt.pipeline.context import Context
from graphopt.rewrite.cut import CutRecord
from graphopt.rewrite.rewriter import Rewriter

__all__ = [
    "LIMIT_BYTES",
    "METHODS",
    "RIDGES",
    "Fit",
    "LinearLayer",
    "Sample",
    "compensate",
    "compensate_layers",
    "compensate_readers",
    "fit_layer",
    "fit_shift",
    "linear_layer",
]

METHODS: tuple[str, ...] = ("none", "bias", "least-squares")


def compensate(
    rewriter: Rewriter, before: Graph, record: CutRecord, context: Context, method: Literal["none", "bias", "least-squares"]
) -> tuple[str, ...]:
    """Give the layers of a cut graph new numbers, so that its outputs come near to those of `before`.

    Called right after the cut, `before` is the graph as it was then: values are matched by name. Only numbers of
    states change. On a held-out quarter of the calibration data no layer's outputs, and not the graph's either, are
    further off than those of the plain cut. Without calibration data nothing is done. Returns notes for the report.

    Raises:
        PassOptionError: no such method.
        RunInputError: a batch does not fit the graph.
    """
    return compensate_layers(rewriter, before, record.states, context, method)


def compensate_layers(rewriter: Rewriter, before: Graph, kept: Kept, context: Context, method: str) -> tuple[str, ...]:
    """The same after any change: `kept` says which positions of which states are left, where some were taken out.

    Layers that read other values than in `before` are fitted; values that changed are found by comparing the graphs.
    Where the context has a checkpoint, layers that are finished are kept there.

    Raises:
        PassError: the checkpoint can't be written.
        PassOptionError: no such method.
        RunInputError: a batch does not fit the graph.
    """
    if method not in METHODS:
        raise PassOptionError(f"compensation is '{method}', needs one of {', '.join(METHODS)}")
    if method == "none":
        return ()
    if context.calibration is None or not len(context.calibration):
        return (f"no compensation: '{method}' needs calibration data, pass it as optimize(..., calibration=loader)",)
    chosen = "bias" if method == "bias" else "least-squares"
    options = {"method": chosen, "kept": {name: [*kept[name]] for name in sorted(kept)}}
    finished = Finished(context, "compensation", options, (before, rewriter.graph), context.calibration, several=True)
    compensation = Compensation(
        rewriter, before, kept, context.calibration, chosen, seed=context.seed, progress=context.progress, finished=finished
    )
    return compensation.run()


def compensate_readers(
    rewriter: Rewriter, before: Graph, record: CutRecord, calibration: Calibration, method: Method, *, seed: int
) -> None:
    """A quick look at what `compensate` would do: only the layers that read what went are fitted, and norms right behind them.

    Raises:
        RunInputError: a batch does not fit the graph.
    """
    Compensation(rewriter, before, record.states, calibration, method, seed=seed).run_readers()
