"""The benchmark's pure parts: names, statistics, which rounds count, files, the page, marking of sparse weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from graphopt.ir.types import DType, SparsityPattern, TensorType
from graphopt.ops import builder, verify
from tools.bench_cpu import models
from tools.bench_cpu.__main__ import main
from tools.bench_cpu.arms import OURS, PEERS
from tools.bench_cpu.errors import relative_to_largest
from tools.bench_cpu.prepare import mark_sparse
from tools.bench_cpu.records import ArmRecord, Case, Round, Session, append, newest, quartiles, read
from tools.bench_cpu.table import cases, figure, page, summary, time_cell
from tools.check_cpu.per_layer import Layers, StepTime, by_algorithm

CASE = Case("resnet50", 1, 2)
ARMS = {arm: ArmRecord("1.0", "", 0.5, 3e-7) for arm in (OURS, *PEERS)}
TIMES = {OURS: 10.0, "onnxruntime": 20.0, "openvino": 18.0, "torch.compile": 25.0, "eager": 40.0}


def session(rounds: list[Round], arms: dict[str, ArmRecord] = ARMS, case: Case = CASE) -> Session:
    return Session(case, arms, rounds, {"cpu": "Test CPU"}, "2025-01-02T03:04:05+00:00")


def rounds(count: int, canary: float = 4.0, others: float = 0.0, **times: float) -> list[Round]:
    return [Round((canary, canary), TIMES | times, others) for _ in range(count)]


def test_names_say_how_sparse() -> None:
    assert models.spec("resnet50") == models.Spec("resnet50", "resnet50", 0.0)
    assert models.spec("bert-sparse80") == models.Spec("bert-sparse80", "bert", 0.8)
    for name in ("bert-sparse", "bert-sparse0", "bert-sparse100", "bert-sparse-5"):
        with pytest.raises(ValueError, match="needs a percentage from 1 to 99"):
            models.spec(name)


def test_quartiles() -> None:
    assert (quartiles([3.0]).lower, quartiles([3.0]).upper) == (3.0, 3.0)
    found = quartiles([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (found.lower, found.median, found.upper, found.least) == (2.0, 3.0, 4.0, 1.0)


def test_rounds_in_which_the_canary_moved_do_not_count() -> None:
    slow = Round((4.0, 5.0), TIMES | {OURS: 100.0})
    taken = session([*rounds(4), slow])
    assert len(taken.quiet) == 4
    assert not taken.is_noisy
    times = taken.times(OURS)
    assert times is not None
    assert times.upper == 10.0


def test_rounds_with_other_processes_do_not_count() -> None:
    taken = session([*rounds(3), *rounds(2, others=0.9, **{OURS: 50.0})])
    assert len(taken.quiet) == 3
    assert [entry.times[OURS] for entry in taken.counted] == [10.0] * 3


def test_a_session_without_three_quiet_rounds_is_marked_and_uses_all() -> None:
    taken = session(rounds(5, others=1.0))
    assert taken.is_noisy
    assert len(taken.counted) == 5
    assert "rounds 0/5!" in summary(taken)


def test_ratio_is_of_the_best_peer_per_round() -> None:
    taken = session([Round((4.0, 4.0), TIMES | {OURS: 10.0 + shift, "openvino": 18.0 + shift}) for shift in (0.0, 1.0, 2.0)])
    assert taken.best(PEERS) == "openvino"
    ratio = taken.ratio("openvino", OURS)
    assert ratio is not None
    assert ratio.median == pytest.approx(19 / 11)
    assert taken.ratio("openvino", "nobody") is None


def test_results_are_added_and_the_newest_that_fits_is_found(tmp_path: Path) -> None:
    only_peers = session(rounds(3), {arm: ARMS[arm] for arm in PEERS})
    append(tmp_path, session(rounds(3)))
    append(tmp_path, only_peers)
    assert read(tmp_path / "resnet50-batch1-threads2.json") == [session(rounds(3)), only_peers]
    assert newest(tmp_path, CASE, PEERS) == only_peers
    assert newest(tmp_path, CASE, (OURS,)) == session(rounds(3))
    assert newest(tmp_path, CASE, ("openvino-int8",)) is None
    assert newest(tmp_path, Case("vgg16", 1, 2), PEERS) is None


def test_results_of_another_format_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "resnet50-batch1-threads2.json"
    file.write_text('{"format": 0, "sessions": []}')
    with pytest.raises(ValueError, match="is of format 0, this reads 1"):
        read(file)


def test_page(tmp_path: Path) -> None:
    results = tmp_path / "results"
    failed = ARMS | {"torch.compile": ArmRecord(failure="no compiler")}
    append(results, session([Round((4.0, 4.0), {arm: ms for arm, ms in TIMES.items() if arm != "torch.compile"})] * 3, failed))
    append(results, session(rounds(3), case=Case("my_net", 8, 1)))
    text = page(results, "benchmarks-cpu.svg")
    assert "| resnet50 | 10.00 (10.00–10.00) 3e-07 | 20.0 (20.0–20.0) 3e-07 | 18.00 (18.00–18.00) 3e-07 | - |" in text
    assert "| **1.80** (1.80–1.80) openvino | 1.15 / 1.3 | 3/3 |" in text
    assert "## Batch 8, 1 thread\n\n    python -m tools.bench_cpu --batch 8 --threads 1\n" in text
    assert "- torch.compile, resnet50, batch 1, 2 threads: no compiler" in text
    assert "Geometric mean of the ratios: 1.80 over 1 models." in text
    assert "](benchmarks-cpu.svg)" in text
    assert "- cpu Test CPU\n" in text
    assert [case.model for case in cases(results)] == ["resnet50", "my_net"]


def test_figures_keep_three_digits() -> None:
    assert [figure(value) for value in (0.123, 9.876, 56.78, 345.6)] == ["0.12", "9.88", "56.8", "346"]
    assert time_cell(session([]), OURS) == "-"


def test_error_is_relative_to_the_largest_value() -> None:
    wanted = [np.array([1.0, -8.0]), np.array([0.5])]
    assert relative_to_largest([np.array([1.0, -8.0]), np.array([0.5])], wanted) == 0.0
    assert relative_to_largest([np.array([1.4, -8.0]), np.array([0.5])], wanted) == pytest.approx(0.05)
    assert relative_to_largest([np.array([1.0, np.nan]), np.array([0.5])], wanted) == float("inf")
    assert relative_to_largest([np.array([1.0, -8.0])], wanted) == float("inf")
    assert relative_to_largest([np.array([np.nan])], [np.array([np.nan])]) == 0.0


def test_sparse_weights_are_marked_and_the_graph_stays_valid() -> None:
    made = builder("net")
    x = made.input("x", TensorType(DType.f32, (1, 4)))
    numbers = {"half": torch.tensor([[1.0, 0.0], [0.0, 2.0]]).repeat(2, 2), "dense": torch.ones(4, 4), "bias": torch.zeros(4)}
    states = {name: made.state(name, TensorType(DType.f32, tuple(tensor.shape)), tensor) for name, tensor in numbers.items()}
    y = made.add("linear", x, states["half"], states["bias"]).result
    made.outputs(made.add("linear", y, states["dense"], None).result)
    assert mark_sparse(made.graph) == ["half"]
    verify(made.graph)
    (marked,) = [state for state in made.graph.states.values() if state.type.sparsity is not None]
    assert marked.type.sparsity is not None
    assert (marked.type.sparsity.pattern, marked.type.sparsity.ratio) == (SparsityPattern.UNSTRUCTURED, 0.5)
    assert marked.data is not None
    assert torch.equal(marked.data.tensor(), numbers["half"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "no_such_net"], "'no_such_net' is no model: use vgg16, resnet18"),
        (["--models", "resnet50-sparse100"], "needs a percentage from 1 to 99"),
        (["--arms", "ours,tensorrt"], "'tensorrt' is no arm: use ours, onnxruntime"),
        (["--models", "resnet50", "--threads", "0"], "--threads is '0', needs positive numbers by commas"),
        (["--models", "resnet50", "--batch", "1,x"], "--batch is '1,x', needs positive numbers"),
        (["--models", "resnet50", "--threads", "4096"], "4096 threads need as many cores"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_page_only_measures_nothing(tmp_path: Path) -> None:
    append(tmp_path / "results", session(rounds(3)))
    file = tmp_path / "page.md"
    assert main(["--root", str(tmp_path), "--page-only", "--page", str(file)]) == 0
    assert "**1.80**" in file.read_text(encoding="utf-8")
    assert (tmp_path / "page.svg").is_file()


def test_steps_are_summed_by_algorithm() -> None:
    steps = (StepTime("direct conv a", 0.002, 100), StepTime("copy b", 0.001, 0), StepTime("direct conv c", 0.003, 50))
    assert by_algorithm(Layers("net", 1, "native", 1e9, 0.006, steps).steps) == [("direct", 2, 0.005, 150), ("copy", 1, 0.001, 0)]
