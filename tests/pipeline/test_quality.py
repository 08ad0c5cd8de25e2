"""Metric and budget: weaker versions of a pass, roll-back with figures, what is refused, and checks after lossy passes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt import Budget
from graphopt.errors import GraphoptWarning, PassError, UsageError
from graphopt.ir.graph import Graph, Value
from graphopt.pipeline.context import Context
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.passes import ContextPass, NumericClass, Outcome, Pass
from graphopt.pipeline.quality import Bisection
from graphopt.pipeline.records import BrokenPromise, PassRecord, PipelineResult
from graphopt.pipeline.registry import Repeat, plan, resolve
from graphopt.rewrite.cut import CutRecord
from graphopt.rewrite.rewriter import Rewriter
from tests.support.folding import filled
from tests.support.wrong_passes import NETWORK, DropBias, WrongAxis

LAYER = """graph layer(%x: f32[4,8]) {
  param %w: f32[8,8]
  %y: f32[4,8] = linear(%x, %w, none)
  %z: f32[4,8] = relu(%y)
  return %z
}
"""
X = torch.ones(4, 8)


@dataclass(frozen=True)
class Weaken(Pass):
    """Scales the output by 1 - ratio, in steps as a hardware width would make them."""

    name = "weaken"
    numeric = NumericClass.LOSSY
    ratio: float = field(default=0.5, metadata={"minimum": 0.0, "maximum": 1.0})
    step: float = 0.0

    def apply(self, rewriter: Rewriter) -> Outcome:
        ratio = self.ratio // self.step * self.step if self.step else self.ratio
        if ratio == 0.0:
            return Outcome(0, (("z", "the ratio is below one step"),))
        _scale(rewriter, 1.0 - ratio)
        return Outcome(1, notes=(f"removed {ratio}",))


@dataclass(frozen=True)
class Halve(Pass):
    """Halves the output; has no ratio."""

    name = "halve"
    numeric = NumericClass.LOSSY

    def apply(self, rewriter: Rewriter) -> Outcome:
        _scale(rewriter, 0.5)
        return Outcome(1, notes=("halved",))


@dataclass(frozen=True)
class DivideByZero(Pass):
    """Makes NaN and infinities."""

    name = "divide-by-zero"
    numeric = NumericClass.LOSSY

    def apply(self, rewriter: Rewriter) -> Outcome:
        _scale(rewriter, float("inf"))
        return Outcome(1)


@dataclass(frozen=True)
class OtherShape(Pass):
    """Returns the sum instead."""

    name = "other-shape"
    numeric = NumericClass.LOSSY

    def apply(self, rewriter: Rewriter) -> Outcome:
        output = _output(rewriter)
        rewriter.set_outputs((rewriter.emit("sum", output, before=rewriter.graph.return_node, axes=(0,), keepdims=False),))
        return Outcome(1)


@dataclass(frozen=True)
class NeedsData(ContextPass):
    """Scales by the mean of the calibration data, and tells how far it is."""

    name = "needs-data"
    numeric = NumericClass.LOSSY

    def apply_with(self, rewriter: Rewriter, context: Context) -> Outcome:
        if context.calibration is None:
            raise PassError("needs-data needs calibration data", fix="pass calibration=loader")
        if context.progress is not None:
            context.progress("needs-data: reading", 0.5)
        _scale(rewriter, float(torch.cat([batch.inputs[0] for batch in context.calibration]).mean()))
        return Outcome(1)


def _output(rewriter: Rewriter) -> Value:
    value = rewriter.graph.outputs[0]
    assert isinstance(value, Value)
    return value


def _scale(rewriter: Rewriter, factor: float) -> None:
    value = _output(rewriter)
    scaled = rewriter.emit("mul", value, factor, before=rewriter.graph.return_node)
    rewriter.replace_value(value, scaled, where=lambda use: use.node.is_return)


@pytest.fixture
def graph() -> Graph:
    return filled(LAYER)


def size(module: nn.Module) -> float:
    """Mean of the output over that of the original: 1 - what was removed."""
    with torch.no_grad():
        return float(module(X).mean() / filled(LAYER).to_module()(X).mean())


def test_a_pass_within_the_budget_is_kept(graph: Graph) -> None:
    result = graphopt.optimize(graph, [Weaken(0.125)], metric=size, budget=Budget(metric_drop=0.125))
    record = result.report.records[0]
    assert (record.status, record.kept, len(record.trials)) == ("applied", "", 1)
    assert "weaken{ratio=0.125}: metric 0.875, drop 0.125: kept" in str(result.report)
    assert "metric: 1 -> 0.875, drop 0.125, 0.125 allowed" in str(result.report)
    assert size(result.module) == pytest.approx(0.875)


def test_the_largest_ratio_that_holds_is_found_by_bisection(graph: Graph) -> None:
    calls: list[float] = []

    def metric(module: nn.Module) -> float:
        calls.append(size(module))
        return calls[-1]

    result = graphopt.optimize(graph, [Weaken(0.8)], metric=metric, budget=Budget(metric_drop=0.33, tries=4))
    record = result.report.records[0]
    assert [trial.spec for trial in record.trials] == [f"weaken{{ratio={ratio}}}" for ratio in (0.8, 0.4, 0.2, 0.3, 0.35)]
    assert [trial.holds for trial in record.trials] == [False, False, True, True, False]
    assert [trial.kept for trial in record.trials] == [False, False, False, True, False]
    assert len(calls) == 6
    assert (record.status, record.kept) == ("applied", "weaken{ratio=0.3}")
    assert record.notes == ("removed 0.3",)
    assert result.graph.node_count == record.nodes_after == 3
    assert size(result.module) == pytest.approx(0.7)
    text = str(result.report)
    assert "weaken{ratio=0.8}: metric 0.2, drop 0.8: not kept, 0.33 allowed" in text
    assert "weaken{ratio=0.2}: metric 0.8, drop 0.2: holds" in text
    assert text.splitlines()[1].startswith("weaken{ratio=0.3}")
    document = json.loads(json.dumps(result.report.to_json()))
    assert document["quality"]["allowed_drop"] == 0.33
    assert [trial["kept"] for trial in document["passes"][0]["trials"]] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("spec", "half"),
    [
        ('shrink-neurons{ratio=0.7, ratios=(("a", 0.45), ("b", 0.0))}', 'shrink-neurons{ratio=0.35, ratios=(("a", 0.225), ("b", 0.0))}'),
        ("sparsify-magnitude{ratio=0.9}", "sparsify-magnitude{ratio=0.45}"),
        ("remove-blocks{ratio=0.5}", "remove-blocks"),
        ("remove-layers{count=3}", "remove-layers{count=1}"),
        ("factor-linear", "factor-linear{ratio=0.25}"),
        ("factor-linear{energy=0.1}", "factor-linear{energy=0.05}"),
        ("factor-convolutions{energy=0.1}", "factor-convolutions{energy=0.05}"),
        ("shrink-kernels", "shrink-kernels{energy=0.025}"),
        ("shrink-pools{tolerance=0.1}", "shrink-pools{tolerance=0.05}"),
        ("shrink-pools", "None"),
        ("shrink-to-budget{flops=0.5}", "shrink-to-budget{flops=0.75}"),
        ("halve", "None"),
    ],
)
def test_the_option_that_counts_gets_weaker(spec: str, half: str) -> None:
    (pass_,) = (Halve(),) if spec == "halve" else resolve(plan(spec))
    assert repr(pass_.weaker(0.5)) == half


def test_versions_that_were_tried_are_not_tried_again() -> None:
    (pass_,) = resolve(plan("remove-blocks{count=5}"))
    bisection, tried = Bisection(pass_, 8), list[str]()
    for weaker in bisection:
        tried.append(repr(weaker))
        bisection.result("count=3" not in tried[-1])
    assert tried == [f"remove-blocks{{count={count}}}" for count in (2, 3)]


def test_passes_share_one_budget_and_one_without_ratio_is_rolled_back(graph: Graph) -> None:
    result = graphopt.optimize(graph, [Weaken(0.25), Halve(), Weaken(0.0625)], metric=size, budget=Budget(metric_drop=0.3))
    first, second, third = result.report.records
    assert (first.status, second.status, third.status) == ("applied", "over budget", "applied")
    assert (second.rewritten, second.nodes_after, second.broken) == (0, 3, None)
    assert second.notes == ()
    assert not result.report.pipeline.failures
    assert "halve: metric 0.375, drop 0.625: not kept, 0.3 allowed" in str(result.report)
    assert third.trials[0].drop == pytest.approx(1 - 0.75 * 0.9375)
    assert size(result.module) == pytest.approx(0.75 * 0.9375)


def test_no_ratio_holds(graph: Graph) -> None:
    result = graphopt.optimize(graph, [Weaken(0.5, step=0.25)], metric=size, budget=Budget(metric_drop=0.1, tries=3))
    record = result.report.records[0]
    assert record.status == "over budget"
    assert [(trial.metric is None, trial.holds) for trial in record.trials] == [(False, False), (False, False), (True, True), (True, True)]
    assert "weaken{ratio=0.125, step=0.25}: holds, declined 1: the ratio is below one step" in str(result.report)
    assert str(result.graph) == str(graph)
    at_once = graphopt.optimize(graph, [Weaken(0.5)], metric=size, budget=Budget(metric_drop=0.1, tries=0))
    assert len(at_once.report.records[0].trials) == 1


def test_the_slack_of_floating_point_is_allowed(graph: Graph) -> None:
    values = iter((0.95, 0.94))  # 0.95 - 0.94 is 0.010000000000000009
    result = graphopt.optimize(graph, [Halve()], metric=lambda module: next(values), budget=Budget(metric_drop=0.01))
    assert result.report.records[0].status == "applied"


def test_a_metric_without_budget_is_measured_and_holds_nothing_back(graph: Graph) -> None:
    result = graphopt.optimize(graph, [Weaken(0.5)], metric=size)
    assert result.report.records[0].trials[0].metric == pytest.approx(0.5)
    assert "metric: 1 -> 0.5, drop 0.5\n" in str(result.report)
    assert "note: no budget was given, so no pass was held to the metric" in str(result.report)


def test_what_the_report_says_without_a_metric_and_without_a_lossy_pass(graph: Graph) -> None:
    text = str(graphopt.optimize(graph, [Weaken(0.5), Halve()]).report)
    assert "note: nothing guarded the quality: weaken, halve changed the model and no metric was given" in text
    idle = graphopt.optimize(graph, ["remove-dead-nodes"], metric=size, budget=Budget(metric_drop=0.1))
    assert "note: the metric was not evaluated: the pipeline has no lossy pass" in str(idle.report)
    assert idle.pipeline.quality is None


def _raise(module: nn.Module) -> float:
    raise KeyError("validation set")


def _nan(module: nn.Module) -> float:
    return float("nan")


def _text(module: nn.Module) -> str:
    return "good"


def _pair(module: nn.Module) -> torch.Tensor:
    return torch.ones(2)


def _training(module: nn.Module) -> float:
    with torch.no_grad():
        next(module.parameters()).add_(1.0)
    return 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": Budget(0.1)}, r"Budget\(metric_drop=0.1, tries=5\) was given without a metric"),
        ({"metric": 0.5}, "metric is a float, needs a function of a module"),
        ({"metric": size, "budget": 0.1}, r"budget is 0.1, needs a Budget\n  fix: pass budget=graphopt.Budget\(metric_drop=0.01\)"),
        ({"metric": _raise}, "the metric raised KeyError: 'validation set' on the original model"),
        ({"metric": _nan}, "the metric is nan on the original model, so no drop can be measured"),
        ({"metric": _text}, "the metric returned a str, needs one number on the original model"),
        ({"metric": _pair}, "the metric returned a Tensor, needs one number on the original model"),
        ({"metric": _training}, r"the metric changed %w of the module that it was given.*\n  fix: work on a copy"),
    ],
)
def test_contexts_that_can_not_work_are_refused(graph: Graph, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        graphopt.optimize(graph, [Halve()], **options)
    assert re.search(message, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(("drop", "tries"), [(-0.1, 5), (float("nan"), 5), ("0.1", 5), (0.1, -1), (0.1, 1.5), (0.1, "2"), (0.1, True)])
def test_budgets_out_of_range(drop: Any, tries: Any) -> None:
    with pytest.raises(UsageError, match=r"needs a (whole )?number of at least 0"):
        Budget(metric_drop=drop, tries=tries)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda: float("nan"), "the metric is no finite number"),
        (lambda: _raise(nn.Identity()), "the metric raised KeyError: 'validation set'"),
    ],
)
def test_a_metric_that_fails_on_the_changed_model_rolls_back(graph: Graph, bad: Callable[[], float], reason: str) -> None:
    def metric(module: nn.Module) -> float:
        return 1.0 if size(module) > 0.99 else bad()

    result = graphopt.optimize(graph, [Halve()], metric=metric)
    record = result.report.records[0]
    assert record.status == "over budget"
    assert reason in str(record.trials[0])
    json.dumps(result.report.to_json(), allow_nan=False)
    assert str(result.graph) == str(graph)


def test_tensors_count_as_numbers_and_rises_are_called_so(graph: Graph) -> None:
    values = iter((torch.tensor(0.5), torch.tensor(0.75)))
    result = graphopt.optimize(graph, [Halve()], metric=lambda module: next(values), budget=Budget(0.0))  # pyright: ignore[reportArgumentType]
    assert "halve: metric 0.75, rise 0.25: kept" in str(result.report)


@pytest.mark.parametrize(
    ("pass_", "rule"),
    [(DivideByZero(), "lossy: no NaN and infinities where everything was finite"), (OtherShape(), r"same dtype and shape: was .*\(4, 8\)")],
)
def test_lossy_passes_still_promise_something(graph: Graph, pass_: Pass, rule: str) -> None:
    with pytest.warns(GraphoptWarning, match=f"{pass_.name} rolled back"):
        record = graphopt.optimize(graph, [pass_]).report.records[0]
    assert record.status == "rolled back"
    assert record.broken is not None
    assert re.search(rule, record.broken.rule)


def test_later_passes_are_compared_with_the_graph_after_the_lossy_one() -> None:
    network = filled(NETWORK)
    for check in ("default", "full"):
        result = graphopt.optimize(network, [Weaken(0.5), "lossless", Halve(), "lossless"], check=check)  # pyright: ignore[reportArgumentType]
        assert not result.report.pipeline.failures
        assert result.pipeline.broken is None
        assert result.pipeline.final_error is not None
        assert result.pipeline.final_error < 1e-9
        wrong = graphopt.optimize(network, [Weaken(0.5), WrongAxis(), DropBias(), Halve(), WrongAxis()], check=check)  # pyright: ignore[reportArgumentType]
        assert [record.status for record in wrong.report.records] == ["applied", "rolled back", "rolled back", "applied", "rolled back"]


def test_a_pass_that_was_tried_and_undone_leaves_the_checks_in_order() -> None:
    network = filled(NETWORK)
    original = network.to_module()
    inputs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = float(original(inputs)[0].abs().sum())

    def metric(module: nn.Module) -> float:
        with torch.no_grad():
            return float(module(inputs)[0].abs().sum()) / whole

    passes = ["merge-reshapes", Weaken(0.5), DropBias(), "lossless", Halve(), WrongAxis()]
    result = graphopt.optimize(network, passes, metric=metric, budget=Budget(metric_drop=0.2, tries=2))
    statuses = {record.spec: record.status for record in result.report.records}
    assert statuses["weaken"] == "applied"
    assert (statuses["halve"], statuses["wrong-drop-bias"], statuses["wrong-axis"]) == ("over budget", "rolled back", "rolled back")
    assert result.pipeline.broken is None
    assert result.pipeline.quality is not None
    assert metric(result.module) == pytest.approx(result.pipeline.quality.after)


def test_a_group_repeats_a_lossy_pass_until_the_budget_is_used_up(graph: Graph) -> None:
    result = graphopt.optimize(graph, [Repeat((Weaken(0.25),))], metric=size, budget=Budget(metric_drop=0.5, tries=0))
    assert [record.status for record in result.report.records] == ["applied", "applied", "over budget"]


def test_data_reaches_the_pass_and_progress_is_told(graph: Graph) -> None:
    told: list[tuple[str, float]] = []
    result = graphopt.optimize(
        graph,
        ["remove-dead-nodes", NeedsData()],
        calibration=[X * 0.5, X * 0.25],
        metric=size,
        budget=Budget(0.9),
        progress=lambda what, fraction: told.append((what, fraction)),
    )
    assert size(result.module) == pytest.approx(0.375)
    assert [fraction for _, fraction in told] == sorted(fraction for _, fraction in told)
    assert ("needs-data: reading", 0.75) in told
    assert told[-1] == ("comparing with the original", 1.0)


def test_what_was_undone_is_not_told_as_done(graph: Graph) -> None:
    record = CutRecord({}, {}, {}, {"w": (4, 8)})
    applied = PassRecord.of(Halve(), 3, 1)
    applied.status, applied.shrinks, applied.notes = "applied", (record,), ("w: 8 -> 4 channels",)
    result = PipelineResult(graph, [applied])
    assert result.shrinks == (record,)
    result.broken = BrokenPromise("halve", NumericClass.ROUNDING, "the result differs")
    assert result.shrinks == ()
    applied.withdraw()
    assert (applied.shrinks, applied.notes, applied.to_json()["cuts"]) == ((), (), [])


def test_a_lossy_pass_that_fails_warns(graph: Graph) -> None:
    with pytest.warns(GraphoptWarning, match="needs-data failed: needs-data needs calibration data"):
        result = graphopt.optimize(graph, [NeedsData()])
    assert "fix: pass calibration=loader" in str(result.report)
    with pytest.raises(PassError, match="needs-data raised needs-data needs calibration data"):
        PassManager([NeedsData()], strict=True).run(graph)
