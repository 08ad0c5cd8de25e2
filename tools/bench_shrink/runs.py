"""One run: shrink, keep the graph for its latency, score, fine-tune, score again; resumed where it was left."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import torch

import graphopt
from graphopt.ir.graph import Graph
from tools.bench_shrink.finetuning import fine_tune
from tools.bench_shrink.methods.arm import Arm, Shrunk
from tools.bench_shrink.packages import MissingDataError
from tools.bench_shrink.records import Key, Run, load_run, pack, save_run
from tools.bench_shrink.tasks.base import Hits, Task

__all__ = ["DENSE", "architecture_of", "deployed", "keep_graph", "run_arm", "run_dense"]

DENSE = "dense"
"""Name under which the network as it was is recorded."""
_PACKAGES = ("torch", "onnxruntime", "torch-pruning", "transformers", "scikit-learn", "numpy")


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    found = {name for distribution in metadata.distributions() if (name := distribution.metadata["Name"])}
    return {package: metadata.version(package).partition("+")[0] for package in _PACKAGES if package in found}


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


def _packed(hits: Mapping[str, Hits]) -> dict[str, str]:
    return {name: pack(found) for name, found in hits.items()}


def run_dense(task: Task, root: Path) -> Run:
    """The network as it is: the reference of every loss and speed."""
    key = Key(task.name, DENSE, 0.0, 0)
    found = load_run(root, key)
    if found is not None:
        return found
    module = task.dense()
    count = sum(parameter.numel() for parameter in module.parameters())
    run = Run(key, parameters=count, architecture=keep_graph(task, module), versions=versions())
    run = replace(run, hits={"plain": _packed(task.evaluate(module, "test"))})
    save_run(root, run)
    return run


def run_arm(task: Task, arm: Arm, level: float, seed: int, root: Path, stages: tuple[str, ...]) -> Run:
    """Run what is missing of `stages` (`plain`, `tuned`). What goes wrong is recorded and not tried again."""
    key = Key(task.name, arm.name, level, seed)
    run = load_run(root, key) or Run(key, versions=versions())
    if all(run.has(stage) for stage in stages):
        return run
    try:
        run = _run(task, arm, run, root, stages)
    except (MissingDataError, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001  # a method that fails at a level is a result
        run = replace(run, failure=f"{type(error).__name__}: {' '.join(str(error).split())}"[:400])
    save_run(root, run)
    return run


def _run(task: Task, arm: Arm, run: Run, root: Path, stages: tuple[str, ...]) -> Run:
    key, seconds, hits = run.key, dict(run.seconds), dict(run.hits)
    first = None if arm.draws or key.seed == 0 else load_run(root, replace(key, seed=0))
    if first is not None and "plain" in first.hits and "plain" not in hits:
        hits["plain"] = first.hits["plain"]  # without data and random numbers every seed gives the same network
        run = replace(
            run, settings=first.settings, notes=first.notes, parameters=first.parameters, architecture=first.architecture, hits=hits
        )
        if "tuned" not in stages:
            return run
    began = time.process_time()
    shrunk: Shrunk = arm.shrink(task, key.level, key.seed)
    seconds["shrink"] = round(time.process_time() - began, 1)
    count = sum(parameter.numel() for parameter in shrunk.module.parameters())
    architecture = keep_graph(task, shrunk.module)
    if run.architecture not in ("", architecture):
        hits.pop("plain", None)  # latency decided otherwise this time: both stages have to be of one network
    run = replace(run, settings=shrunk.settings, notes=shrunk.notes[-12:], parameters=count, architecture=architecture)
    if "plain" not in hits:
        began = time.process_time()
        hits["plain"] = _packed(task.evaluate(shrunk.module, "test"))
        seconds["evaluate"] = round(time.process_time() - began, 1)
        run = replace(run, hits=dict(hits), seconds=dict(seconds))
        save_run(root, run)
    if "tuned" in stages and "tuned" not in hits:
        began = time.process_time()
        fine_tune(task, shrunk.module, key.seed)
        seconds["fine-tune"] = round(time.process_time() - began, 1)
        hits["tuned"] = _packed(task.evaluate(shrunk.module, "test"))
    return replace(run, hits=hits, seconds=seconds)
