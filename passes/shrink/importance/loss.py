"""The loss whose gradients rank units.

With targets: cross-entropy for integer targets (classes on axis 1, or on the last axis where that fits, as in
language models), mean squared error for floating-point ones. The first output that fits the target counts.

Without targets: the distance of the outputs z(w) to the model's own, E||z(w + d) - z(w)||^2. Its gradient at d = 0 is
zero, its curvature is the Gauss-Newton matrix J^T J; the gradient of <r, z> with random signs r has exactly that as its
second moment: E[(J^T r)(J^T r)^T] = J^T J (Hutchinson 1990). So squared gradients of <r, z> say how far the outputs
move, whatever the model is for. Every floating-point output counts, divided by its number of elements per sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional

from graphopt.errors import PassError

__all__ = ["loss_of", "random_signs"]


def loss_of(outputs: Sequence[torch.Tensor], target: torch.Tensor | None, signs: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """The loss of one batch, the mean over its samples; `signs` are those of `random_signs` and used without a target.

    Raises:
        PassError: no output fits the target.
    """
    if target is None:
        terms = [(output * sign).sum() / max(output.numel(), 1) for output, sign in zip(outputs, signs, strict=True) if sign is not None]
        return torch.stack(terms).sum()
    for output in outputs:
        if not output.is_floating_point():
            continue
        if target.is_floating_point():
            if output.shape == target.shape:
                return functional.mse_loss(output, target.to(output.dtype))
        elif output.dim() >= 2 and (classes := _class_axis(output, target)) is not None:
            return functional.cross_entropy(output.movedim(classes, 1), target.long())
    shown = ", ".join(str(list(output.shape)) for output in outputs)
    raise PassError(
        f"the targets have the shape {list(target.shape)}, which fits none of the outputs ({shown})",
        fix="give one class index per prediction, or targets of the output's own shape, or data without targets",
    )


def random_signs(outputs: Sequence[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor | None]:
    """For each floating-point output numbers -1 and 1 of its shape; None for the others.

    Raises:
        PassError: no output is floating point.
    """
    signs: list[torch.Tensor | None] = []
    for output in outputs:
        if output.is_floating_point():
            drawn = torch.randint(0, 2, output.shape, generator=generator) * 2 - 1
            signs.append(drawn.to(output.device, output.dtype))
        else:
            signs.append(None)
    if all(sign is None for sign in signs):
        raise PassError("no output of the graph is floating point, so there is nothing to take gradients of", fix="use importance 'l2'")
    return signs


def _class_axis(output: torch.Tensor, target: torch.Tensor) -> int | None:
    for axis in (1, output.dim() - 1):
        if (*output.shape[:axis], *output.shape[axis + 1 :]) == tuple(target.shape):
            return axis
    return None
