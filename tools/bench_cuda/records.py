"""What was measured: one JSON file for each case, `resnet50-batch1-float16.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tools.bench_cpu.records import Quartiles, quartiles

__all__ = ["Record", "read", "write"]


@dataclass(frozen=True, slots=True)
class Record:
    """Milliseconds of each arm by round, errors against float64, why arms did not run, and the least time by the roofline.

    Rounds are interleaved: number i of all arms was measured one after the other.
    """

    model: str
    batch: int
    dtype: str
    times: Mapping[str, Sequence[float]]
    errors: Mapping[str, float] = field(default_factory=dict[str, float])
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: Mapping[str, str] = field(default_factory=dict[str, str])
    roofline: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    taken: str = ""

    @property
    def stem(self) -> str:
        """File name without extension."""
        return f"{self.model}-batch{self.batch}-{self.dtype}"

    def spread(self, arm: str) -> Quartiles | None:
        """Milliseconds of an arm; None when it did not run."""
        return quartiles(self.times[arm]) if self.times.get(arm) else None

    def best(self, arms: Sequence[str]) -> str | None:
        """The arm with the least median; None when none ran."""
        found = {arm: spread.median for arm in arms if (spread := self.spread(arm)) is not None}
        return min(found, key=found.__getitem__) if found else None

    def ratio(self, arm: str, to: str) -> Quartiles | None:
        """Per round: the time of `arm` over the time of `to`; above 1, `to` is faster."""
        pairs = list(zip(self.times.get(arm, ()), self.times.get(to, ()), strict=False))
        return quartiles([left / right for left, right in pairs]) if pairs else None


def write(folder: Path, record: Record) -> None:
    """Put a record in the place of an older one of the same case."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"{record.stem}.partial"
    fresh.write_text(json.dumps(asdict(record), indent=1))
    fresh.replace(folder / f"{record.stem}.json")


def read(folder: Path) -> list[Record]:
    """All records, by dtype, batch and model."""
    found: list[dict[str, Any]] = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    return sorted((Record(**entry) for entry in found), key=lambda record: (record.dtype, record.batch, record.model))
