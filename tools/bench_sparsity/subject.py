"""What all methods work on: one task's network as a graph, the layers that become sparse, the lessons for training."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

import graphopt
from graphopt.ir.graph import Graph
from tools.bench_quality.finetuning import Lesson, lessons
from tools.bench_quality.tasks.base import Task

__all__ = ["Subject", "zeros_of"]


class Subject:
    """A task, and what is made from it once for all methods."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._lessons: tuple[tuple[int, int], list[Lesson]] | None = None

    @cached_property
    def graph(self) -> Graph:
        """The dense network, captured with a symbolic batch."""
        example = self.task.example(2)
        return graphopt.capture(self.task.dense(), example, dynamic=tuple({0: "batch"} for _ in example))

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the modules whose weights become sparse: what our passes take by default, for every method the same."""
        found = graphopt.optimize(self.graph, ["sparsify-magnitude{ratio=0.5}"], check="off", strict=True).graph
        return tuple(name.removesuffix(".weight") for name, state in found.states.items() if state.type.sparsity is not None)

    def calibration(self, seed: int) -> list[Any]:
        """Calibration batches for our passes, with labels where there are some."""
        return [item.inputs if item.target is None else (*item.inputs, item.target) for item in self.task.calibration(seed)]

    def lessons(self, seed: int, times: int = 1) -> list[Lesson]:
        """The training batches of `times` the task's schedule, with the dense network's outputs; those of the last call are kept."""
        if self._lessons is None or self._lessons[0] != (seed, times):
            self._lessons = (seed, times), list(lessons(self.task, seed, times))
        return self._lessons[1]


def zeros_of(module: torch.nn.Module, layers: tuple[str, ...]) -> float:
    """The part of the weights of some layers that are zero."""
    weights = [module.get_parameter(f"{name}.weight") for name in layers]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
