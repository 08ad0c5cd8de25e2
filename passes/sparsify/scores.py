"""How important single weights are; the least important go first.

| importance | score of a weight w | data |
|---|---|---|
| magnitude | w^2 | no |
| taylor | mean over batches of (g w)^2, g the gradient of the loss | inputs, targets where there are any |
| movement | - sum over batches of g w: what training moves away from zero is kept | inputs and targets |

Sources: Han et al., Learning both Weights and Connections, NIPS 2015; Molchanov et al., Importance Estimation for Neural
Network Pruning, CVPR 2019, equation 8; Sanh et al., Movement Pruning, NeurIPS 2020, equation 4.
The loss is that of `graphopt.passes.shrink.importance.loss`. Weights that are zero already have the lowest score.

Gradients are those of batches, as in the sources: movement is a sum, which single samples would give too, and the square of Taylor is
that of a batch's gradient. One backward pass per batch is all that they take, so there is nothing for `torch.func.vmap` to save;
where its activations are large, parts of the graph are run again (`graphopt.train.batched.planned`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from graphopt.errors import PassError
from graphopt.ir.graph import Graph
from graphopt.passes.shrink.importance.gradients import Differentiable
from graphopt.passes.sparsify.layers import Layer
from graphopt.pipeline.calibration import Calibration
from graphopt.pipeline.context import Context

__all__ = ["Importance", "WeightScores", "calibration_of", "random_scores", "weight_scores"]

Importance = Literal["magnitude", "taylor", "movement"]
WeightScores = Callable[[Layer], torch.Tensor]
"""The scores of a layer's weights, of the weight's shape, float64, finite."""


def weight_scores(graph: Graph, layers: Sequence[Layer], importance: Importance, context: Context) -> WeightScores:
    """The scores by a method; gradients are taken once, when this is called.

    Raises:
        PassError: the method needs calibration data or targets and there are none, or the graph has no gradients.
    """
    if importance == "magnitude":
        return lambda layer: layer.numbers().square()
    calibration = calibration_of(context, f"importance '{importance}'", otherwise="rank by importance 'magnitude'")
    if importance == "movement" and any(batch.target is None for batch in calibration):
        raise PassError(
            "importance 'movement' needs batches with targets, and the calibration data has inputs alone",
            fix="give pairs (inputs, targets), or use importance 'taylor', which does without",
        )
    _check_labels(calibration)
    sums = _gradient_sums(graph, layers, calibration, context.seed, squared=importance == "taylor")

    def score(layer: Layer) -> torch.Tensor:
        weight, found = layer.numbers(), sums[layer.weight.name].double()
        if not bool(found.isfinite().all()):
            raise PassError(
                f"importance '{importance}' of '{layer.name}' is not finite",
                fix=f"look at the gradients of the loss, or exclude '{layer.name}'",
            )
        values = found * weight.square() if importance == "taylor" else -found * weight
        return torch.where(weight == 0, float(values.min()) - 1.0 if values.numel() else 0.0, values)

    return score


def random_scores(layers: Sequence[Layer], seed: int) -> WeightScores:
    """Uniform random scores, the same for the same seed and layer; zeros that are there go first."""
    numbers = {layer: index for index, layer in enumerate(layers)}

    def score(layer: Layer) -> torch.Tensor:
        generator = torch.Generator().manual_seed((abs(seed) * 1_000_003 + numbers[layer]) % (1 << 62))
        drawn = torch.rand(layer.shape, generator=generator, dtype=torch.float64)
        return torch.where(layer.numbers() == 0, -1.0, drawn)

    return score


def calibration_of(context: Context, what: str, *, otherwise: str = "use sparsify-magnitude") -> Calibration:
    """The calibration data of a context; `otherwise` is what does without.

    Raises:
        PassError: there is none.
    """
    if context.calibration is None or not len(context.calibration):
        raise PassError(
            f"{what} needs calibration data and there is none",
            fix=f"pass some: optimize(..., calibration=loader); or {otherwise}, which needs none",
        )
    return context.calibration


def _check_labels(calibration: Calibration) -> None:
    """Inputs were looked at when the data was read; labels matter to those alone that take gradients."""
    for index, batch in enumerate(calibration):
        if batch.target is None or not batch.target.is_floating_point():
            continue
        broken = int((~batch.target.isfinite()).sum())
        if broken:
            raise PassError(
                f"labels of calibration batch {index} have {broken} NaN or infinite values among {batch.target.numel()}",
                fix="leave out samples without a label, or give inputs alone",
            )


def _gradient_sums(graph: Graph, layers: Sequence[Layer], calibration: Calibration, seed: int, *, squared: bool) -> dict[str, torch.Tensor]:
    """For each weight the mean of its squared gradients over batches, or the sum of its gradients."""
    model = Differentiable(graph, [layer.weight.name for layer in layers], seed)
    sums: dict[str, torch.Tensor] = {}
    for index, batch in enumerate(calibration):
        for name, gradient in model.gradients(batch.inputs, batch.target, model.signs(batch, index)).items():
            term = gradient.detach().cpu()
            term = term.square() / len(calibration) if squared else term
            sums[name] = sums[name] + term if name in sums else term
    return sums
