"""What a search goes by, kept while the same calibration data is around.

Under a budget of quality a pass is tried again with weaker goals, on the graph as it was. Times and sensitivities do
not depend on goals, so they are measured once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy
from numpy.typing import NDArray

from graphopt.ir.data import Data
from graphopt.ir.graph import Graph
from graphopt.ir.printer import show
from graphopt.passes.shrink.budgets.latency import Saving
from graphopt.passes.shrink.budgets.search import Curve
from graphopt.pipeline.calibration import Calibration
from graphopt.pipeline.context import Context, Metric

__all__ = ["Measured", "Question", "recall", "remember"]


@dataclass(frozen=True, slots=True)
class Measured:
    """The groups to choose from, in order, by name: their widths and the scores of their units; then for each its error
    curve, and what its widths save where a latency is wanted. `skipped` are groups that can't be chosen, and why."""

    widths: Mapping[str, tuple[int, ...]]
    scores: Mapping[str, NDArray[numpy.float64]]
    curves: tuple[Curve, ...]
    savings: tuple[Saving, ...] | None
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What was measured: the graph as text, the very numbers of its states and how often each was written, and the options."""

    text: str
    numbers: tuple[Data | None, ...]
    versions: tuple[int, ...]
    options: Any
    seed: int
    metric: Metric | None

    @staticmethod
    def about(graph: Graph, options: object, context: Context) -> Question:
        """The question of a pass; `options` are what it goes by besides, compared by value."""
        numbers = tuple(state.data for state in graph.states.values())
        return Question(show(graph), numbers, tuple(map(_version, numbers)), options, context.seed, context.metric)

    def same(self, other: Question) -> bool:
        """True where the answer is the same: numbers of states are compared by identity."""
        return (
            self.text == other.text
            and all(one is another for one, another in zip(self.numbers, other.numbers, strict=True))
            and (self.versions, self.options, self.seed) == (other.versions, other.options, other.seed)
            and self.metric is other.metric
        )


_KNOWN: WeakKeyDictionary[Calibration, tuple[Question, Measured]] = WeakKeyDictionary()


def recall(calibration: Calibration, question: Question) -> Measured | None:
    """What was measured last on this data, if the question was the same."""
    known = _KNOWN.get(calibration)
    return known[1] if known is not None and known[0].same(question) else None


def remember(calibration: Calibration, question: Question, measured: Measured) -> None:
    """Keep what was measured until the data goes, or something else is measured on it."""
    _KNOWN[calibration] = question, measured


def _version(data: Data | None) -> int:
    """How often a tensor was written in place, as autograd counts it; tensors without such a count are never written."""
    tensor = None if data is None else data.tensor()
    return -1 if tensor is None or tensor.is_inference() else tensor._version  # pyright: ignore[reportPrivateUsage]
