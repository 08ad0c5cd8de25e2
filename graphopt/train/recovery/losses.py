"""What a student is trained on: the teacher's outputs and features, and labels.

    loss = distillation_weight * T^2 KL(teacher / T || student / T)    or the mean squared error of the outputs
         + feature_weight * mean over features f of  |s_f - t_f|^2 / |t_f|^2
         + label_weight * cross-entropy (or mean squared error, or the caller's loss)

A piece of a batch has a share in each part, so that the sum over pieces is the loss of the whole: distances and the
caller's loss are means over rows, cross-entropy is one over the labels that are not -100, and |t_f|^2 is that of the batch.

Classes are on axis 1, in outputs of three axes (language models) on the last one.

Source: Hinton et al., "Distilling the knowledge in a neural network", 2015, section 2 (the factor T^2 keeps the gradients'
size); Romero et al., "FitNets", ICLR 2015 (features).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import torch
from torch.nn import functional

from graphopt.errors import GraphoptError, UsageError
from graphopt.train.checks import is_real
from graphopt.train.patterns import widened

__all__ = ["WHOLE", "Distillation", "Loss", "Losses", "Share", "mean_squares"]

Loss: TypeAlias = Callable[[Any, torch.Tensor], torch.Tensor]
"""(the only output, or the list of outputs; labels) -> the loss, a mean over rows."""

Distillation: TypeAlias = Literal["kl", "mse"]

_SMALL = 1e-12

_UNLABELLED = -100
"""The class of a position without a label, as in torch."""


@dataclass(frozen=True, slots=True)
class Share:
    """What part of a batch a piece is, from 0 to 1: of its rows, and of its labels that count.

    `squares` are the means of the squares of the teacher's features over the batch; None, those over the piece itself.
    """

    rows: float = 1.0
    labels: float = 1.0
    squares: tuple[torch.Tensor, ...] | None = None


WHOLE = Share()
"""The batch itself."""


@dataclass(frozen=True, slots=True)
class Losses:
    """The parts and their weights; `temperature` is T."""

    distillation: Distillation = "kl"
    temperature: float = 2.0
    distillation_weight: float = 1.0
    feature_weight: float = 1.0
    label_weight: float = 1.0
    loss: Loss | None = None

    def __post_init__(self) -> None:
        weights = (self.distillation_weight, self.feature_weight, self.label_weight)
        if self.distillation not in ("kl", "mse"):
            raise UsageError(f"distillation is '{self.distillation}', needs 'kl' (classes) or 'mse' (numbers)")
        if not (all(map(is_real, (self.temperature, *weights))) and min(weights) >= 0 and self.temperature > 0):
            raise UsageError(f"temperature is {self.temperature!r} and the weights are {weights}, needs temperature > 0 and weights >= 0")
        if self.loss is not None and not callable(self.loss):  # pyright: ignore[reportUnnecessaryComparison]  # callers may be untyped
            raise UsageError(f"loss is {self.loss!r}, needs a function of outputs and labels", fix="loss=torch.nn.functional.cross_entropy")

    def total(
        self,
        outputs: Sequence[torch.Tensor],
        features: Sequence[torch.Tensor],
        taught: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]] | None,
        target: torch.Tensor | None,
        share: Share = WHOLE,
    ) -> torch.Tensor:
        """The loss of one batch, a mean over its rows, or what a piece of it adds to that. Distances of float16 and bfloat16 are taken
        in float32: those of two networks that are alike would be noise.

        Raises:
            UsageError: labels or the teacher's outputs do not fit the student's, or nothing is there to learn from.
        """
        terms: list[torch.Tensor] = []
        if taught is not None and self.distillation_weight:
            terms.append(self.distillation_weight * share.rows * self._distil(outputs, taught[0]))
        if taught is not None and features and self.feature_weight:
            squares = mean_squares(taught[1]) if share.squares is None else share.squares
            distances = [_relative(*three) for three in zip(features, taught[1], squares, strict=True)]
            terms.append(self.feature_weight * share.rows * torch.stack(distances).mean())
        if target is not None and self.label_weight:
            terms.append(self.label_weight * share.labels * self._labels(outputs, target))
        elif self.loss is not None and self.label_weight:
            raise UsageError("loss was given, and a batch has no labels for it", fix="give (input, labels) batches, or leave loss out")
        if not terms:
            raise UsageError(
                "there is nothing to learn from: no teacher, and no labels in the data, or their weights are 0",
                fix="pass teacher=original, or (input, labels) batches",
            )
        return torch.stack(terms).sum()

    def counted(self, target: torch.Tensor) -> int:
        """How many labels the loss of labels is a mean over, or a number in proportion to it."""
        if self.loss is None and not target.is_floating_point():
            return int((target != _UNLABELLED).sum())
        return int(target.shape[0]) if target.dim() else 1

    def _distil(self, outputs: Sequence[torch.Tensor], taught: Sequence[torch.Tensor]) -> torch.Tensor:
        mine, theirs = [list(output.shape) for output in outputs], [list(output.shape) for output in taught]
        if mine != theirs or not mine:
            raise UsageError(
                f"the student's outputs have the shapes {mine}, the teacher's {theirs}", fix="use a teacher with the same outputs"
            )
        terms = [self._distance(output, wanted) for output, wanted in zip(outputs, taught, strict=True)]
        return torch.stack(terms).mean()

    def _distance(self, output: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        output, wanted = widened(output), widened(wanted)
        if self.distillation == "mse" or output.dim() < 2:
            return functional.mse_loss(output, wanted)
        axis = _class_axes(output)[0]
        log_student = functional.log_softmax(output / self.temperature, axis)
        log_teacher = functional.log_softmax(wanted / self.temperature, axis)
        return functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(axis).mean() * self.temperature**2

    def _own(self, loss: Loss, outputs: Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        shown = f"outputs of shapes {[list(output.shape) for output in outputs]} and labels of shape {list(target.shape)}"
        try:
            found = cast("object", loss(outputs[0] if len(outputs) == 1 else list(outputs), target))
        except GraphoptError:
            raise
        except Exception as error:
            raise UsageError(f"the loss raised {type(error).__name__}: {error}", fix=f"it was called with {shown}") from error
        if not isinstance(found, torch.Tensor) or found.numel() != 1:
            what = f"tensor of shape {list(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise UsageError(f"the loss returned a {what}, needs a tensor with one number", fix=f"return the mean over rows; {shown}")
        if not found.requires_grad and any(output.requires_grad for output in outputs):
            raise UsageError(
                "the loss returned a tensor without gradients, so nothing would be learned from it",
                fix="compute it from the outputs with torch's functions, without detach() or item()",
            )
        return found.reshape(())

    def _labels(self, outputs: Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        if self.loss is not None:
            return self._own(self.loss, outputs, target)
        for output in map(widened, outputs):
            if target.is_floating_point():
                if output.shape == target.shape:
                    return functional.mse_loss(output, target.to(output.dtype))
                continue
            for axis in _class_axes(output):
                if (*output.shape[:axis], *output.shape[axis + 1 :]) == tuple(target.shape):
                    classes = output.shape[axis]
                    if target.numel() and not _UNLABELLED <= int(target.min()) <= int(target.max()) < classes:
                        raise UsageError(
                            f"labels go from {int(target.min())} to {int(target.max())}, the output has {classes} classes",
                            fix=f"number the classes from 0 to {classes - 1}, and give -100 to positions without a label",
                        )
                    if not self.counted(target):
                        return output.sum() * 0.0  # torch's mean over no label is NaN
                    return functional.cross_entropy(output.movedim(axis, 1), target.long())
        shown = ", ".join(str(list(output.shape)) for output in outputs)
        raise UsageError(
            f"labels of shape {list(target.shape)} fit none of the outputs ({shown})",
            fix="give one class per prediction or numbers of the output's shape, or pass loss=function(output, labels)",
        )


def _class_axes(output: torch.Tensor) -> tuple[int, ...]:
    """Where the classes may be, the likelier axis first: labels tell which one it is, unless there are as many positions as classes."""
    match output.dim():
        case 0 | 1:
            return ()
        case 3:
            return 2, 1
        case rank:
            return 1, rank - 1


def mean_squares(features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """What the distances of features are divided by, as `Share.squares` has them."""
    return tuple(widened(feature).square().mean() for feature in features)


def _relative(mine: torch.Tensor, theirs: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(widened(mine), widened(theirs)) / (square + _SMALL)
