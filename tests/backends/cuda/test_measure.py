"""Choosing between ways to run a group: each way is a program of its own that can be timed, and what was chosen can be chosen again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

import graphopt
from graphopt.backends.cuda.kernels.block_sparse import BlockSparse
from graphopt.backends.cuda.lowering import plan_graph
from graphopt.backends.cuda.options import CudaOptions
from graphopt.backends.cuda.plan import Plan
from graphopt.backends.cuda.planner.choice import Way
from graphopt.backends.cuda.planner.measure import Replay, alone, best_of, canonical_text, measured_choice, memory_of
from graphopt.backends.timing_cache import TimingCache
from tests.backends.cuda.running import ways_of

GRAPH = """\
graph linear_gelu(%x: f32[4,24]) {
  param %weight: f32[16,24]
  param %bias: f32[16]
  %a: f32[4,16] = linear(%x, %weight, %bias)
  %b: f32[4,16] = relu(%a)
  return %b
}
"""


def test_a_library_call_and_a_kernel_are_offered() -> None:
    (ways,) = ways_of(GRAPH, CudaOptions())
    assert [way.name for way in ways] == ["linear", "gemm"]
    assert [[work.algorithm for work in way.works] for way in ways] == [["library", "elementwise"], ["gemm"]]


def test_each_way_runs_and_is_timed_once(tmp_path: Path) -> None:
    options = CudaOptions(device="cpu")
    cache = TimingCache(tmp_path / "timings.json")
    choose = measured_choice(options, cache)
    (ways,) = ways_of(GRAPH, options)
    number, reason = choose(ways)
    assert reason.startswith("measured ")
    kept = (tmp_path / "timings.json").read_text()
    assert choose(ways) == (number, reason), "the second time nothing is measured"
    assert (tmp_path / "timings.json").read_text() == kept


def test_a_way_that_fails_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, tried = CudaOptions(device="cpu"), list[list[str]]()

    def seconds_of(plan: Plan, *others: object) -> Callable[[int], float]:
        tried.append([step.work.algorithm for step in plan.steps])
        if tried[-1] == ["gemm"]:
            raise RuntimeError("no such instruction")
        return lambda count: 2e-6

    monkeypatch.setattr("graphopt.backends.cuda.planner.measure.seconds_of", seconds_of)
    (ways,) = ways_of(GRAPH, options)
    for _ in range(2):  # the second from the file
        assert measured_choice(options, TimingCache(tmp_path / "timings.json"))(ways) == (0, "measured 2.0 us; gemm fails here")
    assert tried == [["library", "elementwise"], ["gemm"]]


@pytest.mark.parametrize("error", [RuntimeError("no driver\nmore"), torch.OutOfMemoryError("no driver")])
def test_what_may_run_another_time_is_tried_again(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds_of(*others: object) -> Callable[[int], float]:
        raise error

    options, cache = CudaOptions(device="cpu"), TimingCache(tmp_path / "timings.json")
    (ways,) = ways_of(GRAPH, options)
    with monkeypatch.context() as patched:
        patched.setattr("graphopt.backends.cuda.planner.measure.seconds_of", seconds_of)
        assert measured_choice(options, cache)(ways) == (0, f"no way could be timed: {type(error).__name__}: no driver")
    assert measured_choice(options, cache)(ways)[1].startswith("measured ")


def test_equal_work_has_equal_text() -> None:
    assert canonical_text("t3 = f(s7, b1); g(t3)") == canonical_text("t0 = f(s1, b9); g(t0)") == "buffer0 = f(buffer1, buffer2); g(buffer0)"


def test_a_way_is_a_plan_of_its_own() -> None:
    (ways,) = ways_of(GRAPH, CudaOptions())
    plan = alone(ways[0], CudaOptions())
    assert [step.work.algorithm for step in plan.steps] == ["library", "elementwise"]
    assert {buffer.kind for buffer in plan.buffers.values()} == {"state", "torch"}


def test_a_way_that_fails_is_out() -> None:
    assert best_of([None, lambda count: 0.5]) == [float("inf"), 0.5]


def test_choices_are_taken_again() -> None:
    graph, options = graphopt.parse(GRAPH), CudaOptions()
    program = plan_graph(graph, {}, options, lambda ways: (len(ways) - 1, "the last"))
    assert program.chosen == ("gemm",)
    replay = Replay(program.chosen)
    assert plan_graph(graph, {}, options, replay).source == program.source
    assert replay.fits
    other = Replay(("something else",))
    assert plan_graph(graph, {}, options, other).chosen == ("linear",)
    assert not other.fits


def test_blocks_are_timed_with_the_pattern_that_they_have() -> None:
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Linear(64, 64)).eval(), torch.randn(4, 64)
    passes = ["sparsify-block{block=(16, 16), ratio=0.5, dense_ends=false}"]
    graph = graphopt.optimize(model, passes, example_inputs=(x,)).graph
    asked: list[Way] = []

    def note(ways: Sequence[Way]) -> tuple[int, str]:
        asked.extend(ways)
        return 0, ""

    plan_graph(graph, {}, CudaOptions(), note)
    (way,) = (way for way in asked if way.name == "block sparse")
    (work,) = way.works
    assert isinstance(work, BlockSparse)
    memory = memory_of(alone(way, CudaOptions()), torch.device("cpu"), way.patterns())
    assert memory[work.rows.buffer].tolist()[-1] == 8, "half of the 16 blocks stay"
    assert memory[work.columns.buffer].unique().numel() > 1
