"""A task: a trained network, the data that goes with it, and how good a changed network is, item by item."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeAlias

import numpy
import torch
from numpy.typing import NDArray

from tools.bench_quality.layout import fast_layout

__all__ = ["Hits", "Item", "Schedule", "Task"]

Hits: TypeAlias = NDArray[numpy.bool_]
"""For each item of a test set whether the network is right."""


@dataclass(frozen=True, slots=True)
class Item:
    """A batch: the network's inputs, and the labels where the data has them."""

    inputs: tuple[torch.Tensor, ...]
    target: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """The short fine-tuning: steps of AdamW with a cosine of the rate; `trains_norms` updates batch norms' statistics.

    What lost a lot needs a high rate, which takes away from what lost little: where a task has a `gentle_rate` too, every network is
    trained with both and the one that is better on validation data counts.
    """

    steps: int
    rate: float
    trains_norms: bool = True
    gentle_rate: float | None = None

    @property
    def rates(self) -> tuple[float, ...]:
        """The rates to try."""
        return (self.rate,) if self.gentle_rate is None else (self.rate, self.gentle_rate)


class Task(ABC):
    """One network on its data. Everything random comes from a seed, and nothing is kept but the data.

    - `root`: a folder with `checkpoints`, `probes` and `data`.
    - `scores`: the names of what `evaluate` gives, the one that counts first.
    - `batch`: the batch size of the latency; `width`: the multiple that widths are kept at.
    - `levels`: the parts of the units that are removed; `budgets`: the parts of the latency to get down to.
    - `schedule`: the short fine-tuning.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    scores: ClassVar[tuple[str, ...]]
    batch: ClassVar[int]
    width: ClassVar[int]
    levels: ClassVar[tuple[float, ...]]
    budgets: ClassVar[tuple[float, ...]]
    schedule: ClassVar[Schedule]

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def dense(self) -> torch.nn.Module:
        """The trained network in eval mode, a new object each time.

        Raises:
            MissingDataError: weights or data are not installed.
        """

    @abstractmethod
    def example(self, batch: int) -> tuple[torch.Tensor, ...]:
        """Inputs of a batch, always the same."""

    @abstractmethod
    def calibration(self, seed: int) -> list[Item]:
        """A few batches of training data with labels, for importance and compensation."""

    @abstractmethod
    def stream(self, seed: int) -> Iterator[Item]:
        """Batches to fine-tune on, without end."""

    @abstractmethod
    def loss(self, output: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """What fine-tuning brings down; `teacher` is the output of the dense network."""

    @abstractmethod
    def evaluate(self, module: torch.nn.Module, split: str) -> dict[str, Hits]:
        """Hits by score, on the split `validation` or `test`."""

    def protected(self, module: torch.nn.Module) -> list[torch.nn.Module]:
        """Layers of the dense network whose outputs are its own: tools that don't see that by themselves are told."""
        layers: list[torch.nn.Module] = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
        return layers[-1:]

    def heads(self, module: torch.nn.Module) -> dict[torch.nn.Module, int]:
        """Projections that are made of attention heads, and of how many."""
        del module
        return {}

    def repair(self, module: torch.nn.Module) -> None:
        """Set attributes that the Python code of the network keeps sizes in, after its layers were cut in place."""
        del module

    def quality(self, module: torch.nn.Module, split: str) -> float:
        """Share of hits by the score that counts."""
        return float(self.evaluate(module, split)[self.scores[0]].mean())


def in_batches(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], size: int) -> torch.Tensor:
    """The network's outputs for many items, `size` at a time."""
    found: list[torch.Tensor] = []
    with fast_layout(module), torch.inference_mode():  # the layout first: what inference mode makes can't be trained
        for start in range(0, len(inputs[0]), size):
            found.append(module(*(tensor[start : start + size] for tensor in inputs)))
    return torch.cat(found)
