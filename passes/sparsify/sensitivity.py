"""Ratios of layers by what each does to the outputs of the network.

For each layer and a few ratios, the layer alone is made sparse and the network runs on calibration data:

    e(layer, ratio) = |f'(x) - f(x)|^2 / |f(x)|^2        over all floating-point outputs and up to 64 samples

The errors of layers are taken to add up (as in Frantar & Alistarh, SPDY, ICML 2022). Zeros then go where they cost least:
along the lower convex hull of each layer's curve, cheapest slope first, until the whole has the ratio that was asked for.
Time: layers x 5 runs of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import TypeVar

import torch

from graphopt.capture.module import to_module
from graphopt.errors import PassError
from graphopt.ir.graph import Graph
from graphopt.passes.finished import Finished
from graphopt.passes.sparsify.layers import Layer
from graphopt.passes.sparsify.patterns import Pattern
from graphopt.passes.sparsify.scores import WeightScores, calibration_of
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context

__all__ = ["sensitive_ratios", "share_out"]

_LEVELS = (0.3, 0.5, 0.7, 0.85, 0.95)
_SAMPLES = 64
_WORST = 1e30
"""The error of outputs that are not finite."""

Curve = Sequence[tuple[float, float]]
Key = TypeVar("Key")


def sensitive_ratios(
    graph: Graph,
    layers: Sequence[Layer],
    pattern: Pattern,
    score: WeightScores,
    ratio: float,
    context: Context,
    finished: Finished,
) -> dict[Layer, float]:
    """The ratio of each layer; together they have `ratio`. What is measured does not depend on it, and is kept in `finished`.

    Raises:
        PassError: there is no calibration data, the outputs are not finite, or the ratio is more than the highest level allows.
    """
    batches = _first(calibration_of(context, 'ratios="sensitivity"', otherwise='share zeros out with ratios="scope"'))
    if ratio > _LEVELS[-1]:
        raise PassError(
            f"ratio {ratio} is over {_LEVELS[-1]}, the highest ratio that is measured", fix='use ratios="scope", or a smaller ratio'
        )
    module = to_module(graph, flat=True).eval()
    states = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        wanted = [_floats(module(*batch.inputs)) for batch in batches]
        scale = sum(float(output.square().sum()) for outputs in wanted for output in outputs)
        if not 0 < scale < float("inf"):
            raise PassError(
                f"the outputs on calibration data have the energy {scale}, so no change can be measured against it",
                fix='give calibration data with finite outputs that are not all zero, or use ratios="scope"',
            )
        curves: dict[Layer, list[tuple[float, float]]] = {}
        for index, layer in enumerate(layers):
            if context.progress is not None:
                context.progress(f"sensitivity of {layer.name}", index / len(layers))

            def measured(layer: Layer = layer) -> dict[str, list[float]]:
                scores, weight = score(layer), states[layer.weight.name]
                errors: list[float] = []
                for level in _LEVELS:
                    goes = pattern.goes(scores, layer, level).to(weight.device)
                    changed = {layer.weight.name: torch.where(goes, 0.0, weight)}
                    error = 0.0
                    for batch, outputs in zip(batches, wanted, strict=True):
                        found = _floats(torch.func.functional_call(module, changed, tuple(batch.inputs)))
                        error += sum(float((a - b).square().sum()) for a, b in zip(found, outputs, strict=True))
                    errors.append(min(error / scale, _WORST) if error == error else _WORST)
                return {"errors": errors}

            errors = finished.result(f"layer-{index + 1:05}", measured)["errors"]
            curves[layer] = [(0.0, 0.0), *zip(_LEVELS, errors, strict=True)]
    return share_out({layer: (layer.elements, curve) for layer, curve in curves.items()}, ratio)


def share_out(curves: dict[Key, tuple[int, Curve]], ratio: float) -> dict[Key, float]:
    """Ratios with the least sum of errors, for curves [(ratio, error)] that start at (0, 0), of layers of some size."""
    hulls = {key: _lower_hull(curve) for key, (_, curve) in curves.items()}
    position = dict.fromkeys(curves, 0)
    result = dict.fromkeys(curves, 0.0)
    left = ratio * sum(size for size, _ in curves.values())
    order = {key: index for index, key in enumerate(curves)}
    keys = list(curves)

    def slope(key: Key) -> float:
        (start, low), (end, high) = hulls[key][position[key] : position[key] + 2]
        return (high - low) / ((end - start) * curves[key][0])

    queue = [(slope(key), order[key]) for key in keys]
    heapify(queue)
    while queue and left > 0:
        key = keys[heappop(queue)[1]]
        start, end = hulls[key][position[key]][0], hulls[key][position[key] + 1][0]
        step = min(end - start, left / curves[key][0])
        result[key] = start + step
        left -= step * curves[key][0]
        position[key] += 1
        if position[key] + 1 < len(hulls[key]):
            heappush(queue, (slope(key), order[key]))
    return result


def _lower_hull(curve: Curve) -> list[tuple[float, float]]:
    hull: list[tuple[float, float]] = []
    for x, y in curve:
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-1][0]) >= (y - hull[-1][1]) * (hull[-1][0] - hull[-2][0]):
            hull.pop()
        hull.append((x, y))
    return hull


def _first(calibration: Calibration) -> list[Batch]:
    taken: list[Batch] = []
    samples = 0
    for batch in calibration:
        taken.append(batch)
        samples += batch.inputs[0].shape[0] if batch.inputs and batch.inputs[0].dim() else 1
        if samples >= _SAMPLES:
            break
    return taken


def _floats(outputs: Sequence[torch.Tensor] | torch.Tensor) -> list[torch.Tensor]:
    given = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    return [output.double() for output in given if output.is_floating_point()]
