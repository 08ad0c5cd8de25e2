"""Latency of a network as a function of its groups' widths, from times on the target backend and nothing else.

    group layer1.0.conv1, region of 5 nodes on onnxruntime     64: 1.21 ms   48: 0.97 ms   40: 0.99 ms   32: 0.66 ms
    -> 40 is not faster than 48, so widths from 40 up to 47 are not offered

For each group, its region is cut to a few widths, and all of them are timed (see `graphopt.passes.shrink.budgets.parts`).
Between measured widths time is interpolated. Equal regions are timed once. Savings of groups are added up and, because
layers that lose both inputs and outputs save less than the sum, scaled by what the whole network showed when it was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

import numpy

from graphopt.errors import GraphoptError
from graphopt.ir.graph import Graph
from graphopt.ir.printer import show
from graphopt.passes.shrink.budgets.choices import Choice
from graphopt.passes.shrink.budgets.device import Device
from graphopt.passes.shrink.budgets.goals import Goal
from graphopt.passes.shrink.budgets.parts import MOST_TOGETHER, Part, compiles_as_one, seconds_alone, seconds_together
from graphopt.passes.shrink.budgets.regions import region_of

__all__ = ["LatencyGoal", "Saving", "time_groups"]

_FASTER = 0.99
"""Of the time of the next wider width that was kept: what a width has to stay below to count as faster."""

_Key: TypeAlias = "tuple[str, tuple[int, ...], tuple[tuple[str, int], ...]]"
"""What decides the times of a part: its region as text, its widths, and where its group is."""


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
    graph: Graph, choices: Sequence[Choice], device: Device, dims: Mapping[str, int], *, points: int, tell: Callable[[float], None]
) -> list[Saving]:
    """For each choice what its widths save on the device; `points` widths of each group are timed."""
    parts: dict[_Key, Part] = {}
    keys: list[_Key | None] = []
    for choice in choices:
        region = region_of(graph, choice.group, dims)
        if region is None:
            keys.append(None)
            continue
        part = Part(region.graph, region.group, _timed_widths(choice, points))
        key = show(part.region), part.widths, tuple((member.value.name, member.axis) for member in part.group.members)
        parts.setdefault(key, part)
        keys.append(key)
    savings = _Timer(device, tell).savings(parts)
    whole = "its part of the network holds control flow, so it was not timed"
    return [
        savings[key] if key is not None else Saving((choice.group.size,), (0.0,), reason=whole)
        for key, choice in zip(keys, choices, strict=True)
    ]


class _Timer:
    """Times parts on a device."""

    def __init__(self, device: Device, tell: Callable[[float], None]) -> None:
        self._device = device
        self._tell = tell

    def savings(self, parts: Mapping[_Key, Part]) -> dict[_Key, Saving]:
        """What each part saves."""
        found: dict[_Key, Saving] = {}
        together: list[_Key] = []
        for key, part in parts.items():
            self._tell((len(found) + len(together)) / len(parts))
            try:
                if self._device.target == "cpu" and compiles_as_one(part):
                    together.append(key)
                else:
                    found[key] = self._alone(part)
            except (GraphoptError, RuntimeError) as error:
                found[key] = self._untimed(part, error)
            variants = sum(len(parts[waiting].widths) + 1 for waiting in together)
            if together and (variants >= MOST_TOGETHER or len(found) + len(together) == len(parts)):
                found.update(self._together({waiting: parts[waiting] for waiting in together}))
                together = []
        return found

    def _alone(self, part: Part) -> Saving:
        saving = Saving.of(seconds_alone(part, self._device))
        if len(saving.slower) < len(part.widths):
            return saving
        return Saving.of(seconds_alone(part, self._device))  # a busy moment hides that narrower is faster; it does not last

    def _together(self, parts: Mapping[_Key, Part]) -> dict[_Key, Saving]:
        try:
            seconds = seconds_together(list(parts.values()), self._device.threads)
        except (GraphoptError, RuntimeError) as error:
            return {key: self._untimed(part, error) for key, part in parts.items()}
        return {key: Saving.of(times) for key, times in zip(parts, seconds, strict=True)}

    def _untimed(self, part: Part, error: Exception) -> Saving:
        return Saving((part.group.size,), (0.0,), reason=f"its part of the network can't be timed on {self._device.target}: {error}")


def _timed_widths(choice: Choice, points: int) -> tuple[int, ...]:
    """Evenly spaced widths, the narrowest among them."""
    count = min(points, len(choice.widths))
    places = [round((index + 1) * len(choice.widths) / count) - 1 for index in range(count)]
    return tuple(dict.fromkeys(choice.widths[place] for place in places))


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
