"""What was measured: one JSON file per task, method, level and seed, and one of latencies per task.

results/resnet/ours-latency-budget/0.6-seed1.json
latency/resnet.json
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy

from tools.bench_shrink.tasks.base import Hits

__all__ = [
    "FORMAT",
    "STAGES",
    "Key",
    "Run",
    "Timing",
    "load_run",
    "load_runs",
    "load_timings",
    "pack",
    "save_run",
    "save_timings",
    "unpack",
]

FORMAT = 1
STAGES = ("plain", "tuned")
"""As it comes out of the method, and after the short fine-tuning."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a run is of."""

    task: str
    arm: str
    level: float
    seed: int

    def file(self, root: Path) -> Path:
        """Where its record is."""
        return (
            root / "results" / self.task / re.sub(r"[^a-z0-9]+", "-", self.arm.lower()).strip("-") / f"{self.level:g}-seed{self.seed}.json"
        )

    def __str__(self) -> str:
        return f"{self.task}, {self.arm}, {self.level:g}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a run.

    - `settings`, `notes`: what the method was told and said; `failure`: why there is no result.
    - `parameters`: how many are left; `architecture`: the key of its latency.
    - `hits`: by stage (`plain`: as it came out of the method, `tuned`: after the short fine-tuning) and score, packed.
    - `seconds`: CPU time by stage; `versions`: of the packages.
    """

    key: Key
    settings: str = ""
    notes: tuple[str, ...] = ()
    failure: str = ""
    parameters: int = 0
    architecture: str = ""
    hits: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])

    def has(self, stage: str) -> bool:
        """True when it is there, or there never will be any."""
        return bool(self.failure) or stage in self.hits


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one architecture on one target, per round, and of the dense network in the same rounds."""

    milliseconds: tuple[float, ...]
    dense: tuple[float, ...]


def pack(hits: Hits) -> str:
    """Hits as text: their number, then their bits in base 64."""
    return f"{len(hits)}:{base64.b64encode(numpy.packbits(hits).tobytes()).decode()}"


def unpack(text: str) -> Hits:
    """The hits of a text that `pack` wrote."""
    count, _, bits = text.partition(":")
    return numpy.unpackbits(numpy.frombuffer(base64.b64decode(bits), numpy.uint8), count=int(count)).astype(bool)


def _write(file: Path, document: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".partial")
    fresh.write_text(json.dumps({"format": FORMAT, **document}, indent=1) + "\n", encoding="utf-8")
    fresh.replace(file)


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if found.pop("format", None) != FORMAT:
        raise ValueError(f"{file} is not of format {FORMAT}, which this reads; move it away and measure again")
    return found


def save_run(root: Path, run: Run) -> None:
    """Write a run's record."""
    _write(run.key.file(root), asdict(run))


def load_run(root: Path, key: Key) -> Run | None:
    """A run's record; None when it was not run.

    Raises:
        ValueError: the file is of another format.
    """
    file = key.file(root)
    return _run(_read(file)) if file.exists() else None


def load_runs(root: Path, task: str) -> list[Run]:
    """All runs of a task.

    Raises:
        ValueError: a file is of another format.
    """
    return [_run(_read(file)) for file in sorted((root / "results" / task).glob("*/*.json"))]


def _run(found: dict[str, Any]) -> Run:
    fields: dict[str, Any] = found | {"key": Key(**found["key"]), "notes": tuple(found["notes"])}
    return Run(**fields)


def save_timings(root: Path, task: str, timings: Mapping[str, Mapping[str, Timing]], machine: Mapping[str, str]) -> None:
    """Write all latencies of a task: by architecture and target."""
    document = {name: {target: asdict(timing) for target, timing in targets.items()} for name, targets in timings.items()}
    _write(root / "latency" / f"{task}.json", {"machine": dict(machine), "timings": document})


def load_timings(root: Path, task: str) -> tuple[dict[str, dict[str, Timing]], dict[str, str]]:
    """Latencies of a task, by architecture and target, and the machine; empty when there are none.

    Raises:
        ValueError: the file is of another format.
    """
    file = root / "latency" / f"{task}.json"
    if not file.exists():
        return {}, {}
    found = _read(file)
    timings = {
        name: {target: Timing(tuple(entry["milliseconds"]), tuple(entry["dense"])) for target, entry in targets.items()}
        for name, targets in found["timings"].items()
    }
    return timings, found["machine"]
