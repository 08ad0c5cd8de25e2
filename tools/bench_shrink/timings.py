"""Latencies of a task, in one JSON file: latency/resnet.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.bench_quality.records import read_document, write_document

__all__ = ["Timing", "load_timings", "save_timings"]


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one architecture on one target, per round, and of the dense network in the same rounds."""

    milliseconds: tuple[float, ...]
    dense: tuple[float, ...]


def save_timings(root: Path, task: str, timings: Mapping[str, Mapping[str, Timing]], machine: Mapping[str, str]) -> None:
    """Write all latencies of a task: by architecture and target."""
    document = {name: {target: asdict(timing) for target, timing in targets.items()} for name, targets in timings.items()}
    write_document(root / "latency" / f"{task}.json", {"machine": dict(machine), "timings": document})


def load_timings(root: Path, task: str) -> tuple[dict[str, dict[str, Timing]], dict[str, str]]:
    """Latencies of a task, by architecture and target, and the machine; empty when there are none.

    Raises:
        ValueError: the file is of another format.
    """
    file = root / "latency" / f"{task}.json"
    if not file.exists():
        return {}, {}
    found = read_document(file)
    timings = {
        name: {target: Timing(tuple(entry["milliseconds"]), tuple(entry["dense"])) for target, entry in targets.items()}
        for name, targets in found["timings"].items()
    }
    return timings, found["machine"]
