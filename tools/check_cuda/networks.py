"""Whole random networks through the interpreter, compared with float64: the planner, the emitter and every kernel at once.

The networks and the comparison are those of `tools.check_cpu`. Verdicts are lines of a file, so that a run that was cut off goes on where
it stopped; a network that took the process with it is found started and not finished, and has failed. Verdicts count only for the code that
they were made with: once a source of the backend or of the networks has changed, networks run anew.
"""

from __future__ import annotations

import hashlib
import json
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch

import graphopt
from graphopt.backends.cuda.executable import CudaExecutable
from graphopt.pipeline.probes import probe_dims, random_inputs
from tools.check_cpu.compare import Judge
from tools.check_cpu.networks import make

__all__ = ["Outcome", "code_digest", "read_outcomes", "run_networks"]

_REPOSITORY = Path(__file__).parents[2]
_SOURCES = (
    "graphopt/backends/cuda/**/*.py",
    "graphopt/backends/planning/**/*.py",
    "graphopt/backends/arena.py",
    "tools/check_cuda/networks.py",
    "tools/check_cpu/*.py",
    "tests/support/*.py",
)
"""What verdicts depend on: the backend with what it shares, this file, the networks and how they are judged."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a network: `failure` is empty when all is well. `kernels` were emitted, `others` are steps that torch runs.
    `code` is the digest of the sources it was made with."""

    kind: str
    seed: int
    failure: str = ""
    kernels: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    error: float = 0.0
    code: str = ""


def code_digest(repository: Path = _REPOSITORY) -> str:
    """One for the names and texts of all sources that verdicts depend on."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in _SOURCES for file in repository.glob(pattern)}):
        for part in (file.relative_to(repository).as_posix().encode(), file.read_bytes()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


def run_networks(trials: Sequence[tuple[str, int]], file: Path, report: Callable[[Outcome], None]) -> list[Outcome]:
    """Verdicts of networks by kind and seed, those that `file` already has of this code among them; new ones are added to it."""
    code = code_digest()
    known = {(outcome.kind, outcome.seed): outcome for outcome in read_outcomes(file) if outcome.code == code}
    file.parent.mkdir(parents=True, exist_ok=True)
    found: list[Outcome] = []
    with file.open("a") as log:
        for kind, seed in trials:
            outcome = known.get((kind, seed))
            if outcome is None:
                print(json.dumps({"started": [kind, seed], "code": code}), file=log, flush=True)
                outcome = replace(_try(kind, seed), code=code)
                print(json.dumps(asdict(outcome)), file=log, flush=True)
            found.append(outcome)
            report(outcome)
    return found


def read_outcomes(file: Path) -> list[Outcome]:
    """What a file of verdicts says last of each network."""
    if not file.exists():
        return []
    found: dict[tuple[str, int], Outcome] = {}
    for line in file.read_text().splitlines():
        entry: dict[str, Any] = json.loads(line)
        if "started" in entry:
            kind, seed = entry["started"]
            found[kind, seed] = Outcome(kind, seed, "the process ended while it ran", code=str(entry.get("code", "")))
        else:
            entry |= {key: tuple(entry[key]) for key in ("kernels", "others")}
            found[entry["kind"], entry["seed"]] = Outcome(**entry)
    return list(found.values())


def _try(kind: str, seed: int) -> Outcome:
    try:
        return _run(kind, seed)
    except Exception as error:  # noqa: BLE001  # an exception that no one raised on purpose is a finding
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "?"
        return Outcome(kind, seed, f"{type(error).__name__} at {where}: {error}")


def _run(kind: str, seed: int) -> Outcome:
    graph = make(kind, seed)
    inputs = random_inputs(graph, seed=seed, dims=probe_dims(graph))
    with warnings.catch_warnings(), numpy.errstate(all="ignore"), torch.no_grad():
        warnings.simplefilter("ignore")
        judge = Judge(graph, inputs)
        executable = graphopt.lower(graph, "cuda", device="cpu")
        assert isinstance(executable, CudaExecutable), "that is what the backend makes"
        executable.run(inputs)
        # a second run meets what the first one left in memory
        error, failure = judge.judge(executable.run(inputs), False)
    plans = [program.plan for program in executable.programs.values()]
    steps = [step.work for plan in plans if plan is not None for step in plan.steps]
    return Outcome(
        kind,
        seed,
        failure,
        tuple(sorted({work.algorithm for work in steps if work.emit("kernel").declarations})),
        tuple(sorted({work.algorithm for work in steps if not work.emit("kernel").declarations})),
        error,
    )
