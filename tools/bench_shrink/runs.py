"""One run: shrink, keep the graph for its latency, score, fine-tune, score again; resumed where it was left."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import torch

import graphopt
from graphopt.ir.graph import Graph
from tools.bench_quality.finetuning import best_fine_tuned
from tools.bench_quality.records import DENSE, LONGER, Key, Run, load_run, packed, resumed, save_run, versions
from tools.bench_quality.tasks.base import Task
from tools.bench_shrink.methods.arm import Arm, Shrunk

__all__ = ["LONGER_TIMES", "architecture_of", "deployed", "keep_graph", "run_arm", "run_dense"]

LONGER_TIMES = 5
"""Times the steps of the schedule, in the stage `longer`."""
_SECONDS = {"tuned": "fine-tune", LONGER: "longer fine-tune"}


def deployed(task: Task, module: torch.nn.Module) -> Graph:
    """The graph that is timed, whoever made the module: captured at the task's batch size, after the lossless passes."""
    return graphopt.optimize(module, ["lossless"], example_inputs=task.example(task.batch), check="off").graph


def architecture_of(graph: Graph) -> str:
    """A short name that graphs with the same nodes and shapes share, whatever their numbers are."""
    text = [f"{name} {state.type}" for name, state in sorted(graph.states.items())]
    text += [f"{node.op} {[str(value.type) for value in node.results]}" for node in graph.nodes]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


def keep_graph(task: Task, module: torch.nn.Module) -> str:
    """Save the deployed graph for timing unless one of its architecture is there; returns the architecture."""
    graph = deployed(task, module)
    name = architecture_of(graph)
    folder = task.root / "graphs" / task.name / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        graph.save(folder)
    return name


def run_dense(task: Task, root: Path) -> Run:
    """The network as it is: the reference of every loss and speed."""
    key = Key(task.name, DENSE, 0.0, 0)
    found = load_run(root, key)
    if found is not None:
        return found
    module = task.dense()
    count = sum(parameter.numel() for parameter in module.parameters())
    run = Run(key, parameters=count, architecture=keep_graph(task, module), versions=versions())
    run = replace(run, hits={"plain": packed(task.evaluate(module, "test"))})
    save_run(root, run)
    return run


def run_arm(task: Task, arm: Arm, level: float, seed: int, root: Path, stages: tuple[str, ...]) -> Run:
    """Run what is missing of `stages` (`plain`, `tuned`, `longer`). What goes wrong is recorded and not tried again."""
    return resumed(Key(task.name, arm.name, level, seed), root, stages, lambda run: _run(task, arm, run, root, stages))


def _run(task: Task, arm: Arm, run: Run, root: Path, stages: tuple[str, ...]) -> Run:
    key, seconds, hits = run.key, dict(run.seconds), dict(run.hits)
    first = None if arm.draws or key.seed == 0 else load_run(root, replace(key, seed=0))
    if first is not None and "plain" in first.hits and "plain" not in hits:
        hits["plain"] = first.hits["plain"]  # without data and random numbers every seed gives the same network
        run = replace(
            run, settings=first.settings, notes=first.notes, parameters=first.parameters, architecture=first.architecture, hits=hits
        )
        if set(stages) <= {"plain"}:
            return run
    began = time.process_time()
    shrunk: Shrunk = arm.shrink(task, key.level, key.seed)
    seconds["shrink"] = round(time.process_time() - began, 1)
    count = sum(parameter.numel() for parameter in shrunk.module.parameters())
    architecture = keep_graph(task, shrunk.module)
    if run.architecture not in ("", architecture):
        hits.clear()  # latency decided otherwise this time: all stages have to be of one network
    run = replace(run, settings=shrunk.settings, notes=shrunk.notes[-12:], parameters=count, architecture=architecture)
    if "plain" not in hits:
        began = time.process_time()
        hits["plain"] = packed(task.evaluate(shrunk.module, "test"))
        seconds["evaluate"] = round(time.process_time() - began, 1)
        run = replace(run, hits=dict(hits), seconds=dict(seconds))
        save_run(root, run)
    for stage, times in (("tuned", 1), (LONGER, LONGER_TIMES)):
        if stage in stages and stage not in hits:
            began = time.process_time()
            tuned = best_fine_tuned(task, shrunk.module, key.seed, times)
            seconds[_SECONDS[stage]] = round(time.process_time() - began, 1)
            hits[stage] = packed(task.evaluate(tuned, "test"))
    return replace(run, hits=hits, seconds=seconds)
