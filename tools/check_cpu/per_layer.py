"""Time and fraction of peak of each step of a lowered model.

    #  step                                             ms   share  GFLOPS  of peak
    0  direct conv 3->64 7x7 ...                      0.81   11.4%     291      97%

A step's time is its fastest of all runs; the total is the fastest whole run. FLOPs are those of the mathematical op, so that
Winograd and sparse kernels may exceed the peak.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from graphopt.errors import UsageError

if TYPE_CHECKING:
    from graphopt.backends.cpu.executable import CpuExecutable
    from graphopt.ir.graph import Graph

__all__ = ["Layers", "StepTime", "by_algorithm", "measure", "read", "show"]

_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class StepTime:
    """A step of the plan: its line, seconds, and floating-point operations of the op."""

    text: str
    seconds: float
    flops: int

    @property
    def algorithm(self) -> str:
        """The kernel's short name, the first word of the line."""
        return self.text.partition(" ")[0]


@dataclass(frozen=True, slots=True)
class Layers:
    """All steps of a model, seconds of the fastest whole run, and the peak in operations per second."""

    model: str
    threads: int
    isa: str
    peak: float
    total: float
    steps: tuple[StepTime, ...]


def by_algorithm(steps: Sequence[StepTime]) -> list[tuple[str, int, float, int]]:
    """(algorithm, number of steps, seconds, operations), the dearest first."""
    found: dict[str, tuple[int, float, int]] = {}
    for step in steps:
        count, seconds, flops = found.get(step.algorithm, (0, 0.0, 0))
        found[step.algorithm] = (count + 1, seconds + step.seconds, flops + step.flops)
    return sorted(((name, *figures) for name, figures in found.items()), key=lambda row: -row[2])


def read(file: Path) -> Layers:
    """What `show` wrote to a file."""
    found: dict[str, Any] = json.loads(file.read_text())
    found["steps"] = tuple(StepTime(**step) for step in found["steps"])
    return Layers(**found)


def measure(executable: CpuExecutable, inputs: Sequence[object], runs: int) -> tuple[float, tuple[StepTime, ...]]:
    """Seconds of the fastest run, and of each step at its fastest."""
    best: list[StepTime] = []
    total = float("inf")
    executable.run(inputs)
    for _ in range(runs):
        found = [StepTime(*entry) for entry in executable.profile(inputs)]
        total = min(total, sum(step.seconds for step in found))
        best = [min(pair, key=lambda step: step.seconds) for pair in zip(best, found, strict=True)] if best else found
    return total, tuple(best)


def _graph(name: str) -> tuple[str, Graph]:
    """A saved graph by its folder, or a model of the benchmark at batch 1."""
    import graphopt
    from graphopt.ir.graph import Graph
    from tools.bench_cpu.prepare import prepare, workload_folder

    folder = Path(name)
    if not folder.exists():
        root = _REPOSITORY / "build" / "bench_cpu"
        failures = prepare(root, name, 1)
        if "graphopt.onnx" in failures:
            raise UsageError(f"'{name}' could not be captured: {failures['graphopt.onnx']}")
        folder = workload_folder(root, name, 1) / "graph"
    graph = graphopt.load(folder)
    if not isinstance(graph, Graph):
        raise UsageError(f"{folder} holds an executable, --per-layer takes a saved graph", fix="result.graph.save(folder)")
    return folder.name if Path(name).exists() else name, graph


def show(name: str, *, threads: int, runs: int, isa: str, json_file: Path | None, say: Callable[[str], None] = print) -> int:
    """Lower, measure, print, and write the figures to a file where one is given.

    Raises:
        GraphoptError: the model is unknown, can't be lowered, or is not native throughout.
    """
    import graphopt
    from graphopt.backends.cpu.executable import CpuExecutable
    from graphopt.pipeline.probes import random_inputs
    from tools.check_cpu.peak import peak_flops

    model, graph = _graph(name)
    executable = graphopt.lower(graph, "cpu", threads=threads, isa=isa)
    assert isinstance(executable, CpuExecutable), "the backend gives its own executables"
    peak = peak_flops(isa, threads)
    total, steps = measure(executable, random_inputs(graph), runs)
    layers = Layers(model, threads, isa, peak, total, steps)
    _print(layers)
    flops = sum(step.flops for step in steps)
    rate = flops / total
    say(f"{model}, {threads} threads: {total * 1e3:.3f} ms, {rate / 1e9:.0f} GFLOPS of {peak / 1e9:.0f}: {rate / peak:.0%}")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(asdict(layers), indent=1))
    return 0


def _print(layers: Layers) -> None:
    table = Table(title=f"{layers.model}, {layers.threads} threads", title_justify="left", box=None)
    for head in ("#", "ms", "share", "GFLOPS", "of peak"):
        table.add_column(head, justify="right")
    table.add_column("step", overflow="fold")
    for index, step in enumerate(layers.steps):
        table.add_row(str(index), *_figures(step.seconds, step.flops, layers), step.text)
    table.add_section()
    for name, count, seconds, flops in by_algorithm(layers.steps):
        table.add_row("", *_figures(seconds, flops, layers), f"all {count} of {name}")
    console = Console()
    console.width = max(console.width, 140)
    console.print(table, markup=False, highlight=False)


def _figures(seconds: float, flops: int, layers: Layers) -> tuple[str, str, str, str]:
    share = f"{seconds / layers.total:.1%}"
    if not flops or seconds <= 0:
        return f"{seconds * 1e3:.3f}", share, "-", "-"
    return f"{seconds * 1e3:.3f}", share, f"{flops / seconds / 1e9:.0f}", f"{flops / seconds / layers.peak:.0%}"
