"""The gradients of a batch, in pieces where memory is short: their sum is the gradient of the whole.

    summed = Gradients(student, teacher, losses, runtime, micro_batch=8).add(network, [batch])

A piece has a share of each part of the loss (`Share`): of the rows, of the labels that count, and of the squares of the
teacher's features over the batch, which are computed once more for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from graphopt.errors import UsageError
from graphopt.train.recovery.data import TrainingBatch, fixed_rows
from graphopt.train.recovery.device import Runtime
from graphopt.train.recovery.losses import WHOLE, Losses, Share, mean_squares
from graphopt.train.recovery.network import Network

__all__ = ["Gradients"]


@dataclass(frozen=True, slots=True)
class Gradients:
    """Of the losses of a student; `micro_batch` rows are worked on at once, all of a batch where it is None."""

    student: Network
    teacher: Network | None
    losses: Losses
    runtime: Runtime
    micro_batch: int | None

    def add(self, network: torch.nn.Module, batches: Sequence[TrainingBatch]) -> float:
        """Add the gradients of the batches to those of `network`, which is the student's module, maybe wrapped; their loss.

        Raises:
            UsageError: a batch does not fit, or its loss depends on nothing that is trained.
        """
        pieces = [piece for batch in batches for piece in self._pieces(batch)]
        summed = 0.0
        for number, (piece, share) in enumerate(zip(pieces, self._shares(pieces), strict=True)):
            moved = piece.to(self.runtime.device)
            with self.runtime.local(network, number == len(pieces) - 1), self.runtime.precision():
                loss = self._loss(network, moved, share)
                if not loss.requires_grad:
                    raise UsageError(
                        "the loss depends on no parameter that is trained",
                        fix="parameters that the outputs are computed from need requires_grad=True",
                    )
                self.runtime.backward(loss)
            summed += loss.item()
        return summed

    def _pieces(self, batch: TrainingBatch) -> list[TrainingBatch]:
        if self.micro_batch is None:
            return [batch]
        fixed = None if self.student.graph is None else fixed_rows(self.student.graph, batch)
        if fixed is not None and self.micro_batch < fixed:
            raise UsageError(
                f"micro_batch is {self.micro_batch}, and the graph was captured for batches of {fixed} rows alone",
                fix="capture with a symbolic size: dynamic={'x': {0: 'batch'}}; or leave micro_batch out",
            )
        return batch.split(self.micro_batch)

    def _shares(self, pieces: list[TrainingBatch]) -> list[Share]:
        """What part of the batch each piece is; the teacher's features are computed once more for it, as nothing is kept."""
        if len(pieces) == 1:
            return [WHOLE]
        rows = sum(piece.rows for piece in pieces)
        labels = [0 if piece.target is None else self.losses.counted(piece.target) for piece in pieces]
        counted = max(sum(labels), 1)
        squares = self._squares(pieces, rows) if self.student.features and self.losses.feature_weight else None
        return [Share(piece.rows / rows, count / counted, squares) for piece, count in zip(pieces, labels, strict=True)]

    @torch.no_grad()
    def _squares(self, pieces: list[TrainingBatch], rows: int) -> tuple[torch.Tensor, ...] | None:
        if self.teacher is None:
            return None
        sums: list[torch.Tensor] = []
        for piece in pieces:
            with self.runtime.precision():
                features = self.teacher.call(self.teacher.module, piece.to(self.runtime.device))[1]
            found = [square * (piece.rows / rows) for square in mean_squares(features)]
            sums = [total + square for total, square in zip(sums, found, strict=True)] if sums else found
        return tuple(sums)

    def _loss(self, network: torch.nn.Module, batch: TrainingBatch, share: Share) -> torch.Tensor:
        taught = None
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher.call(self.teacher.module, batch)
        outputs, features = self.student.call(network, batch)
        return self.losses.total(outputs, features, taught, batch.target, share)
