"""Networks, compiled together and each compared with float64, for several numbers of threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graphopt.backends.cpu.emit import emit, weight_chunks
from graphopt.backends.cpu.executable import CpuExecutable, Native
from graphopt.backends.cpu.library import Library, allocate
from graphopt.backends.cpu.lowering import NativeSegment, Program, plan_graph, reader
from graphopt.backends.cpu.options import CpuOptions
from graphopt.backends.cpu.toolchain import build
from graphopt.backends.partition import Segment
from graphopt.errors import GraphoptError
from graphopt.ir.graph import Graph
from graphopt.pipeline.probes import probe_dims, random_inputs
from tools.check_cpu.compare import Judge
from tools.check_cpu.draw import draw
from tools.check_cpu.merge import merge
from tools.check_cpu.networks import make

__all__ = ["Outcome", "Settings", "Trial", "run_trials"]

Tensors = tuple[torch.Tensor, ...]
Trial = tuple[str, int]
"""Kind and seed of a network."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How networks are compiled and run.

    `draw` is the seed by which kernels are drawn from the candidates. With `measure` networks are lowered as users do
    it instead; then other threads may mean other kernels, and bits are not compared. `sanitize` is that of `toolchain.build`.
    """

    threads: tuple[int, ...] = (1, 2, 4)
    isa: str = "native"
    sanitize: str = ""
    measure: bool = False
    draw: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a network: `failure` is empty when all is well. `foreign` are ops that the reference path ran."""

    failure: str = ""
    steps: int = 0
    algorithms: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    error: float = 0.0


class _Executable(CpuExecutable):
    """The backend's own executable over a program that was planned and compiled here."""

    def __init__(self, graph: Graph, options: CpuOptions, made: tuple[Program, list[Native | Segment]]) -> None:
        self._made = made
        super().__init__(graph, options)

    def program(self, sizes: Any) -> tuple[Program, list[Native | Segment]]:
        """The one program."""
        return self._made


class _Native(Native):
    """A compiled segment from a library that is the same file for any number of threads."""

    def __init__(self, graph: Graph, segment: NativeSegment, path: Path, threads: int) -> None:  # pyright: ignore[reportMissingSuperCall]
        self.segment = segment
        weights = allocate(segment.plan.weights_bytes)
        for offset, array in weight_chunks(segment.plan, reader(graph, segment.derived)):
            weights[offset : offset + array.nbytes] = array.reshape(-1).view("uint8")
        self._library = Library(path, weights, threads)
        self._outputs = [(storage.shape, storage.dtype.torch_name) for storage in segment.plan.outputs]


def run_trials(trials: Sequence[Trial], settings: Settings) -> list[Outcome]:
    """Compile networks as one and judge each for itself.

    A network that can't be planned is left out and has failed.

    Raises:
        GraphoptError: the networks can be planned but not compiled or run. One of them fails by itself.
    """
    graphs = [make(kind, seed) for kind, seed in trials]
    outcomes = [_plan_alone(graph, settings) for graph in graphs]
    sound = [index for index, outcome in enumerate(outcomes) if not outcome.failure]
    if not sound:
        return outcomes
    sizes = [probe_dims(graphs[index]) for index in sound]
    judges = [
        Judge(graphs[index], random_inputs(graphs[index], seed=trials[index][1], dims=dims))
        for index, dims in zip(sound, sizes, strict=True)
    ]
    merged = merge([graphs[index] for index in sound])
    given = tuple(tensor for judge in judges for tensor in judge.inputs)
    results = _run(merged.graph, given, {name: size for dims in sizes for name, size in dims.items()}, settings)
    for index, judge, place in zip(sound, judges, merged.outputs, strict=True):
        outcomes[index] = _judge(judge, {threads: found[place] for threads, found in results.items()}, outcomes[index], settings)
    return outcomes


def _plan_alone(graph: Graph, settings: Settings) -> Outcome:
    try:
        program = plan_graph(graph, probe_dims(graph), draw(settings.draw))
    except GraphoptError as error:
        return Outcome(f"{type(error).__name__}: {error}")
    steps = [step for plan in program.plans for step in plan.steps]
    algorithms = tuple(sorted({step.kernel.algorithm for step in steps}))
    return Outcome("", len(steps), algorithms, tuple(op for _, op, _ in program.foreign))


def _run(graph: Graph, given: Tensors, sizes: dict[str, int], settings: Settings) -> dict[int, Tensors]:
    """Outputs by number of threads, each of a second run, which meets what the first one left in memory."""
    executables: dict[int, CpuExecutable] = {}
    if settings.measure:
        for threads in settings.threads:
            executables[threads] = CpuExecutable(graph, CpuOptions(threads, settings.isa))
    else:
        program = plan_graph(graph, sizes, draw(settings.draw))
        paths = [_library(part, settings) if isinstance(part, NativeSegment) else Path() for part in program.segments]
        for threads in settings.threads:
            steps: list[Native | Segment] = [
                part if isinstance(part, Segment) else _Native(graph, part, path, threads)
                for part, path in zip(program.segments, paths, strict=True)
            ]
            executables[threads] = _Executable(graph, CpuOptions(threads, settings.isa), (program, steps))
    results: dict[int, Tensors] = {}
    for threads, executable in executables.items():
        executable.run(given)
        results[threads] = executable.run(given)
    return results


def _library(segment: NativeSegment, settings: Settings) -> Path:
    return build(emit(segment.plan, units=1), settings.isa, settings.sanitize, keep=False)


def _judge(judge: Judge, results: dict[int, Tensors], planned: Outcome, settings: Settings) -> Outcome:
    first, *others = settings.threads
    for threads in others:
        if not settings.measure and not all(map(_same_bytes, results[first], results[threads])):
            return _failed(
                planned, f"{threads} threads give other bits than {first}, off by up to {_gap(results[first], results[threads]):.3g}"
            )
    error, failure = judge.judge(results[first], any("winograd" in name for name in planned.algorithms))
    return Outcome(failure, planned.steps, planned.algorithms, planned.foreign, error)


def _failed(planned: Outcome, failure: str) -> Outcome:
    return Outcome(failure, planned.steps, planned.algorithms, planned.foreign)


def _same_bytes(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.numpy().tobytes() == right.numpy().tobytes()


def _gap(left: Tensors, right: Tensors) -> float:
    return max(
        (float((a.double() - b.double()).abs().nan_to_num().max()) for a, b in zip(left, right, strict=True) if a.numel()), default=0.0
    )
