"""Which widths reach all goals at the least error: greedy by error per saving, and then back where there is room.

    while a goal is not met      of all narrower widths of all groups, take the one with the least error per saving
    while something fits back    of all wider widths that keep the goals met, take the one that saves most error

Looking at every narrower width, and not just the next, jumps over widths that save nothing, such as those that do
not fill a vector register. The sum of the groups' errors stands for the error of all cuts together.

The problem is a knapsack whose savings depend on one another; greedy by ratio is within one item of the best for the
plain knapsack (Dantzig, Discrete-Variable Extremum Problems, 1957). Equal ratios are decided by the order of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from graphopt.passes.shrink.budgets.goals import Goal

__all__ = ["Curve", "UnreachableError", "search"]

_NO_ERROR = 1e-12
"""Errors below this count as it, so that units that do nothing go first, those that save most before others."""


class UnreachableError(Exception):
    """No widths reach all goals; `widths` are the narrowest."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__("no widths reach all goals")
        self.widths = widths


@dataclass(frozen=True, slots=True)
class Curve:
    """Error of the output as a function of a group's width, between measured points; it never falls as the width does."""

    widths: tuple[int, ...]
    errors: tuple[float, ...]

    @staticmethod
    def through(points: Sequence[tuple[int, float]], full: int) -> Curve:
        """A curve through (width, error) points and no error at the full width."""
        ordered = sorted({**dict(points), full: 0.0}.items())
        errors = numpy.maximum.accumulate([error for _, error in reversed(ordered)])[::-1]
        return Curve(tuple(width for width, _ in ordered), tuple(float(error) for error in errors))

    def at(self, width: int) -> float:
        """The error at a width; beyond the narrowest point it goes on in proportion to what is removed."""
        if width < self.widths[0] and len(self.widths) > 1:
            return self.errors[0] * (self.widths[-1] - width) / (self.widths[-1] - self.widths[0])
        return float(numpy.interp(width, self.widths, self.errors))


def search(goals: Sequence[Goal], widths: Sequence[Sequence[int]], curves: Sequence[Curve]) -> tuple[int, ...]:
    """A width for each group, the full one or one of its `widths`, so that all goals are met.

    Raises:
        UnreachableError: the narrowest widths do not meet them.
    """
    return _Search(goals, widths, curves).run()


class _Search:
    def __init__(self, goals: Sequence[Goal], widths: Sequence[Sequence[int]], curves: Sequence[Curve]) -> None:
        self.goals = tuple(goals)
        self.widths = [tuple(sorted(own, reverse=True)) for own in widths]
        self.sizes = self.goals[0].sizes
        self.errors = [
            {width: curve.at(width) for width in (*own, size)} for own, curve, size in zip(self.widths, curves, self.sizes, strict=True)
        ]
        self.now = list(self.sizes)
        self.table: list[NDArray[numpy.float64]] = []

    def run(self) -> tuple[int, ...]:
        for goal in self.goals:
            goal.start()
        self.scales = [max(goal.amount() - goal.limit, 1e-12) for goal in self.goals]
        self.table = [self._savings(index) for index in range(len(self.sizes))]
        while not all(goal.met for goal in self.goals):
            step = self._best_cut()
            if step is None:
                raise UnreachableError(tuple(self.now))
            self._move(*step)
        while (step := self._best_return()) is not None:
            self._move(*step)
        return tuple(self.now)

    def _move(self, index: int, width: int) -> None:
        self.now[index] = width
        related = {index}
        for goal in self.goals:
            goal.move(index, width)
            related |= goal.related(index)
        for number in related:
            self.table[number] = self._savings(number)

    def _savings(self, index: int) -> NDArray[numpy.float64]:
        """What each narrower width of a group takes off each goal's amount: [width, goal]."""
        narrower = [width for width in self.widths[index] if width < self.now[index]]
        found = [[goal.amount() - goal.amount_if(index, width) for goal in self.goals] for width in narrower]
        return numpy.array(found, dtype=numpy.float64).reshape(len(narrower), len(self.goals))

    def _best_cut(self) -> tuple[int, int] | None:
        missing = numpy.array([max(goal.amount() - goal.limit, 0.0) for goal in self.goals])
        best: tuple[float, float, int, int] | None = None
        for index, savings in enumerate(self.table):
            if not len(savings):
                continue
            useful = (numpy.clip(savings, 0.0, missing) / self.scales).sum(axis=1)
            narrower = [width for width in self.widths[index] if width < self.now[index]]
            added = numpy.array([max(self.errors[index][width] - self.errors[index][self.now[index]], _NO_ERROR) for width in narrower])
            ratio = numpy.where(useful > 1e-15, useful / added, 0.0)
            place = int(numpy.argmax(ratio))
            key = (float(ratio[place]), float(useful[place]))
            if key[0] > 0 and numpy.isfinite(added[place]) and (best is None or key > best[:2]):
                best = (*key, index, narrower[place])
        return None if best is None else (best[2], best[3])

    def _best_return(self) -> tuple[int, int] | None:
        best: tuple[float, int, int] | None = None
        for index, now in enumerate(self.now):
            for width in (self.sizes[index], *self.widths[index]):
                relief = self.errors[index][now] - self.errors[index][width]
                if width <= now or relief <= 0 or (best is not None and relief <= best[0]):
                    continue
                if all(goal.amount_if(index, width) <= goal.limit + 1e-12 for goal in self.goals):
                    best = relief, index, width
        return None if best is None else best[1:]
