"""The parts of shrinking to a budget: costs against graphs that are really cut, the search, measured savings, regions."""

from __future__ import annotations

import itertools
from collections.abc import Set
from functools import cache

import numpy
import pytest
import torch
from torch import nn

import graphopt
from graphopt.analysis.axes import AxisGroups, axis_groups
from graphopt.analysis.cost import cost
from graphopt.analysis.memory import peak_memory
from graphopt.ir.graph import Graph
from graphopt.ops import verify
from graphopt.passes.shrink.budgets.choices import Choice, least_important, narrowed, widths_of
from graphopt.passes.shrink.budgets.costs import FlopsGoal, MemoryGoal, ParametersGoal, Shapes
from graphopt.passes.shrink.budgets.goals import Goal
from graphopt.passes.shrink.budgets.latency import LatencyGoal, Saving
from graphopt.passes.shrink.budgets.regions import region_of
from graphopt.passes.shrink.budgets.search import Curve, UnreachableError, search
from graphopt.passes.shrink.budgets.sensitivity import first_batches, mending, metric_falls, output_errors, sensitivities
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.probes import random_inputs
from graphopt.pipeline.recording import run_outputs
from graphopt.rewrite.cut import cut
from graphopt.rewrite.rewriter import Rewriter


class Residual(nn.Module):
    """A residual block with a depthwise convolution, a concatenation, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.expand, self.norm = nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.project = nn.Conv2d(32, 16, 1)
        self.squeeze, self.excite = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(48, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        wide = torch.relu(self.depthwise(self.norm(self.expand(x))))
        x = x + self.project(wide)
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(torch.cat([x, wide], 1).mean((2, 3)))


@cache
def _models() -> dict[str, Graph]:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True).eval()
    return {
        "residual": graphopt.capture(Residual().eval(), (torch.randn(2, 3, 8, 8),)),
        "symbolic": graphopt.capture(Residual().eval(), (torch.randn(2, 3, 8, 8),), dynamic={"x": {0: "batch"}}),
        "transformer": graphopt.capture(nn.Sequential(nn.Linear(8, 32), layer, nn.Linear(32, 3)).eval(), (torch.randn(2, 6, 8),)),
    }


def _groups(graph: Graph) -> AxisGroups:
    groups = axis_groups(graph)
    assert len(groups) >= 2
    return groups


@pytest.mark.parametrize("name", ["residual", "symbolic", "transformer"])
def test_costs_are_those_of_the_graph_that_is_really_cut(name: str) -> None:
    graph = _models()[name]
    groups = _groups(graph)
    dims = {"batch": 3} if name == "symbolic" else {}
    shapes = Shapes(graph, tuple(groups), dims)
    goals = [FlopsGoal(0.5, shapes), ParametersGoal(0.5, shapes), MemoryGoal(0.5, shapes)]
    generator = numpy.random.default_rng(0)
    for _ in range(6):
        widths = [int(generator.integers(1, group.size + 1)) for group in groups]
        copy = narrowed(graph, {g: numpy.arange(g.size) >= width for g, width in zip(groups, widths, strict=True)})[0]
        pairs = (cost(copy, dims).flops, cost(graph, dims).flops), (cost(copy).parameters, cost(graph).parameters)
        wanted = [float(str(after)) / float(str(before)) for after, before in pairs]
        wanted.append(peak_memory(copy, dims).known / peak_memory(graph, dims).known)
        for index, width in enumerate(widths):
            for goal in goals:
                asked = goal.amount_if(index, width)
                goal.move(index, width)
                assert goal.amount() == pytest.approx(asked)
        assert [goal.fraction() for goal in goals] == pytest.approx(wanted)
    for goal in goals:
        goal.start()
        assert goal.fraction() == pytest.approx(1.0)


def test_a_change_of_a_group_changes_only_what_is_said_to_be_related() -> None:
    graph = _models()["residual"]
    groups = _groups(graph)
    for goal in (FlopsGoal(0.5, s := Shapes(graph, tuple(groups), {})), ParametersGoal(0.5, s), MemoryGoal(0.5, s)):
        for index, group in enumerate(groups):
            before = [goal.amount() - goal.amount_if(other, 4) for other in range(len(groups))]
            goal.move(index, group.size // 2)
            after = [goal.amount() - goal.amount_if(other, 4) for other in range(len(groups))]
            goal.move(index, group.size)
            changed = {other for other, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pytest.approx(pair[1], abs=1e-12)}
            assert changed <= goal.related(index)


class Linear(Goal):
    """Each group saves in proportion to what it loses, or in steps."""

    def __init__(self, limit: float, sizes: list[int], weights: list[float], step: int = 1) -> None:
        super().__init__("linear", limit, sizes)
        self.weights, self.step = weights, step

    def _cost(self, widths: list[int]) -> float:
        rounded = [-(-width // self.step) * self.step for width in widths]
        return sum(w * width / size for w, width, size in zip(self.weights, rounded, self.sizes, strict=True)) / sum(self.weights)

    def amount(self) -> float:
        return self._cost(self.widths)

    def amount_if(self, index: int, width: int) -> float:
        return self._cost([width if number == index else own for number, own in enumerate(self.widths)])

    def related(self, index: int) -> Set[int]:
        return {index}

    def fraction(self) -> float:
        return self.amount()


def _curves(sizes: list[int], errors: list[list[float]]) -> list[Curve]:
    return [Curve.through(list(enumerate(reversed(own), start=1)), size) for size, own in zip(sizes, errors, strict=True)]


def test_the_search_is_close_to_the_best_of_all_choices() -> None:
    generator = numpy.random.default_rng(1)
    worst = 0.0
    for _ in range(40):
        sizes = [int(generator.integers(4, 9)) for _ in range(4)]
        curves = _curves(sizes, [sorted(generator.random(size - 1).cumsum().tolist()) for size in sizes])
        weights = generator.random(4).tolist()
        limit = float(generator.uniform(0.4, 0.9))
        choices = [list(range(1, size)) for size in sizes]
        found = search([Linear(limit, sizes, weights)], choices, curves)
        reference = Linear(limit, sizes, weights)
        reference.widths = list(found)
        assert reference.met
        best = float("inf")
        for widths in itertools.product(*(range(1, size + 1) for size in sizes)):
            reference.widths = list(widths)
            if reference.met:
                best = min(best, sum(curve.at(width) for curve, width in zip(curves, widths, strict=True)))
        worst = max(worst, sum(curve.at(width) for curve, width in zip(curves, found, strict=True)) - best)
    assert worst < 1.0  # one item of the knapsack: errors of one step are at most 1


def test_the_search_takes_what_costs_nothing_and_jumps_over_widths_that_save_nothing() -> None:
    sizes = [8, 8]
    free = _curves(sizes, [[0.0] * 4 + [1.0] * 3, [0.1 * step for step in range(1, 8)]])
    assert search([Linear(0.8, sizes, [1.0, 1.0])], [list(range(1, 8))] * 2, free) == (4, 8)
    stepped = _curves(sizes, [[0.1 * step for step in range(1, 8)]] * 2)
    found = search([Linear(0.76, sizes, [1.0, 1.0], step=4)], [list(range(1, 8))] * 2, stepped)
    assert sorted(found) == [4, 8]


def test_several_goals_and_what_can_not_be_reached() -> None:
    sizes = [8, 8]
    curves = _curves(sizes, [[0.1 * step for step in range(1, 8)]] * 2)
    goals = [Linear(0.7, sizes, [1.0, 0.0]), Linear(0.5, sizes, [0.0, 1.0])]
    assert search(goals, [list(range(1, 8))] * 2, curves) == (5, 4)
    with pytest.raises(UnreachableError) as caught:
        search([Linear(0.1, sizes, [1.0, 1.0])], [[4, 2], [4]], curves)
    assert caught.value.widths == (2, 4)


def test_widths_whose_outputs_are_no_numbers_are_never_chosen() -> None:
    graph = _models()["residual"]
    group = next(iter(_groups(graph)))
    choice = Choice(group, (12, 8, 4))
    scores = {group: numpy.arange(float(group.size))}
    small = cost(narrowed(graph, {group: numpy.arange(group.size) >= 8})[0]).parameters

    def measure(other: Graph) -> float:
        return 0.1 if cost(other).parameters > small else float("nan")

    (curve,) = sensitivities(graph, [choice], scores, measure, points=3, tell=lambda fraction: None)
    assert [curve.at(width) for width in (16, 12, 8, 4, 2)] == [0.0, 0.1, *[float("inf")] * 3]
    sizes, widths = [16, 16], [[12, 8, 4]] * 2
    other = Curve.through([(12, 3.0), (8, 6.0), (4, 9.0)], 16)
    assert search([Linear(0.6, sizes, [1.0, 1.0])], widths, [curve, other]) == (12, 4)
    with pytest.raises(UnreachableError) as caught:
        search([Linear(0.3, sizes, [1.0, 1.0])], widths, [curve, other])
    assert caught.value.widths == (12, 4)


def test_cuts_cost_what_is_left_when_the_layers_that_read_the_group_made_up_for_them() -> None:
    graph = _models()["residual"]
    before = {name: state.data for name, state in graph.states.items()}
    group = axis_groups(graph)["expand"]
    data = Calibration([Batch((torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(number)),)) for number in range(12)])
    few = first_batches(data, 16)
    assert (len(few), few.samples) == (8, 16)
    assert mending(graph, few, "none", 0) is None
    mend = mending(graph, few, "least-squares", 0)
    assert mend is not None
    copy, record = narrowed(graph, {group: numpy.arange(group.size) >= 24})
    cut_only = {name: state.data for name, state in copy.states.items()}
    mend(copy, record)
    assert {name for name, state in copy.states.items() if state.data is not cut_only[name]} == {
        "project.weight",
        "project.bias",
        "head.weight",
        "head.bias",
    }
    measure, others = output_errors(graph, few), Calibration(list(data)[8:])
    unseen = output_errors(graph, others)
    plain = narrowed(graph, {group: numpy.arange(group.size) >= 24})[0]
    assert measure(copy) < 0.7 * measure(plain)
    assert unseen(copy) < unseen(plain)
    scores = {group: numpy.arange(float(group.size))[::-1].copy()}
    choice = Choice(group, (24, 16))
    curves = [sensitivities(graph, [choice], scores, measure, points=2, tell=lambda fraction: None, mend=how)[0] for how in (None, mend)]
    assert all(curves[1].at(width) < curves[0].at(width) for width in (24, 16))
    assert all(state.data is before[name] for name, state in graph.states.items())


def test_curves_never_fall_as_a_group_gets_narrower() -> None:
    curve = Curve.through([(16, 0.5), (32, 0.6), (48, 0.1)], 64)
    assert [curve.at(width) for width in (64, 56, 48, 32, 16, 8)] == pytest.approx([0.0, 0.05, 0.1, 0.6, 0.6, 0.7])


def test_a_metric_that_fails_on_a_cut_has_fallen_without_end() -> None:
    graph = _models()["residual"]
    group = next(iter(_groups(graph)))
    copies = {fraction: narrowed(graph, {group: numpy.arange(group.size) >= fraction * group.size})[0] for fraction in (0.5, 0.25)}

    def metric(module: nn.Module) -> float:
        size = sum(parameter.numel() for parameter in module.parameters())
        if size == cost(copies[0.25]).parameters:
            raise ValueError("too small")
        return float("nan") if size == cost(copies[0.5]).parameters else 1.0

    measure = metric_falls(graph, metric)
    assert [measure(graph), *map(measure, copies.values())] == [0.0, float("inf"), float("inf")]
    assert metric_falls(graph, lambda module: 1.0)(copies[0.5]) == 0.0


def test_widths_that_are_not_faster_are_not_offered() -> None:
    saving = Saving.of({64: 1.0, 48: 0.8, 40: 0.81, 32: 0.5, 16: 0.499})
    assert saving.slower == (40, 16)
    assert saving.seconds == pytest.approx((0.0, 0.2, 0.2, 0.5, 0.5))
    assert saving.offered((56, 48, 44, 40, 36, 32, 24, 16, 8)) == (56, 48, 36, 32)
    assert saving.at(36) == pytest.approx(0.35)
    assert Saving.of({64: 1.0, 32: 1.2}).offered((48, 32, 16)) == ()
    goal = LatencyGoal(0.5, (64, 8), (saving, Saving((8,), (0.0,))), 2.0)
    goal.scale = 0.5
    assert goal.amount_if(0, 32) == pytest.approx(1 - 0.5 * 0.5 / 2)
    goal.move(0, 32)
    assert (goal.amount_if(0, 64), goal.fraction()) == pytest.approx((1.0, 0.875))


@pytest.mark.parametrize("name", ["residual", "symbolic", "transformer"])
def test_the_region_of_a_group_holds_all_of_it_and_can_be_cut_alone(name: str) -> None:
    graph = _models()[name]
    for group in _groups(graph):
        region = region_of(graph, group, {"batch": 2} if name == "symbolic" else {})
        assert region is not None
        verify(region.graph)
        assert len(region.group.members) == len(group.members)
        assert region.graph.node_count <= graph.node_count
        small = narrowed(region.graph, {region.group: numpy.arange(group.size) > 0})[0]
        verify(small)
        inputs = random_inputs(region.graph)
        shapes = [[tuple(output.shape) for output in run_outputs(each, inputs, precise=False)] for each in (region.graph, small)]
        assert shapes[0] == shapes[1]


def test_equal_blocks_have_equal_regions() -> None:
    blocks = [nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1)) for _ in range(3)]
    graph = graphopt.capture(nn.Sequential(nn.Conv2d(3, 8, 1), *blocks, nn.Flatten()).eval(), (torch.randn(1, 3, 8, 8),))
    regions = [region_of(graph, group, {}) for group in axis_groups(graph) if group.size == 16]
    assert len(regions) == 3
    assert len({str(region.graph) for region in regions if region is not None}) == 1


def test_widths_are_multiples_within_limits_and_few() -> None:
    torch.manual_seed(0)
    graph = graphopt.capture(nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 4)).eval(), (torch.randn(1, 4),))
    group = next(iter(axis_groups(graph)))
    assert widths_of(group, 16, 0.2) == (96, 80, 64, 48, 32)
    assert widths_of(group, 128, 0.0) == ()
    assert widths_of(group, 1, 1.0) == ()
    fine = widths_of(group, 1, 0.1)
    assert len(fine) == 24
    assert (fine[0], fine[-1]) == (99, 10)


def test_the_least_important_units_go() -> None:
    assert least_important(numpy.array([3.0, 1.0, 2.0, 1.0]), 2).tolist() == [False, True, False, True]


def test_narrowed_is_what_cut_makes_and_leaves_the_graph_alone() -> None:
    graph = _models()["residual"]
    text = str(graph)
    groups = axis_groups(graph)
    group = next(iter(groups))
    gone = numpy.arange(group.size) % 2 == 0
    copy, record = narrowed(graph, {group: gone})
    assert str(graph) == text
    direct = graph.clone(values := {})
    by_name = axis_groups(direct)
    assert cut(Rewriter(direct), by_name, {by_name[group.name]: gone}).states == record.states
    assert str(direct) == str(copy)
    assert values
