"""Latency of a network as a function of its groups' widths, from times on the target backend and nothing else.

    group layer1.0.conv1, region of 5 nodes on onnxruntime     64: 1.21 ms   48: 0.97 ms   40: 0.99 ms   32: 0.66 ms
    -> 40 is not faster than 48, so widths from 40 up to 47 are not offered

For each group, its region is cut to a few widths and lowered; all of them run in interleaved rounds. Between measured
widths time is interpolated. Equal regions are timed once. Savings of groups are added up and, because layers that
lose both inputs and outputs save less than the sum, scaled by what the whole network showed when it was measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy

from graphopt.analysis.axes.groups import AxisGroup
from graphopt.backends.base import Executable, lower
from graphopt.backends.timing import Latency, interleave
from graphopt.errors import GraphoptError
from graphopt.ir.graph import Graph
from graphopt.ir.printer import show
from graphopt.passes.shrink.budgets.choices import Choice, narrowed
from graphopt.passes.shrink.budgets.goals import Goal
from graphopt.passes.shrink.budgets.regions import region_of
from graphopt.pipeline.probes import random_inputs

if TYPE_CHECKING:
    import torch

__all__ = ["Device", "LatencyGoal", "Saving", "share", "time_groups"]

_ROUNDS = (8, 40)
"""Fewest and most interleaved rounds of a measurement."""

_SECONDS = 3.0
"""Time for a measurement of the whole network, within the limits of rounds; a region gets a third of it."""

_FASTER = 0.99
"""Of the time of the next wider width that was kept: what a width has to stay below to count as faster."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where it shall be fast: a backend and the threads that it may use."""

    target: str
    threads: int

    @property
    def text(self) -> str:
        """`onnxruntime, 2 threads`."""
        return f"{self.target}, {self.threads} thread{'s' if self.threads != 1 else ''}"

    def lower(self, graph: Graph) -> Executable:
        """The graph ready to run there.

        Raises:
            BackendError: the backend can't express it.
        """
        options: dict[str, Any] = {} if self.target == "torch" else {"threads": self.threads}
        return lower(graph, self.target, **options)

    @contextlib.contextmanager
    def limited(self) -> Generator[None]:
        """Within, torch uses as many threads as the device may."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def measure(self, executables: Mapping[str, Executable], inputs: Sequence[torch.Tensor], seconds: float = _SECONDS) -> Latency:
        """Time executables of one signature in interleaved rounds, for about so many seconds."""
        functions = {name: partial(made.run, inputs) for name, made in executables.items()}
        with self.limited():
            trial = interleave(functions, rounds=3)
            fewest, most = _ROUNDS
            rounds = int(seconds / sum(timing.median for timing in trial.timings))
            return interleave(functions, rounds=min(max(rounds, fewest), most), warm_up=1)


@dataclass(frozen=True, slots=True)
class Saving:
    """Seconds that a group's region saves at the measured `widths`, from the full one down.

    A width that was not faster than a wider one saves no more than that. `reason` says why nothing is known, where
    nothing is.
    """

    widths: tuple[int, ...]
    seconds: tuple[float, ...]
    reason: str = ""

    @staticmethod
    def of(times: Mapping[int, float]) -> Saving:
        """From seconds by width, the full width among them."""
        ordered = sorted(times, reverse=True)
        best = full = times[ordered[0]]
        seconds: list[float] = []
        for width in ordered:
            best = times[width] if times[width] < best * _FASTER else best
            seconds.append(full - best)
        return Saving(tuple(ordered), tuple(seconds))

    @property
    def slower(self) -> tuple[int, ...]:
        """The measured widths that were not faster than a wider one."""
        pairs = zip(self.seconds, self.seconds[1:], self.widths[1:], strict=False)
        return tuple(width for wider, own, width in pairs if own <= wider)

    def offered(self, widths: Sequence[int]) -> tuple[int, ...]:
        """Those of some widths that are faster than every wider one that was measured."""
        return tuple(width for width in widths if self.at(width) > max(self.at(known) for known in self.widths if known > width))

    def at(self, width: int) -> float:
        """Seconds saved at a width; below the narrowest that was measured no more than there."""
        return float(numpy.interp(width, self.widths[::-1], self.seconds[::-1]))


def time_groups(
    graph: Graph,
    choices: Sequence[Choice],
    scores: Mapping[AxisGroup, Any],
    device: Device,
    dims: Mapping[str, int],
    *,
    points: int,
    tell: Callable[[float], None],
) -> list[Saving]:
    """For each choice what its widths save on the device; `points` widths of each group are timed."""
    known: dict[tuple[str, tuple[int, ...]], Saving] = {}
    found: list[Saving] = []
    for number, choice in enumerate(choices):
        tell(number / len(choices))
        group = choice.group
        region = region_of(graph, group, dims)
        if region is None:
            found.append(Saving((group.size,), (0.0,), reason="its part of the network holds control flow, so it was not timed"))
            continue
        widths = _timed_widths(choice, points)
        text = show(region.graph), widths
        if text not in known:
            try:
                known[text] = _time_region(region.graph, region.group, widths, device)
            except (GraphoptError, RuntimeError) as error:
                known[text] = Saving((group.size,), (0.0,), reason=f"its part of the network can't be timed on {device.target}: {error}")
        found.append(known[text])
    return found


def _timed_widths(choice: Choice, points: int) -> tuple[int, ...]:
    """Evenly spaced widths, the narrowest among them."""
    count = min(points, len(choice.widths))
    places = [round((index + 1) * len(choice.widths) / count) - 1 for index in range(count)]
    return tuple(dict.fromkeys(choice.widths[place] for place in places))


def _time_region(graph: Graph, group: AxisGroup, widths: Sequence[int], device: Device) -> Saving:
    graphs = {str(group.size): graph}
    for width in widths:
        gone = numpy.arange(group.size) >= width
        graphs[str(width)] = narrowed(graph, {group: gone})[0]
    executables = {name: device.lower(each) for name, each in graphs.items()}
    inputs = random_inputs(graph)
    saving = Saving((group.size,), (0.0,))
    for _ in range(2):  # a busy moment hides that narrower is faster; it does not last
        latency = device.measure(executables, inputs, _SECONDS / 3)
        full = latency.timings[0].fastest
        saving = Saving.of({int(timing.name): full * share(latency, index) for index, timing in enumerate(latency.timings)})
        if len(saving.slower) < len(widths):
            break
    return saving


def share(latency: Latency, index: int) -> float:
    """Time of a variant as a fraction of the first one's: by medians or by fastest rounds, whichever is worse.

    On a busy machine the two differ, and a width that is not surely faster is not faster.
    """
    first, other = latency.timings[0], latency.timings[index]
    return max(1 / other.speedup, other.fastest / first.fastest)


class LatencyGoal(Goal):
    """Time of one run, as a fraction of the original's `seconds`; `scale` corrects the sum of the groups' savings."""

    def __init__(self, limit: float, sizes: Sequence[int], savings: Sequence[Saving], seconds: float) -> None:
        super().__init__("latency", limit, sizes)
        self._savings = tuple(savings)
        self._seconds = seconds
        self.scale = 1.0

    def _saved(self, index: int, width: int) -> float:
        return self._savings[index].at(width) * self.scale / self._seconds

    def amount(self) -> float:
        """The amount at the present widths."""
        return 1.0 - sum(self._saved(index, width) for index, width in enumerate(self.widths))

    def amount_if(self, index: int, width: int) -> float:
        """The amount if one group had another width."""
        return self.amount() + self._saved(index, self.widths[index]) - self._saved(index, width)

    def related(self, index: int) -> Set[int]:
        """Groups whose changes bring something else after a change of this one."""
        return frozenset({index})

    def fraction(self) -> float:
        """The fraction of the original that remains."""
        return self.amount()
