"""Goals of latency on a device whose clock is a formula: what is kept is faster there and reaches the goal, or nothing is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import graphopt
from graphopt.analysis.axes import axis_groups
from graphopt.backends.base import Executable, lower
from graphopt.backends.cpu.lowering import plan_graph
from graphopt.backends.timing import Latency, Timing
from graphopt.errors import PassError
from graphopt.ir.graph import Graph
from graphopt.ops import verify
from graphopt.passes.shrink.budgets.choices import Choice, narrowed, widths_of
from graphopt.passes.shrink.budgets.device import SECONDS, Device
from graphopt.passes.shrink.budgets.latency import time_groups
from graphopt.passes.shrink.budgets.parts import Part, compiles_as_one, side_by_side
from graphopt.passes.shrink.budgets.plan import Plan, Planner
from graphopt.passes.shrink.budgets.regions import region_of
from graphopt.passes.shrink.shrink_to_budget import ShrinkToBudget
from graphopt.pipeline.calibration import Calibration, calibration_from
from graphopt.pipeline.context import Context
from graphopt.pipeline.probes import random_inputs
from graphopt.pipeline.recording import run_outputs

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))

Seconds = Callable[[int, int, bool], float]
"""Seconds of a layer from its outputs and inputs, and whether it is in a network that is whole: more than one part of it."""


def vectors(step: int) -> Seconds:
    """A layer takes as long as one of the next multiple of `step` channels."""
    return lambda outputs, inputs, whole: 1e-6 * -(-outputs // step) * step * -(-inputs // step) * step


def overhead(outputs: int, inputs: int, whole: bool) -> float:
    """Every layer takes the same."""
    return 1e-3


def misleading(outputs: int, inputs: int, whole: bool) -> float:
    """Parts are faster when they are narrower, and the network is slower."""
    return 1e-6 * (4096 - outputs * inputs if whole else outputs * inputs)


def uneven(outputs: int, inputs: int, whole: bool) -> float:
    """Widths that are no multiple of 16 take longer than the next wider one that is."""
    return 1e-6 * outputs * inputs * (1.0 if outputs % 16 == 0 and inputs % 16 in (0, 3) else 3.0)


@dataclass(frozen=True)
class Simulator(Device):
    """A device that knows how long a layer takes; nothing runs on it."""

    seconds: Seconds = field(default=overhead)

    def lower(self, graph: Graph) -> Executable:
        """Nothing to prepare."""
        return lower(graph, "reference")

    def measure(self, executables: Mapping[str, Executable], inputs: Sequence[torch.Tensor], seconds: float = SECONDS) -> Latency:
        """Times by the formula."""
        times = {name: self.time(executable.graph) for name, executable in executables.items()}
        first = next(iter(times.values()))
        return Latency(tuple(Timing(name, time, time, time, time, first / time) for name, time in times.items()), 8, {})

    def time(self, graph: Graph) -> float:
        """The sum over layers."""
        shapes = [node.value(1).type.static_shape for node in graph.nodes if node.op in ("conv2d", "linear")]
        return sum(self.seconds(outputs, inputs, len(shapes) > 3) for outputs, inputs, *_ in shapes)


def _graph() -> Graph:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 64, 1), nn.ReLU()]
    return graphopt.capture(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)).eval(), (X,))


GRAPH = _graph()


def _planner(goal: float, device: Device, calibration: Calibration, *, multiple_of: int = 4, points: int = 2) -> Planner:
    options = ShrinkToBudget(latency=goal, multiple_of=multiple_of, points=points, least=0.1)
    return Planner(options.settings(), GRAPH, axis_groups(GRAPH), Context(calibration=calibration), calibration, device)


def _plan_or_refusal(planner: Planner) -> tuple[Plan | None, str]:
    try:
        return planner.run(), ""
    except PassError as error:
        return None, str(error)


@pytest.mark.parametrize("seconds", [vectors(1), vectors(8), vectors(32), overhead, misleading, uneven])
@pytest.mark.parametrize("goal", [0.3, 0.6, 0.9, 0.999])
def test_whatever_the_device_a_network_that_is_kept_is_faster_and_reaches_the_goal(seconds: Seconds, goal: float) -> None:
    device = Simulator("simulator", 1, seconds)
    plan, refusal = _plan_or_refusal(_planner(goal, device, calibration_from(GRAPH, X)))
    if plan is None:
        reachable = re.search(r"the closest that was found is latency=([0-9.]+)|narrower groups are not faster", refusal)
        assert reachable, refusal
        assert reachable[1] is None or float(reachable[1]) > min(goal, 0.995), "it would have reached the goal"
        return
    assert seconds not in (overhead, misleading)
    assert plan.removal
    cut = narrowed(GRAPH, plan.removal)[0]
    assert device.time(cut) <= min(goal, 0.995) * device.time(GRAPH)
    assert all(group.size - int(gone.sum()) > 0 for group, gone in plan.removal.items())


def test_a_goal_of_one_asks_for_nothing() -> None:
    plan = _planner(1.0, Simulator("simulator", 1, vectors(1)), calibration_from(GRAPH, X)).run()
    assert (plan.removal, plan.notes) == ({}, ("every goal is 1: nothing has to go",))


def test_widths_that_are_not_faster_are_not_used() -> None:
    device = Simulator("simulator", 1, vectors(16))
    plan = _planner(0.6, device, calibration_from(GRAPH, X), multiple_of=8, points=6).run()  # every width is timed
    assert plan.removal
    assert all((group.size - int(gone.sum())) % 16 == 0 for group, gone in plan.removal.items())


def test_weaker_goals_use_what_was_measured_for_stronger_ones() -> None:
    asked: list[int] = []

    def count(outputs: int, inputs: int, whole: bool) -> float:
        asked.append(whole)
        return vectors(1)(outputs, inputs, whole)

    device, data = Simulator("simulator", 1, count), calibration_from(GRAPH, X)
    first = _planner(0.5, device, data).run()
    parts = asked.count(False)
    assert parts
    again = _planner(0.7, device, data).run()
    assert asked.count(False) == parts, "parts were timed again"
    fresh = _planner(0.7, device, calibration_from(GRAPH, X)).run()
    assert asked.count(False) == 2 * parts
    assert again.notes == fresh.notes
    assert again.notes != first.notes


def _parts() -> list[Part]:
    parts: list[Part] = []
    for group in axis_groups(GRAPH):
        region = region_of(GRAPH, group, {})
        assert region is not None
        widths = widths_of(region.group, 8, 0.25)
        parts.append(Part(region.graph, region.group, (widths[len(widths) // 2], widths[-1])))
    return parts


def test_parts_side_by_side_compute_what_each_computes_alone() -> None:
    parts = _parts()
    assert all(compiles_as_one(part) for part in parts)
    graph = side_by_side(parts)
    verify(graph)
    inputs = dict(zip((value.name for value in graph.inputs), random_inputs(graph), strict=True))
    found = iter(run_outputs(graph, tuple(inputs.values()), precise=False))
    for number, part in enumerate(parts):
        own = [inputs[f"p{number}.{value.name}"] for value in part.region.inputs]
        for variant in reversed(part.variants.values()):
            for expected in run_outputs(variant, own, precise=False):
                torch.testing.assert_close(next(found), expected)
    assert next(found, None) is None
    steps = plan_graph(graph).plans[0].steps
    assert {name.rsplit(".", 1)[0] for step in steps for name in step.nodes} == {
        f"p{number}.{width}" for number, part in enumerate(parts) for width in part.variants
    }


def test_parts_are_compiled_together_on_the_cpu_backend() -> None:
    groups = axis_groups(GRAPH)
    choices = [Choice(group, widths_of(group, 8, 0.25)) for group in groups]
    told: list[float] = []
    savings = time_groups(GRAPH, choices, Device("cpu", 1), {}, points=2, tell=told.append)
    assert [saving.reason for saving in savings] == [""] * len(choices)
    assert [len(saving.widths) for saving in savings] == [3] * len(choices)
    assert told == sorted(told)


class Positions(nn.Module):
    """Reads the first of its position numbers: the others are a group whose region holds a view and nothing that takes time."""

    position_ids: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("position_ids", torch.arange(64)[None])
        self.places = nn.Embedding(64, 32)
        self.layers = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x + self.places(self.position_ids[:, :16]))


def test_a_group_that_only_views_read_saves_nothing() -> None:
    graph = graphopt.capture(Positions().eval(), (torch.randn(2, 16, 32),))
    groups = axis_groups(graph)
    views = [member.value.name for group in groups for member in group.members if group.size == 48]
    assert views == ["position_ids"]
    choices, told = [Choice(group, widths_of(group, 8, 0.25)) for group in groups], list[float]()
    savings = time_groups(graph, choices, Device("cpu", 1), {}, points=2, tell=told.append)
    assert {group.size: max(saving.seconds) for group, saving in zip(groups, savings, strict=True)}[48] == 0.0
    assert [saving.reason for saving in savings] == [""] * len(groups)
