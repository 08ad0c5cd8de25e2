"""One run: make sparse, score, train, score again, keep the graph for its latency; resumed where it was left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tools.bench_quality.records import DENSE, Key, Run, load_run, packed, resumed, save_run, versions
from tools.bench_sparsity.deploy import keep_graph
from tools.bench_sparsity.methods.arm import Arm, Sparse
from tools.bench_sparsity.subject import Subject, zeros_of

__all__ = ["run_arm", "run_dense"]


def run_dense(subject: Subject, root: Path) -> Run:
    """The network as it is: the reference of every loss and speed."""
    key = Key(subject.task.name, DENSE, 0.0, 0)
    found = load_run(root, key)
    if found is not None:
        return found
    module = subject.task.dense()
    sparse = sum(module.get_parameter(f"{name}.weight").numel() for name in subject.layers)
    count = sum(parameter.numel() for parameter in module.parameters())
    notes = (f"{sparse:,} of {count:,} parameters are weights of the {len(subject.layers)} layers that become sparse",)
    run = Run(key, notes=notes, parameters=count, hits={"plain": packed(subject.task.evaluate(module, "test"))}, versions=versions())
    save_run(root, run)
    return run


def run_arm(subject: Subject, arm: Arm, ratio: float, seed: int, root: Path, stages: Sequence[str]) -> Run:
    """Run what is missing of `stages` (`plain`, `tuned`). What goes wrong is recorded and not tried again.

    Raises:
        MissingDataError: the method's package is not installed.
    """
    key = Key(subject.task.name, arm.name, ratio, seed)
    return resumed(key, root, stages, lambda run: _run(subject, arm, run, root, stages))


def _run(subject: Subject, arm: Arm, run: Run, root: Path, stages: Sequence[str]) -> Run:
    key = run.key
    first = None if arm.draws or key.seed == 0 else load_run(root, replace(key, seed=0))
    if first is not None and "plain" in first.hits and "plain" not in run.hits:  # every seed gives the same network
        run = replace(
            run,
            settings=first.settings,
            notes=first.notes,
            hits={"plain": first.hits["plain"]},
            zeros={"plain": first.zeros["plain"]},
        )
        if "tuned" not in stages:
            return run
    began = time.process_time()
    sparse = arm.sparsify(subject, key.level, key.seed)
    if arm.shrinks:
        run = replace(run, hits={}, zeros={})  # times decide its widths, and may decide otherwise than before: all has to be of one network
    run = replace(run, settings=sparse.settings, notes=sparse.notes, seconds={**run.seconds, "sparsify": _since(began)})
    if "plain" not in run.hits:
        run = _scored(subject, sparse, run, root, "plain")
        save_run(root, run)
    if "tuned" in stages and "tuned" not in run.hits:
        began = time.process_time()
        sparse.tune(subject, key.seed)
        run = replace(run, seconds={**run.seconds, "tune": _since(began)})
        run = _scored(subject, sparse, run, root, "tuned")
    if arm.timed and key.seed == 0:
        keep_graph(subject.task, sparse.finished(), root, arm.name, key.level, anew=arm.shrinks)
    return run


def _scored(subject: Subject, sparse: Sparse, run: Run, root: Path, stage: str) -> Run:
    module, began = sparse.finished(), time.process_time()
    hits = packed(subject.task.evaluate(module, "test"))
    return replace(
        run,
        hits={**run.hits, stage: hits},
        zeros={**run.zeros, stage: zeros_of(module, subject.layers)},
        seconds={**run.seconds, f"evaluate {stage}": _since(began)},
    )


def _since(began: float) -> float:
    return round(time.process_time() - began, 1)
