"""What was measured: one JSON file per task, method, level and seed.

results/resnet/ours-latency-budget/0.6-seed1.json
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy

from tools.bench_quality.packages import MissingDataError
from tools.bench_quality.tasks.base import Hits

__all__ = [
    "DENSE",
    "FORMAT",
    "LONGER",
    "STAGES",
    "Key",
    "Run",
    "load_run",
    "load_runs",
    "pack",
    "packed",
    "read_document",
    "resumed",
    "save_run",
    "slug",
    "unpack",
    "versions",
    "write_document",
]

FORMAT = 1
DENSE = "dense"
"""Name under which the network as it was is recorded."""
_PACKAGES = ("torch", "onnxruntime", "torch-pruning", "nncf", "transformers", "scikit-learn", "numpy")
STAGES = ("plain", "tuned")
"""As it comes out of the method, and after the short fine-tuning."""
LONGER = "longer"
"""The stage after a fine-tuning of more steps, which is run on request."""


def slug(name: str) -> str:
    """A name as part of a path: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Key:
    """What a run is of."""

    task: str
    arm: str
    level: float
    seed: int

    def file(self, root: Path) -> Path:
        """Where its record is."""
        return root / "results" / self.task / slug(self.arm) / f"{self.level:g}-seed{self.seed}.json"

    def __str__(self) -> str:
        return f"{self.task}, {self.arm}, {self.level:g}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a run.

    - `settings`, `notes`: what the method was told and said; `failure`: why there is no result.
    - `parameters`: how many are left; `architecture`: the key of its latency.
    - `zeros`: the part of the weights of the layers worked on that are zero, by stage.
    - `hits`: by stage (`plain`: as it came out of the method, `tuned`: after the short fine-tuning,
      `longer`: after one of more steps) and score, packed.
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
    zeros: Mapping[str, float] = field(default_factory=dict[str, float])

    def has(self, stage: str) -> bool:
        """True when it is there, or there never will be any."""
        return bool(self.failure) or stage in self.hits


def pack(hits: Hits) -> str:
    """Hits as text: their number, then their bits in base 64."""
    return f"{len(hits)}:{base64.b64encode(numpy.packbits(hits).tobytes()).decode()}"


def unpack(text: str) -> Hits:
    """The hits of a text that `pack` wrote."""
    count, _, bits = text.partition(":")
    return numpy.unpackbits(numpy.frombuffer(base64.b64decode(bits), numpy.uint8), count=int(count)).astype(bool)


def packed(hits: Mapping[str, Hits]) -> dict[str, str]:
    """Hits by score as text."""
    return {name: pack(found) for name, found in hits.items()}


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    found = {name for distribution in metadata.distributions() if (name := distribution.metadata["Name"])}
    return {package: metadata.version(package).partition("+")[0] for package in _PACKAGES if package in found}


def write_document(file: Path, document: Mapping[str, Any]) -> None:
    """Write JSON in one move, so that a file that is there is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".partial")
    fresh.write_text(json.dumps({"format": FORMAT, **document}, indent=1) + "\n", encoding="utf-8")
    fresh.replace(file)


def read_document(file: Path) -> dict[str, Any]:
    """What `write_document` wrote.

    Raises:
        ValueError: the file is of another format.
    """
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if found.pop("format", None) != FORMAT:
        raise ValueError(f"{file} is not of format {FORMAT}, which this reads; move it away and measure again")
    return found


def save_run(root: Path, run: Run) -> None:
    """Write a run's record."""
    write_document(run.key.file(root), asdict(run))


def load_run(root: Path, key: Key) -> Run | None:
    """A run's record; None when it was not run.

    Raises:
        ValueError: the file is of another format.
    """
    file = key.file(root)
    return _run(read_document(file)) if file.exists() else None


def load_runs(root: Path, task: str) -> list[Run]:
    """All runs of a task.

    Raises:
        ValueError: a file is of another format.
    """
    return [_run(read_document(file)) for file in sorted((root / "results" / task).glob("*/*.json"))]


def _run(found: dict[str, Any]) -> Run:
    fields: dict[str, Any] = found | {"key": Key(**found["key"]), "notes": tuple(found["notes"])}
    return Run(**fields)


def resumed(key: Key, root: Path, stages: Sequence[str], work: Callable[[Run], Run]) -> Run:
    """The run with all of `stages`: from its record, or by `work`, which is given what there is. Failures are kept too.

    Raises:
        MissingDataError: something is not installed; such runs are not recorded.
    """
    run = load_run(root, key) or Run(key, versions=versions())
    if all(run.has(stage) for stage in stages):
        return run
    try:
        run = work(run)
    except (MissingDataError, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001  # a method that fails at a level is a result
        run = replace(run, failure=f"{type(error).__name__}: {' '.join(str(error).split())}"[:400])
    save_run(root, run)
    return run
