"""One way to make a network sparse, and to train it afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from tools.bench_sparsity.subject import Subject

__all__ = ["RATIOS", "Arm", "Sparse"]

RATIOS = (0.5, 0.8, 0.9)
"""Parts of the weights that become zero."""


class Sparse(ABC):
    """A network that was made sparse. `settings`: what the method was told; `notes`: what it said."""

    settings: str
    notes: tuple[str, ...] = ()

    @abstractmethod
    def finished(self) -> torch.nn.Module:
        """The network in eval mode as ordinary modules, whose weights have the zeros."""

    @abstractmethod
    def train(self, subject: Subject, seed: int, rate: float) -> None:
        """Train by the task's schedule on the lessons of this seed, up to this rate; zeros stay."""

    @abstractmethod
    def kept(self) -> Any:
        """What `put_back` needs to undo training."""

    @abstractmethod
    def put_back(self, kept: Any) -> None:
        """Be what it was when `kept` was called."""

    def tune(self, subject: Subject, seed: int) -> None:
        """Train with each of the schedule's rates from the same start, and be what is best on validation data."""
        before, best = self.kept(), float("-inf")
        after = before
        rates = subject.task.schedule.rates
        for rate in rates:
            self.put_back(before)
            self.train(subject, seed, rate)
            quality = subject.task.quality(self.finished(), "validation") if len(rates) > 1 else 1.0
            if quality > best:
                best, after = quality, self.kept()
        self.put_back(after)


class Arm(ABC):
    """A method with its settings.

    - `ratios`: its levels, parts of the weights that become zero; with `shrinks`, parts of the time that remain.
    - `draws`: a result depends on the seed, because the method looks at calibration data.
    - `timed`: its networks are timed too; one method per pattern is enough, as speed follows from the pattern.
    - `shrinks`: the network gets smaller first, and is trained for `recovery` times the steps.
    """

    name: str
    ratios: tuple[float, ...] = RATIOS
    draws: bool = False
    timed: bool = False
    shrinks: bool = False
    recovery: int = 1

    def at(self, level: float) -> str:
        """A level for people: `0.8`, or `0.6 of the time`."""
        return f"{level:g} of the time" if self.shrinks else f"{level:g}"

    @abstractmethod
    def sparsify(self, subject: Subject, ratio: float, seed: int) -> Sparse:
        """The task's dense network with this part of the weights of `subject.layers` zero."""
