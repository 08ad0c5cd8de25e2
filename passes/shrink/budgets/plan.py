"""From goals to the units that go: measure, search, look at the network that was cut, search again where it misses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy
from numpy.typing import NDArray

from graphopt.analysis.axes.groups import AxisGroup, AxisGroups, Removal
from graphopt.analysis.cost import cost
from graphopt.analysis.memory import peak_memory
from graphopt.analysis.table import counted
from graphopt.backends.base import Executable
from graphopt.backends.reference.binding import bind_dims
from graphopt.errors import PassError, PassOptionError
from graphopt.ir.graph import Graph
from graphopt.passes.finished import Finished
from graphopt.passes.shrink.budgets.choices import Choice, least_important, narrowed, widths_of
from graphopt.passes.shrink.budgets.costs import FlopsGoal, MemoryGoal, ParametersGoal, Shapes
from graphopt.passes.shrink.budgets.decisions import decisions, goal_note
from graphopt.passes.shrink.budgets.device import Device, share
from graphopt.passes.shrink.budgets.goals import Goal
from graphopt.passes.shrink.budgets.latency import LatencyGoal, Saving, time_groups
from graphopt.passes.shrink.budgets.measured import Measured, Question, recall, remember
from graphopt.passes.shrink.budgets.search import Curve, UnreachableError, search
from graphopt.passes.shrink.budgets.sensitivity import first_batches, mending, metric_falls, output_errors, sensitivities
from graphopt.passes.shrink.importance import score
from graphopt.passes.shrink.names import GroupNames
from graphopt.passes.shrink.selection import nothing_to_cut
from graphopt.pipeline.calibration import Calibration
from graphopt.pipeline.context import Context

__all__ = ["Plan", "Planner", "Settings"]

_SEARCHES = 5
"""Most networks that are cut and looked at."""

_NOT_FASTER = 0.995
"""Of the original's time: what a network has to be below to count as faster at all."""

_CLOSE = 0.03
"""Of the original's time: a network that is faster than the goal by less than this is not searched again."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the planner goes by: goals as fractions that remain, and the options of `ShrinkToBudget`, told there."""

    goals: Mapping[str, float]
    target: str
    threads: int
    importance: str
    sensitivity: str
    samples: int
    points: int
    multiple_of: int
    least: float
    only: tuple[str, ...]
    exclude: tuple[str, ...]
    compensation: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The units that go, and what there is to say about it: every decision, and groups that were left alone."""

    removal: Removal
    notes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A network that was cut: widths, what remains by goal, its error, and the milliseconds before and after."""

    widths: tuple[int, ...]
    fractions: Mapping[str, float]
    error: float
    milliseconds: tuple[float, float] | None


class Planner:
    """Makes the plan for one graph; latency is measured on `device`, that of the options where none is given."""

    def __init__(
        self,
        options: Settings,
        graph: Graph,
        groups: AxisGroups,
        context: Context,
        calibration: Calibration,
        device: Device | None = None,
    ) -> None:
        self.options = options
        self.graph = graph
        self.groups = groups
        self.context = context
        self.calibration = calibration
        self.inputs = next(iter(calibration)).inputs
        self.dims = bind_dims(graph, self.inputs)
        self.device = device or Device(options.target, options.threads)
        self.skipped: list[tuple[str, str]] = []
        self.limits = dict(options.goals)
        self.read: list[str] = []
        """Notes on what was read from the checkpoint."""

    def run(self) -> Plan:
        """Measure and search.

        Raises:
            PassError: no widths reach the goals.
            PassOptionError: a name pattern means nothing, or there is nothing to cut.
        """
        if all(limit >= 1.0 for limit in self.limits.values()):
            return Plan({}, ("every goal is 1: nothing has to go",), ())
        measured = self._measure()
        choices = [Choice(self.groups[name], widths) for name, widths in measured.widths.items()]
        self._tell("searching", 0.9)
        found = self._search(choices, measured)
        removal = self._removal(choices, measured, found.widths)
        unasked = [(c.group.name, "no goal asks for it") for c, width in zip(choices, found.widths, strict=True) if width == c.group.size]
        return Plan(removal, self._notes(choices, measured, found), (*measured.skipped, *unasked))

    def _measure(self) -> Measured:
        """What the search goes by; as it was measured before, where the same was asked: by a pass with other goals."""
        options = replace(self.options, goals=dict.fromkeys(self.options.goals, 1.0))
        groups = tuple((group.name, group.size) for group in self.groups)
        question = Question.about(self.graph, (options, groups, self.device), self.context)
        known = recall(self.calibration, question)
        if known is not None:
            return known
        choices = self._choices()
        scores = score(self.graph, self.groups, self.options.importance, self.context, self.read)
        savings = self._savings(choices)
        if savings is not None:
            choices, savings = self._faster(choices, savings)
        curves = self._curves(choices, scores)
        measured = Measured(
            {choice.group.name: choice.widths for choice in choices},
            {choice.group.name: scores[choice.group] for choice in choices},
            tuple(curves),
            None if savings is None else tuple(savings),
            tuple(self.skipped),
        )
        remember(self.calibration, question, measured)
        return measured

    @cached_property
    def _lowered(self) -> Executable:
        """The original on the device."""
        return self.device.lower(self.graph)

    def _tell(self, what: str, fraction: float) -> None:
        if self.context.progress is not None:
            self.context.progress(f"shrink-to-budget: {what}", fraction)

    # What there is to choose from, and what it costs

    def _choices(self) -> list[Choice]:
        options = self.options
        names = GroupNames(self.groups)
        names.check("only", options.only)
        names.check("exclude", options.exclude, fixed_too=True)
        choices: list[Choice] = []
        for group in self.groups:
            widths = widths_of(group, options.multiple_of, options.least)
            excluded = names.first_match(group, options.exclude)
            if options.only and names.first_match(group, options.only) is None:
                self.skipped.append((group.name, f"it is not among only={options.only}"))
            elif excluded is not None:
                self.skipped.append((group.name, f"excluded by '{excluded}'"))
            elif not widths:
                limits = f"multiple_of={options.multiple_of} and least={options.least:g}"
                self.skipped.append((group.name, f"{limits} leave its {group.size} units as they are"))
            else:
                choices.append(Choice(group, widths))
        if not len(self.groups):
            raise nothing_to_cut(self.groups)
        if not choices:
            reason = f", for example {self.skipped[-1][0]}: {self.skipped[-1][1]}" if self.skipped else ""
            raise PassOptionError(
                f"nothing is left to cut of {counted(len(self.groups), 'group')}{reason}", fix="exclude less, or lower multiple_of or least"
            )
        return choices

    def _savings(self, choices: Sequence[Choice]) -> list[Saving] | None:
        if "latency" not in self.limits:
            return None
        tell = self._part("timing widths", 0.0, 0.45)
        return time_groups(self.graph, choices, self.device, self.dims, points=self.options.points + 1, tell=tell)

    def _faster(self, choices: Sequence[Choice], savings: Sequence[Saving]) -> tuple[list[Choice], list[Saving]]:
        """Without widths that are not faster."""
        kept: list[tuple[Choice, Saving]] = []
        for choice, saving in zip(choices, savings, strict=True):
            widths = saving.offered(choice.widths)
            if widths:
                kept.append((Choice(choice.group, widths), saving))
            else:
                measured = ", ".join(map(str, saving.widths[1:]))
                reason = saving.reason or f"none of the widths {measured} is faster than {choice.group.size} on {self.device.text}"
                self.skipped.append((choice.group.name, reason))
        if not kept:
            name, reason = self.skipped[-1]
            raise PassError(
                f"latency={self.limits['latency']:g} can't be reached: narrower groups are not faster on {self.device.text}, for example "
                f"{name}: {reason}",
                fix="1.0 of the original's time is what is reachable; try another target, or lower multiple_of",
            )
        return [choice for choice, _ in kept], [saving for _, saving in kept]

    def _curves(self, choices: Sequence[Choice], scores: Mapping[AxisGroup, NDArray[numpy.float64]]) -> list[Curve]:
        options, metric = self.options, self.context.metric
        few = first_batches(self.calibration, options.samples)
        finished = None
        if options.sensitivity == "metric" and metric is not None:
            measure = metric_falls(self.graph, metric)  # not kept for another run: nothing tells one metric from another
        else:
            measure = output_errors(self.graph, few)
            finished = self._finished()
        start = 0.45 if "latency" in self.limits else 0.0
        tell = self._part("measuring sensitivity", start, 0.9)
        mend = mending(self.graph, few, options.compensation, self.context.seed)
        curves = sensitivities(self.graph, choices, scores, measure, points=options.points, tell=tell, mend=mend, finished=finished)
        self.read += () if finished is None else finished.notes
        return curves

    def _finished(self) -> Finished:
        """Sensitivities that an earlier run has measured; goals and times have no part in them."""
        options: dict[str, object] = {name: getattr(self.options, name) for name in ("importance", "samples", "points", "compensation")}
        options["groups"] = tuple((group.name, group.kind, group.size) for group in self.groups)
        return Finished(self.context, "shrink-to-budget", options, self.graph, self.calibration)

    def _part(self, what: str, start: float, stop: float) -> Callable[[float], None]:
        return lambda fraction: self._tell(what, start + (stop - start) * fraction)

    # The search

    def _search(self, choices: Sequence[Choice], measured: Measured) -> _Candidate:
        """Search until the network that is really cut meets the goals; of several with a goal of latency, the one of least error."""
        limits = {name: min(limit, _NOT_FASTER) if name == "latency" else limit for name, limit in self.limits.items()}
        scale, seconds = 1.0, 1.0
        savings = measured.savings
        if savings is not None:
            seconds = self.device.measure({"before": self._lowered}, self.inputs).timings[0].fastest
        candidates: dict[tuple[int, ...], _Candidate] = {}
        for _ in range(_SEARCHES):
            goals = self._goals(choices, limits, savings, seconds, scale)
            try:
                widths = search(goals, [choice.widths for choice in choices], measured.curves)
            except UnreachableError as error:  # the numbers of the search may be too low; the network itself has the last word
                widths = error.widths
            if widths in candidates:
                break
            found = candidates[widths] = self._look_at(choices, measured, widths)
            misses = self._misses(found)
            room = self.limits["latency"] - found.fractions["latency"] if savings is not None else 0.0
            if not misses and room <= _CLOSE:
                break
            for goal in goals:
                if isinstance(goal, LatencyGoal):
                    scale *= min(max((1.0 - found.fractions["latency"]) / max(1.0 - goal.fraction(), 1e-6), 0.25), 2.0)
                elif goal.name in misses:
                    limits[goal.name] -= misses[goal.name]
        good = [candidate for candidate in candidates.values() if not self._misses(candidate)]
        if not good:
            raise self._unreachable(min(candidates.values(), key=lambda candidate: sum(self._misses(candidate).values())))
        return min(good, key=lambda candidate: candidate.error)

    def _misses(self, candidate: _Candidate) -> dict[str, float]:
        """By how much goals are missed; a network that is not faster misses any goal of latency."""
        limits = {name: min(limit, _NOT_FASTER) if name == "latency" else limit for name, limit in self.limits.items()}
        return {name: candidate.fractions[name] - limit for name, limit in limits.items() if candidate.fractions[name] > limit + 1e-9}

    def _goals(
        self, choices: Sequence[Choice], limits: Mapping[str, float], savings: Sequence[Saving] | None, seconds: float, scale: float
    ) -> list[Goal]:
        shapes = Shapes(self.graph, [choice.group for choice in choices], self.dims)
        made: list[Goal] = []
        if "flops" in limits:
            made.append(FlopsGoal(limits["flops"], shapes))
        if "parameters" in limits:
            made.append(ParametersGoal(limits["parameters"], shapes))
        if "memory" in limits:
            made.append(MemoryGoal(limits["memory"], shapes))
        if savings is not None:
            goal = LatencyGoal(limits["latency"], shapes.sizes, savings, seconds)
            goal.scale = scale
            made.append(goal)
        return made

    def _removal(self, choices: Sequence[Choice], measured: Measured, widths: Sequence[int]) -> dict[AxisGroup, NDArray[numpy.bool_]]:
        pairs = zip(choices, widths, strict=True)
        return {c.group: least_important(measured.scores[c.group.name], width) for c, width in pairs if width < c.group.size}

    def _look_at(self, choices: Sequence[Choice], measured: Measured, widths: tuple[int, ...]) -> _Candidate:
        """Cut a copy and measure what the user asked about."""
        copy = narrowed(self.graph, self._removal(choices, measured, widths))[0]
        fractions: dict[str, float] = {}
        before, after = cost(self.graph, self.dims), cost(copy, self.dims)
        if "flops" in self.limits:
            fractions["flops"] = _ratio(after.flops, before.flops)
        if "parameters" in self.limits:
            fractions["parameters"] = _ratio(after.parameters, before.parameters)
        if "memory" in self.limits:
            fractions["memory"] = _ratio(peak_memory(copy, self.dims).known, peak_memory(self.graph, self.dims).known)
        milliseconds = None
        if "latency" in self.limits:
            self._tell("measuring the whole network", 0.95)
            latency = self.device.measure({"before": self._lowered, "after": self.device.lower(copy)}, self.inputs)
            fractions["latency"] = share(latency, 1)
            milliseconds = latency.timings[0].fastest * 1e3, latency.timings[1].fastest * 1e3
        error = sum(curve.at(width) for curve, width in zip(measured.curves, widths, strict=True))
        return _Candidate(widths, fractions, error, milliseconds)

    def _unreachable(self, closest: _Candidate) -> PassError:
        asked = ", ".join(f"{name}={limit:g}" for name, limit in self.limits.items())
        found = ", ".join(f"{name}={fraction:.3g}" for name, fraction in closest.fractions.items())
        where = f" (latency measured on {self.device.text})" if "latency" in self.limits else ""
        if closest.fractions.get("latency", 0.0) > _NOT_FASTER:
            found += ", which is not faster than the original"
        return PassError(
            f"{asked} can't be reached: the closest that was found is {found}{where}; everything is undone",
            fix="ask for no less than that, exclude less, or lower multiple_of or least",
        )

    def _notes(self, choices: Sequence[Choice], measured: Measured, found: _Candidate) -> tuple[str, ...]:
        """What the report says."""
        seconds = 1.0 if found.milliseconds is None else found.milliseconds[0] * 1e-3
        goals = self._goals(choices, self.limits, measured.savings, seconds, 1.0)
        for goal in goals:
            for index, width in enumerate(found.widths):
                goal.move(index, width)
            if isinstance(goal, LatencyGoal):  # so that the groups' parts add up to what the whole network showed
                goal.scale *= (1.0 - found.fractions["latency"]) / max(1.0 - goal.fraction(), 1e-6)
        what = "fall of the metric" if self.options.sensitivity == "metric" else "output error"
        reached = (
            goal_note(name, fraction, self.limits[name], found.milliseconds if name == "latency" else None, self.device.text)
            for name, fraction in found.fractions.items()
        )
        return (*reached, *decisions(choices, measured.curves, found.widths, goals, what), *self.read)


def _ratio(after: object, before: object) -> float:
    return float(after) / float(before) if isinstance(after, int) and isinstance(before, int) and before else 1.0
