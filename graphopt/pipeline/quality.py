"""Guards the quality of a model while lossy passes change it: the user's metric, measured against a budget.

    original   metric 0.950
    shrink-channels{ratio=0.5}     metric 0.930   drop 0.020 > 0.01   not kept
    shrink-channels{ratio=0.25}    metric 0.948   drop 0.002          holds
    shrink-channels{ratio=0.375}   metric 0.943   drop 0.007          kept

A pass whose drop is over the budget is tried with less strength (`Pass.weaker`: most have an option `ratio`), by
bisection; one that can't be weaker is rolled back. Drops are counted from the model as it was given, so passes share one budget.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from graphopt.errors import GraphoptError, UsageError
from graphopt.ir.graph import Graph
from graphopt.pipeline.budget import Budget
from graphopt.pipeline.context import Context, Metric
from graphopt.pipeline.passes import Pass

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Bisection", "Quality", "QualityGuard", "Trial", "check_context", "drop_text"]

_SLACK = 1e-9
"""Of the metric: 0.95 - 0.94 is 0.010000000000000009, which a budget of 0.01 allows."""

_NARROWEST = 1 / 256
"""Strengths that lie closer together than this make no difference worth a measurement."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement: the pass as text, the metric and its drop from the original (None where it has no value).

    `holds` says whether that is within the budget, `kept` whether the graph went on from there; `reason` is why not.
    """

    spec: str
    metric: float | None
    drop: float | None
    holds: bool
    kept: bool = False
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`; numbers that JSON does not have, such as NaN, as text."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(item) if isinstance(item, float) and not math.isfinite(item) else item for name, item in found.items()}

    def __str__(self) -> str:
        verdict = "kept" if self.kept else "holds" if self.holds else "not kept"
        figures = f"metric {self.metric:.6g}, {drop_text(self.drop)}: " if self.metric is not None and self.drop is not None else ""
        return f"{self.spec}: {figures}{verdict}{f', {self.reason}' if self.reason else ''}"


@dataclass(slots=True)
class Quality:
    """The metric of the original and of the result, in its own unit, and the budget if there was one."""

    before: float
    after: float
    budget: Budget | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return {
            "metric": {"before": self.before, "after": self.after},
            "drop": self.before - self.after,
            "allowed_drop": self.budget.metric_drop if self.budget is not None else None,
        }

    def __str__(self) -> str:
        allowed = f", {self.budget.metric_drop:g} allowed" if self.budget is not None else ""
        return f"metric: {self.before:.6g} -> {self.after:.6g}, {drop_text(self.before - self.after)}{allowed}"


def drop_text(drop: float) -> str:
    """`drop 0.02`, or `rise 0.01` for a metric that became better."""
    return f"rise {-drop:.3g}" if drop < 0 else f"drop {drop:.3g}"


def check_context(context: Context) -> None:
    """Refuse a context that can't work, before anything runs.

    Raises:
        UsageError: a budget without a metric, or a metric or budget of the wrong kind.
    """
    metric: object = context.metric
    if metric is not None and not callable(metric):
        raise UsageError(
            f"metric is a {type(metric).__name__}, needs a function of a module that returns a number",
            fix="pass metric=accuracy with def accuracy(module): ...",
        )
    budget = context.budget
    if budget is not None and not isinstance(budget, Budget):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise UsageError(f"budget is {budget!r}, needs a Budget", fix="pass budget=graphopt.Budget(metric_drop=0.01)")
    if budget is not None and metric is None:
        raise UsageError(
            f"{budget!r} was given without a metric, so there is nothing to hold it against",
            fix="pass metric=, a function of a module that returns a number, higher is better",
        )


class QualityGuard:
    """Measures graphs with the user's metric. The original is measured when the guard is made.

    Raises:
        UsageError: the metric raises on the original model, or returns no finite number for it, or changes it.
    """

    def __init__(self, original: Graph, metric: Metric, budget: Budget | None) -> None:
        self._metric = metric
        self.budget = budget
        try:
            self.baseline = self._evaluate(original)
        except _NoNumberError as error:
            raise UsageError(
                f"the metric {error.what} on the original model", fix="call metric(model.eval()) by itself to see why"
            ) from error.__cause__
        if not math.isfinite(self.baseline):
            raise UsageError(
                f"the metric is {self.baseline} on the original model, so no drop can be measured", fix="return a finite number"
            )
        self.start()

    def start(self) -> None:
        """Begin at the original, as before any pass."""
        self.quality = Quality(self.baseline, self.baseline, self.budget)

    def keep(self, trial: Trial) -> None:
        """The graph goes on as it was measured in this trial."""
        if trial.metric is not None:
            self.quality.after = trial.metric

    def measure(self, graph: Graph, spec: str) -> Trial:
        """Evaluate the metric on a graph that a lossy pass, `spec`, has changed.

        Raises:
            UsageError: the metric changes the module's tensors.
        """
        try:
            value = self._evaluate(graph)
        except _NoNumberError as error:
            return Trial(spec, None, None, False, reason=f"the metric {error.what}")
        drop = self.baseline - value
        if not math.isfinite(value):
            return Trial(spec, value, drop, False, reason="the metric is no finite number")
        if self.budget is None or drop <= self.budget.metric_drop + _SLACK * max(1.0, abs(self.baseline)):
            return Trial(spec, value, drop, True)
        return Trial(spec, value, drop, False, reason=f"{self.budget.metric_drop:g} allowed")

    def _evaluate(self, graph: Graph) -> float:
        try:
            module = graph.to_module()
        except GraphoptError as error:
            raise _NoNumberError(f"has no module to look at ({error.what})") from error
        before = _versions(module)
        try:
            found: object = self._metric(module)
        except Exception as error:
            raise _NoNumberError(f"raised {type(error).__name__}: {error}") from error
        after = _versions(module)
        changed = next((name for name, version in before.items() if after.get(name) != version), None)
        if changed is not None:
            raise UsageError(
                f"the metric changed %{changed} of the module that it was given, which is the model's own tensor",
                fix="work on a copy in the metric: module = copy.deepcopy(module)",
            )
        try:
            return float(found)  # pyright: ignore[reportArgumentType]  # whatever is no number raises
        except (TypeError, ValueError, RuntimeError) as error:
            raise _NoNumberError(f"returned a {type(found).__name__}, needs one number") from error


class _NoNumberError(GraphoptError):
    """The metric gave no number; `what` says how."""


def _versions(module: nn.Module) -> dict[str, int]:
    """How often each tensor was written in place, as autograd counts it."""
    tensors = itertools.chain(module.named_parameters(), module.named_buffers())
    return {name: tensor._version for name, tensor in tensors if not tensor.is_inference()}  # pyright: ignore[reportPrivateUsage]


class Bisection:
    """Weaker versions of a pass, one after the other: strengths between the largest that held and the smallest that did not.

    Iterate, and tell `result(holds)` after each. Versions that were handed out before, as where an option is an
    integer, are passed over. None for a pass that has no weaker versions.
    """

    def __init__(self, pass_: Pass, tries: int) -> None:
        self._pass = pass_
        self._tries = tries
        self._low, self._high = 0.0, 1.0
        self._middle = 1.0
        self._handed_out = repr(pass_)
        self._known = {repr(pass_): False}

    def __iter__(self) -> Iterator[Pass]:
        while self._tries > 0 and self._high - self._low > _NARROWEST:
            self._middle = (self._low + self._high) / 2
            weaker = self._pass.weaker(self._middle)
            if weaker is None:
                return
            self._handed_out = repr(weaker)
            if self._handed_out in self._known:
                self._move(self._known[self._handed_out])
            else:
                self._tries -= 1
                yield weaker

    def result(self, holds: bool) -> None:
        """How the pass that was handed out last did."""
        self._known[self._handed_out] = holds
        self._move(holds)

    def _move(self, holds: bool) -> None:
        if holds:
            self._low = self._middle
        else:
            self._high = self._middle
