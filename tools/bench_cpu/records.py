"""What was measured: sessions of rounds per model, batch size and thread count, in one JSON file each.

    results/resnet50-batch1-threads2.json: {"sessions": [{"environment": ..., "arms": ..., "rounds": [...]}]}

A session is one group of processes that ran interleaved, so its rounds may be compared with each other, and
with nothing else. Running again adds a session; the page shows the newest one that holds the arms it asks for.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "CANARY_DRIFT",
    "FORMAT",
    "MOST_OTHERS",
    "ArmRecord",
    "Case",
    "Quartiles",
    "Round",
    "Session",
    "append",
    "newest",
    "quartiles",
    "read",
]

FORMAT = 1
CANARY_DRIFT = 0.10
"""A round counts only when the canary, before and after it, is this close to its median over the session."""
MOST_OTHERS = 0.15
"""And only when other processes kept fewer cores busy than this: a machine that is busy all along does not move the canary."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured."""

    model: str
    batch: int
    threads: int

    @property
    def stem(self) -> str:
        """File name without extension."""
        return f"{self.model}-batch{self.batch}-threads{self.threads}"

    def __str__(self) -> str:
        return f"{self.model}, batch {self.batch}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Quartiles:
    """Median and quartiles of numbers, and the least of them."""

    lower: float
    median: float
    upper: float
    least: float


@dataclass(frozen=True, slots=True)
class ArmRecord:
    """What an arm is: version, what it chose, seconds to load, error against float64; or why it did not run."""

    version: str = ""
    note: str = ""
    loading: float = 0.0
    error: float | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """Milliseconds of one turn of each arm (median of its runs), and of the canary before and after them.

    `others` is the number of cores that processes outside of the benchmark kept busy, on average.
    """

    canary: tuple[float, float]
    times: Mapping[str, float]
    others: float = 0.0


@dataclass(frozen=True, slots=True)
class Session:
    """Rounds of one group of processes, in the order in which they were measured."""

    case: Case
    arms: Mapping[str, ArmRecord]
    rounds: Sequence[Round]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    taken: str = ""

    @property
    def quiet(self) -> list[Round]:
        """The rounds that count: the canary ran as fast as in the median, before and after, and nothing else ran."""
        if not self.rounds:
            return []
        typical = statistics.median(value for entry in self.rounds for value in entry.canary)
        steady = [entry for entry in self.rounds if max(abs(value / typical - 1) for value in entry.canary) <= CANARY_DRIFT]
        return [entry for entry in steady if entry.others <= MOST_OTHERS]

    @property
    def counted(self) -> list[Round]:
        """The quiet rounds, or all of them when fewer than three were quiet; see `is_noisy`."""
        return list(self.rounds) if self.is_noisy else self.quiet

    @property
    def is_noisy(self) -> bool:
        """True when fewer than three rounds were quiet: such figures are marked."""
        return len(self.quiet) < 3

    def has(self, arms: Iterable[str]) -> bool:
        """True when each of the arms was tried."""
        return set(arms) <= set(self.arms)

    def times(self, arm: str) -> Quartiles | None:
        """Milliseconds of an arm over the rounds that count; None when it did not run."""
        values = [entry.times[arm] for entry in self.counted if arm in entry.times]
        return quartiles(values) if values else None

    def best(self, arms: Collection[str]) -> str | None:
        """The arm with the least median; None when none ran."""
        found = {arm: times.median for arm in arms if (times := self.times(arm)) is not None}
        return min(found, key=found.__getitem__) if found else None

    def ratio(self, arm: str, to: str) -> Quartiles | None:
        """Per round: the time of `arm` over the time of `to`. Above 1, `to` is faster. None when either did not run."""
        values = [entry.times[arm] / entry.times[to] for entry in self.counted if arm in entry.times and to in entry.times]
        return quartiles(values) if values else None


def quartiles(values: Sequence[float]) -> Quartiles:
    """Quartiles with linear interpolation between the numbers; `values` holds one at least."""
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0], values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(lower, median, upper, min(values))


def append(folder: Path, session: Session) -> None:
    """Add a session to its case's file."""
    file = folder / f"{session.case.stem}.json"
    sessions = read(file) if file.exists() else []
    folder.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".partial")
    fresh.write_text(json.dumps({"format": FORMAT, "sessions": [asdict(entry) for entry in (*sessions, session)]}, indent=1))
    fresh.replace(file)


def read(file: Path) -> list[Session]:
    """The sessions of a case, oldest first.

    Raises:
        ValueError: the file is of another format.
    """
    found: dict[str, Any] = json.loads(file.read_text())
    if found.get("format") != FORMAT:
        raise ValueError(f"{file} is of format {found.get('format')}, this reads {FORMAT}; move it away and measure again")
    return [_session(entry) for entry in found["sessions"]]


def _session(found: dict[str, Any]) -> Session:
    return Session(
        Case(**found["case"]),
        {arm: ArmRecord(**entry) for arm, entry in found["arms"].items()},
        [Round((entry["canary"][0], entry["canary"][1]), entry["times"], entry["others"]) for entry in found["rounds"]],
        found["environment"],
        found["taken"],
    )


def newest(folder: Path, case: Case, arms: Iterable[str]) -> Session | None:
    """The newest session of a case in which all of the arms were tried; None when there is none."""
    file = folder / f"{case.stem}.json"
    if not file.exists():
        return None
    wanted = tuple(arms)
    return next((session for session in reversed(read(file)) if session.has(wanted)), None)
