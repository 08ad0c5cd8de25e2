"""What a run of checks found, for the terminal, and as JSON for the page of the benchmark."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.check_cpu.trial import Outcome, Settings, Trial

__all__ = ["Summary", "read", "summarise", "text", "write"]


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of one run; `error` is the largest of the networks that passed, relative to the largest value of the output."""

    networks: int
    failed: int
    steps: int
    seconds: float
    error: float
    threads: tuple[int, ...]
    isa: str
    sanitize: str
    measure: bool
    algorithms: Mapping[str, int]
    foreign: Mapping[str, int]
    taken: str

    @property
    def stem(self) -> str:
        """File name without extension: one file for each way to check."""
        return "-".join(["summary", self.isa, *(["measured"] if self.measure else []), *self.sanitize.replace(",", "-").split()])


def summarise(found: Mapping[Trial, Outcome], settings: Settings, seconds: float) -> Summary:
    """Count what came out."""
    outcomes = list(found.values())
    return Summary(
        len(outcomes),
        sum(bool(outcome.failure) for outcome in outcomes),
        sum(outcome.steps for outcome in outcomes),
        round(seconds, 1),
        max((outcome.error for outcome in outcomes if not outcome.failure), default=0.0),
        settings.threads,
        settings.isa,
        settings.sanitize,
        settings.measure,
        dict(Counter(name for outcome in outcomes for name in outcome.algorithms).most_common()),
        dict(Counter(op for outcome in outcomes for op in outcome.foreign).most_common()),
        datetime.now(UTC).isoformat(timespec="seconds"),
    )


def text(summary: Summary, failures: list[Trial]) -> str:
    """Some lines for the terminal."""
    lines = [
        f"{summary.networks} networks, {summary.steps} steps in {summary.seconds:.0f} s: {summary.failed} failed",
        f"  largest error of those that passed, relative to the largest value of the output: {summary.error:.1e}",
        f"  networks with each kernel: {', '.join(f'{name} {count}' for name, count in summary.algorithms.items())}",
    ]
    if summary.foreign:
        lines.append(f"  nodes on the reference path: {', '.join(f'{op} {count}' for op, count in summary.foreign.items())}")
    if failures:
        lines.append(f"  failed: {', '.join(f'{kind} {seed}' for kind, seed in failures)}")
    return "\n".join(lines)


def write(summary: Summary, folder: Path) -> Path:
    """Keep it as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{summary.stem}.json"
    file.write_text(json.dumps(asdict(summary), indent=1))
    return file


def read(file: Path) -> Summary:
    """What `write` wrote."""
    found: dict[str, Any] = json.loads(file.read_text())
    found["threads"] = tuple(found["threads"])
    return Summary(**found)
