"""From a graph at given sizes to plans: native segments, and what the reference interpreter runs in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from graphopt.backends.cpu.arrays import ArrayData
from graphopt.backends.cpu.isa import available_cores
from graphopt.backends.cpu.kernel import ReadState
from graphopt.backends.cpu.options import CpuOptions
from graphopt.backends.cpu.plan import Plan
from graphopt.backends.cpu.planner.builder import Builder, Derived
from graphopt.backends.cpu.planner.choice import Choice, first_choice
from graphopt.backends.cpu.planner.groups import form_groups
from graphopt.backends.cpu.planner.layouts import Layouts
from graphopt.backends.cpu.planner.makers import BLOCKS, MAKERS, refuse
from graphopt.backends.cpu.planner.measure import Recorder, Timings
from graphopt.backends.cpu.replay import Replay, ReplayError, SavedStep
from graphopt.backends.partition import Segment, segments
from graphopt.backends.planning.shapes import Shapes
from graphopt.backends.timing_cache import default_timings
from graphopt.errors import LoweringError
from graphopt.ir.graph import Graph, Value

__all__ = ["NativeSegment", "Program", "plan", "plan_graph", "plan_measured", "reader"]


@dataclass(frozen=True)
class NativeSegment:
    """A plan with the values that go in and come out."""

    plan: Plan
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    derived: Mapping[str, Derived]


@dataclass(frozen=True)
class Program:
    """Segments in order; a foreign one is the `Segment` itself."""

    segments: tuple[NativeSegment | Segment, ...]

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The native plans in order."""
        return tuple(segment.plan for segment in self.segments if isinstance(segment, NativeSegment))

    @property
    def foreign(self) -> tuple[tuple[str, str, str], ...]:
        """(name, op, reason) of each node that is not native."""
        found: list[tuple[str, str, str]] = []
        for segment in self.segments:
            if isinstance(segment, Segment):
                found += [(node.name, node.op, reason) for node, reason in zip(segment.nodes, segment.reasons, strict=True)]
        return tuple(found)

    @property
    def text(self) -> str:
        """All plans and what runs between them."""
        parts: list[str] = []
        for segment in self.segments:
            if isinstance(segment, NativeSegment):
                parts.append(segment.plan.text)
            else:
                parts += [
                    f"reference: %{node.name} = {node.op}: {reason}\n" for node, reason in zip(segment.nodes, segment.reasons, strict=True)
                ]
        return "".join(parts)


def plan(graph: Graph, sizes: Mapping[str, int], options: CpuOptions, saved: Sequence[SavedStep] = ()) -> Program:
    """Plan a graph by the options: with measured choices, or by the best guess; or as it was planned before, where the
    choices of then, `saved`, are still to be had."""
    if saved:
        replay = Replay(saved)
        with suppress(ReplayError):
            program = plan_graph(graph, sizes, replay)
            if replay.finished:
                return program
    if not options.measure:
        return plan_graph(graph, sizes)
    return plan_measured(graph, sizes, Timings(default_timings(), options.isa, available_cores()))


def plan_measured(graph: Graph, sizes: Mapping[str, int], timings: Timings) -> Program:
    """Plan a graph by timing the candidates of each layer on this machine, where that has not been done before."""
    recorder = Recorder()
    program = plan_graph(graph, sizes, recorder)
    derived = {
        name: numbers for segment in program.segments if isinstance(segment, NativeSegment) for name, numbers in segment.derived.items()
    }
    timings.measure(recorder.places, reader(graph, derived), sum(plan.weights_bytes for plan in program.plans))
    return plan_graph(graph, sizes, timings)


def plan_graph(graph: Graph, sizes: Mapping[str, int] | None = None, choose: Choice = first_choice) -> Program:
    """Plan a graph where each symbol has a size.

    Raises:
        LoweringError: a state has no type that can be stored.
    """
    shapes = Shapes(sizes)
    made: list[NativeSegment | Segment] = []
    for segment in segments(graph, lambda node: refuse(node, shapes)):
        if not segment.native:
            made.append(segment)
            continue
        groups = form_groups(segment.nodes, shapes)
        layouts = Layouts(segment.nodes, shapes)
        inputs, outputs = segment.inputs(), segment.outputs()
        builder = Builder(graph, groups, layouts, shapes, inputs, outputs, choose)
        plan = builder.build({op: maker.make for op, maker in MAKERS.items()}, BLOCKS)
        made.append(NativeSegment(plan, tuple(inputs), tuple(outputs), builder.derived))
    return Program(tuple(made))


def reader(graph: Graph, derived: Mapping[str, Derived]) -> ReadState:
    """Numbers of states by name, and of what is derived from them."""
    import numpy

    def read(name: str) -> numpy.ndarray:
        if name in derived:
            return derived[name](read)
        state = graph.states.get(name)
        if state is not None and isinstance(state.data, ArrayData):
            return state.data.array()
        if state is None or state.data is None:
            raise LoweringError(
                f"%{name} has no numbers, the graph was read from text alone",
                fix="load the graph from its folder, or capture it from the model",
            )
        import torch

        tensor = state.data.tensor().detach().cpu().contiguous()
        if tensor.dtype is torch.bfloat16:
            tensor = tensor.view(torch.uint16)
        return tensor.numpy()

    return read
