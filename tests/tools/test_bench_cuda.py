"""The GPU benchmark: its page from records, its roofline, and one clear error without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import graphopt
from graphopt.backends.cuda.device import has_device
from tools.bench_cuda.__main__ import main, make_ready
from tools.bench_cuda.arms import CHANGED, Ready
from tools.bench_cuda.records import Record, read, write
from tools.bench_cuda.roofline import Ceilings, least_bytes, least_seconds
from tools.bench_cuda.table import page

RECORD = Record(
    "net", 1, "float16", {"ours": [1.0, 1.0, 2.0], "eager": [2.0, 3.0, 4.0]}, {"ours": 1e-3}, {"compile": "RuntimeError: no"}, {}, 0.5e-3
)


def test_a_page_of_records(tmp_path: Path) -> None:
    write(tmp_path, RECORD)
    text = page(read(tmp_path))
    assert "| net | 1.00 (1.00–1.50) 1e-03 | 3.00 (2.50–3.50) | - | - | - | - | - | - | **2.00** (2.00–2.50) eager | 50% |" in text
    assert "Geometric mean of the ratios 2.00, least 2.00, of 1 networks." in text
    assert "- net-batch1-float16, compile: RuntimeError: no" in text


def test_the_roofline_is_the_longer_of_computing_and_moving() -> None:
    graph = graphopt.parse("graph f(%x: f32[64]) {\n  %y: f32[64] = exp(%x)\n  return %y\n}\n")
    assert least_seconds(graph, Ceilings(flops=1.0, bytes=1e9), 4) == pytest.approx(64)
    assert least_seconds(graph, Ceilings(flops=1e9, bytes=1.0), 4) == pytest.approx(2 * 64 * 4)
    assert least_seconds(graph, Ceilings(flops=1e9, bytes=1.0), 2) == pytest.approx(2 * 64 * 2)


def test_what_fused_code_keeps_in_registers_does_not_count() -> None:
    text = """\
graph f(%x: f32[64,8]) {
  param %weight: f32[16,8]
  param %unread: f32[1000]
  %a: f32[64,16] = linear(%x, %weight, none)
  %b: f32[64,16] = exp(%a)
  %c: f32[64,16] = add(%b, %b)
  return %c
}
"""
    assert least_bytes(graphopt.parse(text), 2) == 2 * (64 * 8 + 16 * 8 + 64 * 16)
    operations = 2 * 64 * 16 * 8 + 2 * 64 * 16
    assert least_seconds(graphopt.parse(text), Ceilings(flops=1.0, bytes=1e9), 4) == pytest.approx(operations)


def test_of_a_table_the_rows_that_are_picked_count() -> None:
    text = """\
graph f(%at: i64[3]) {
  param %table: f32[1000,8]
  %a: f32[3,8] = embedding(%table, %at) {padding_idx=none}
  return %a
}
"""
    least = 3 * 8 + 2 * 3 * 8 * 4
    assert least <= least_bytes(graphopt.parse(text), 4) <= least + 3 * 8, "indices, rows read, rows written"


def test_arms_are_warmed_up_after_the_last_one_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reset of torch.compile between two arms would have the first compile again while it is timed."""
    log: list[str] = []

    def make_arm(arm: str) -> Ready:
        log.append(f"make {arm}")
        if arm == "broken":
            raise RuntimeError("no such kernel\nmore of it")

        def run() -> None:
            log.append(f"run {arm}")
            if arm == "late" and log.count("run late") > 1:
                raise ValueError("out of memory")

        return Ready(run, list)

    monkeypatch.setattr(torch.compiler, "reset", lambda: log.append("reset"))
    ready, failures = make_ready(["ours", "broken", "late", "compile"], make_arm)
    assert log[:5] == ["reset", "make ours", "make broken", "make late", "make compile"]
    assert set(log[5:]) == {"run ours", "run late", "run compile"}
    assert log.count("run ours") == log.count("run compile") > 1
    assert list(ready) == ["ours", "compile"]
    assert failures == {"broken": "RuntimeError: no such kernel", "late": "ValueError: out of memory"}


@pytest.mark.skipif(has_device(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "no CUDA device is available" in capsys.readouterr().out


def test_unknown_names_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dtypes", "float8"]) == 2
    assert "'float8' is no dtype: use float32, tf32, float16, bfloat16" in capsys.readouterr().out


@pytest.mark.parametrize("change", CHANGED.values(), ids=list(CHANGED))
def test_passes_of_the_changed_arms_change_a_network(change: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(128, 128) for _ in range(4))).eval()
    graph = graphopt.optimize(model, [change], example_inputs=(torch.randn(2, 128),), check="off").graph
    types = [state.type for state in graph.states.values() if state.type.rank == 2]
    assert any(type_.sparsity is not None or type_.shape != (128, 128) for type_ in types)
