"""Random networks for the CPU backend are valid, varied and always the same; merging, drawing, judging and batches that fail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.types import DType, TensorType
from graphopt.ops import builder, verify
from graphopt.pipeline.probes import random_inputs
from tools.check_cpu.__main__ import main
from tools.check_cpu.compare import Judge
from tools.check_cpu.convnets import convnet
from tools.check_cpu.encoders import encoder
from tools.check_cpu.merge import merge
from tools.check_cpu.networks import KINDS, make, schedule
from tools.check_cpu.pool import run_all
from tools.check_cpu.trial import Outcome, Settings, Trial


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_networks_are_valid_finite_and_repeatable(kind: str) -> None:
    for seed in range(6):
        graph = make(kind, seed)
        verify(graph)
        assert str(graph) == str(make(kind, seed))
        assert all(state.data is not None for state in graph.states.values())
        outputs = Interpreter(graph).run(*random_inputs(graph, seed=seed))
        if kind in ("convnet", "encoder"):
            assert all(bool(torch.isfinite(output).all()) for output in outputs)


def test_networks_hold_what_they_are_for() -> None:
    ops = Counter(node.op for seed in range(40) for graph in (convnet(seed), encoder(seed)) for node in graph.nodes)
    for op in (
        "conv2d",
        "concat",
        "add",
        "max_pool2d",
        "mean",
        "linear",
        "softmax",
        "layer_norm",
        "scaled_dot_product_attention",
        "embedding",
    ):
        assert ops[op], op
    convolutions = [node for seed in range(40) for node in convnet(seed).nodes if node.op == "conv2d"]
    for attribute in ("stride", "dilation", "groups"):
        assert len({str(node.attrs[attribute]) for node in convolutions}) > 1
    states = [state for seed in range(40) for state in convnet(seed).states.values()]
    annotated = [state for state in states if state.type.sparsity is not None]
    assert len({state.type.sparsity.pattern for state in annotated if state.type.sparsity}) == 3


def test_annotated_states_have_their_zeros() -> None:
    from graphopt.analysis.sparsity import sparsity

    found = [entry for seed in range(30) for entry in sparsity(convnet(seed)) if entry.holds is not None]
    assert found
    assert all(entry.holds for entry in found)


def test_schedule_mixes_kinds_and_counts_seeds_up() -> None:
    assert [seed for _, seed in schedule(5, 7)] == [7, 8, 9, 10, 11]
    assert {kind for kind, _ in schedule(20, 0)} == set(KINDS)
    assert schedule(2, 3, ("encoder",)) == [("encoder", 3), ("encoder", 4)]


def test_merged_networks_give_what_each_gives_alone() -> None:
    graphs = [make(kind, seed) for kind, seed in schedule(8, 0)]
    merged = merge(graphs)
    verify(merged.graph)
    given = [random_inputs(graph, seed=index) for index, graph in enumerate(graphs)]
    together = Interpreter(merged.graph).run(*[tensor for inputs in given for tensor in inputs])
    for graph, inputs, place in zip(graphs, given, merged.outputs, strict=True):
        alone = Interpreter(graph).run(*inputs)
        assert len(alone) == len(together[place])
        assert all(torch.equal(left.nan_to_num(), right.nan_to_num()) for left, right in zip(alone, together[place], strict=True))


def _judge(op: str) -> Judge:
    made = builder("net")
    x = made.input("x", TensorType(DType.f32, (3,)))
    made.outputs(made.add(op, made.add("mul", x, 3).result).result)
    return Judge(made.graph, (torch.tensor([1.0, 2.0, 0.3333333333]),))


def test_judge_takes_rounding_and_refuses_errors() -> None:
    judge = _judge("relu")
    (wanted,) = judge.eager
    assert judge.judge((wanted,), winograd=False)[1] == ""
    off = wanted * (1 + 5e-6)
    assert "output 0 is off by 3" in judge.judge((off,), winograd=False)[1]
    assert judge.judge((off,), winograd=True)[1] == ""
    assert judge.judge((wanted * (1 + 1e-4),), winograd=True)[1]
    assert judge.judge((torch.tensor([3.0, float("nan"), 1.0]),), winograd=False)[1]


def test_judge_forgives_a_decision_that_rounding_turns() -> None:
    judge = _judge("floor")
    assert judge.judge((torch.tensor([3.0, 6.0, 1.0]),), winograd=False)[1] == ""
    assert judge.judge((torch.tensor([3.0, 6.0, 0.0]),), winograd=False)[1] == ""
    assert judge.judge((torch.tensor([3.0, 20.0, 1.0]),), winograd=False)[1]


def test_a_batch_that_fails_is_cut_until_the_network_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Worker:
        is_usable = True

        def __init__(self, settings: Settings, variables: dict[str, str]) -> None:
            pass

        def run(self, trials: list[Trial], seconds: float) -> tuple[list[Outcome], str]:
            return ([], "died") if ("ops", 5) in trials else ([Outcome(steps=seed) for _, seed in trials], "")

        def close(self) -> None:
            pass

    monkeypatch.setattr("tools.check_cpu.pool._Worker", Worker)
    found: dict[Trial, Outcome] = {}
    trials = [("ops", seed) for seed in range(11)]
    run_all(trials, Settings(), batch=4, jobs=3, seconds=1.0, report=found.__setitem__)
    assert sorted(found) == trials
    assert {trial: outcome.failure for trial, outcome in found.items() if outcome.failure} == {("ops", 5): "died"}


def test_an_exception_in_a_thread_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Worker:
        def __init__(self, settings: Settings, variables: dict[str, str]) -> None:
            raise OSError("no processes left")

    monkeypatch.setattr("tools.check_cpu.pool._Worker", Worker)
    with pytest.raises(OSError, match="no processes left"):
        run_all([("ops", 0)] * 9, Settings(), batch=2, jobs=2, seconds=1.0, report=lambda trial, outcome: None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "need positive numbers"),
        (["--threads", "1,0"], "need positive numbers"),
        (["--per-layer", "no-such-model"], "no-such-model"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*arguments, "--folder", str(tmp_path)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
