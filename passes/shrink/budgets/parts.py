"""The parts of a network that are timed: the region of a group at its full width and at a few narrower ones.

On the backend `cpu` every graph is compiled, and a compiler takes seconds. There, parts that run natively throughout go
into one library, side by side as a graph of their own, with the kernels that the cost model picks, and the time of a
variant is the sum over its steps. On other backends each variant is lowered by itself.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy

from graphopt.analysis.axes.groups import AxisGroup
from graphopt.backends.cpu.executable import CpuExecutable
from graphopt.backends.cpu.lowering import NativeSegment, plan_graph
from graphopt.backends.cpu.options import CpuOptions
from graphopt.ir.builder import Builder
from graphopt.ir.graph import Graph, Operand, Value
from graphopt.passes.shrink.budgets.choices import narrowed
from graphopt.passes.shrink.budgets.device import ROUNDS, SECONDS, Device, share
from graphopt.pipeline.probes import random_inputs

__all__ = ["MOST_TOGETHER", "Part", "compiles_as_one", "seconds_alone", "seconds_together", "side_by_side"]

MOST_TOGETHER = 64
"""Variants in one library: some compilers at once, each with a file of a reasonable size."""


@dataclass(frozen=True)
class Part:
    """A region, its group, and the widths to time, the full one not among them."""

    region: Graph
    group: AxisGroup
    widths: tuple[int, ...]

    @cached_property
    def variants(self) -> dict[int, Graph]:
        """The region by width, the full one first."""
        made = {self.group.size: self.region}
        for width in self.widths:
            made[width] = narrowed(self.region, {self.group: numpy.arange(self.group.size) >= width})[0]
        return made


def seconds_alone(part: Part, device: Device) -> dict[int, float]:
    """Seconds of a part at each width, every variant lowered by itself and timed in interleaved rounds.

    Raises:
        BackendError: the backend can't express it.
    """
    executables = {str(width): device.lower(graph) for width, graph in part.variants.items()}
    latency = device.measure(executables, random_inputs(part.region), SECONDS / 3)
    full = latency.timings[0].fastest
    return {int(timing.name): full * share(latency, index) for index, timing in enumerate(latency.timings)}


def compiles_as_one(part: Part) -> bool:
    """True where the backend `cpu` compiles all nodes of all variants, so that none runs in the reference interpreter."""
    programs = (plan_graph(graph) for graph in part.variants.values())
    return all(len(program.segments) == 1 and isinstance(program.segments[0], NativeSegment) for program in programs)


def seconds_together(parts: Sequence[Part], threads: int) -> list[dict[int, float]]:
    """Seconds of each part at each width on the backend `cpu`, all of them in one library and timed in turn.

    Raises:
        BackendError: no compiler is found.
    """
    graph = side_by_side(parts)
    executable = CpuExecutable(graph, CpuOptions(threads=threads, measure=False))
    owners = _owners(executable)
    timed = {(number, width) for number, part in enumerate(parts) for width in part.variants}  # some have only views, and no step
    inputs = random_inputs(graph)
    rounds: list[dict[tuple[int, int], float]] = []
    spent = 0.0
    fewest, most = ROUNDS
    executable.profile(inputs)  # cold caches and pages that nobody has touched yet
    while len(rounds) < fewest or (len(rounds) < most and spent < SECONDS):
        times = dict.fromkeys(timed.union(owners), 0.0)
        for owner, (_, seconds, _) in zip(owners, executable.profile(inputs), strict=True):
            times[owner] += seconds
        rounds.append(times)
        spent += sum(times.values())
    return [
        _seconds({width: [times[number, width] for times in rounds] for width in part.variants}, part.group.size)
        for number, part in enumerate(parts)
    ]


def side_by_side(parts: Sequence[Part]) -> Graph:
    """One graph with all variants of all parts in it; variants of a part read the same inputs.

    The full width comes last: what all of them read is in the cache by then, which must not make narrower look faster.
    """
    builder = Builder(Graph("parts"))
    outputs: list[Operand] = []
    for number, part in enumerate(parts):
        inputs = [builder.input(f"p{number}.{value.name}", value.type) for value in part.region.inputs]
        for width, graph in reversed(part.variants.items()):
            values: dict[Value, Value] = dict(zip(graph.inputs, inputs, strict=True))
            prefix = f"p{number}.{width}"
            for state in graph.states.values():
                values[state.value] = builder.state(f"{prefix}.{state.name}", state.type, state.data, kind=state.kind)
            for node in graph.nodes:
                made = builder.insert(
                    node.op,
                    [values[operand] if isinstance(operand, Value) else operand for operand in node.operands],
                    node.attrs,
                    name=f"{prefix}.{node.name}",
                    types=[result.type for result in node.results],
                )
                values.update(zip(node.results, made.results, strict=True))
            outputs += [values[output] for output in graph.outputs if isinstance(output, Value)]
    builder.outputs(*outputs)
    return builder.graph


def _owners(executable: CpuExecutable) -> list[tuple[int, int]]:
    """(part, width) of each step, by the names of its nodes; the copies to the outputs at the end belong to none: (-1, -1)."""
    (program,) = executable.programs.values()
    (segment,) = program.segments
    assert isinstance(segment, NativeSegment), "parts that compile as one were asked for"
    names = [step.nodes[0].split(".") if step.nodes else ["p-1", "-1"] for step in segment.plan.steps]
    return [(int(part[1:]), int(width)) for part, width, *_ in names]


def _seconds(times: Mapping[int, Sequence[float]], full: int) -> dict[int, float]:
    """Seconds by width: those of the full one by its fastest round, of the others by their share in it, see `share`."""
    whole = times[full]
    fastest = min(whole)
    if fastest == 0.0:  # views take no time, at any width
        return dict.fromkeys(times, 0.0)
    found: dict[int, float] = {}
    for width, own in times.items():
        ratio = statistics.median(after / before for after, before in zip(own, whole, strict=True))
        found[width] = fastest * max(ratio, min(own) / fastest)
    return found
