"""What `tools.check_cuda` makes of verdicts: tables, a page, a file to go on from; and what it says where there is no GPU."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from graphopt.errors import BackendError, UsageError
from tools.check_cuda.__main__ import main
from tools.check_cuda.compiling import Compiled, compile_all
from tools.check_cuda.networks import Outcome, code_digest, read_outcomes, run_networks
from tools.check_cuda.page import matrix, networks, resources, write_section
from tools.check_cuda.resources import Resources


def test_matrix_has_a_row_for_each_family() -> None:
    verdicts = [
        ("gemm", "5x7x3", "float32", 1e-7, ""),
        ("gemm", "9x9x9", "float32", 0.0, "off by 1"),
        ("gemm", "half", "float16", 5e-4, ""),
        ("pool", "max", "float32", 0.0, ""),
    ]
    compiled = [Compiled("gemm", "a", 80, Resources(32, 0, 0)), Compiled("gemm", "a", 90, None, "CompilationError: no")]
    assert matrix(verdicts, compiled).splitlines()[2:] == [
        "| gemm | 3 | 1 | 1.0e-07 | 5.0e-04 |  |  | 1 of 1 | 0 of 1 |",
        "| pool | 1 | 0 | 0.0e+00 |  |  |  | 0 of 0 | 0 of 0 |",
    ]


def test_resources_tell_the_launch_with_most_registers() -> None:
    compiled = [
        Compiled("concat", "DenseNet", 80, Resources(16, 0, 0)),
        Compiled("concat", "DenseNet", 80, Resources(24, 8, 2048)),
        Compiled("concat", "DenseNet", 90, None, "CompilationError: no"),
    ]
    assert resources(compiled).splitlines()[2:] == ["| concat | DenseNet | 24 | 8 | 2.0 | failed |  |  |"]


def test_networks_are_counted_by_kind() -> None:
    outcomes = [Outcome("ops", 1, "", ("gemm",), (), 1e-6), Outcome("ops", 2, "output 0 is off", ("pool",), (), 0.5)]
    assert networks(outcomes).splitlines()[2:] == ["| ops | 2 | 1 | 1.0e-06 | gemm, pool |"]


def test_section_of_a_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- matrix -->\nold\n<!-- /matrix -->\nb\n")
    write_section(page, "matrix", "new")
    assert page.read_text() == "a\n<!-- matrix -->\nnew\n<!-- /matrix -->\nb\n"
    with pytest.raises(UsageError, match=r"page\.md has no section between <!-- networks -->"):
        write_section(page, "networks", "new")


def test_a_network_that_took_the_process_with_it_has_failed(tmp_path: Path) -> None:
    file = tmp_path / "networks.jsonl"
    code = code_digest()
    done = Outcome("ops", 3, "", ("elementwise",), (), 1e-7, code)
    lines = [{"started": ["ops", 3], "code": code}, asdict(done), {"started": ["convnet", 4], "code": code}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_outcomes(file) == [done, Outcome("convnet", 4, "the process ended while it ran", code=code)]
    seen: list[Outcome] = []
    assert run_networks([("ops", 3)], file, seen.append) == seen == [done]


def test_verdicts_on_other_code_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "networks.jsonl"
    old = Outcome("ops", 2, "output 0 is off", code="of other sources")
    unnamed = {key: value for key, value in asdict(replace(old, seed=3)).items() if key != "code"}
    file.write_text("".join(json.dumps(line) + "\n" for line in (asdict(old), unnamed, {"started": ["ops", 4]})))
    seen: list[Outcome] = []
    (found,) = run_networks([("ops", 2)], file, seen.append)
    assert (found.failure, found.code) == ("", code_digest())
    assert seen == [found]
    assert [(outcome.seed, outcome.code) for outcome in read_outcomes(file)] == [(2, code_digest()), (3, ""), (4, "")]


def test_a_changed_source_is_other_code(tmp_path: Path) -> None:
    source = tmp_path / "graphopt" / "backends" / "cuda" / "kernels" / "gemm.py"
    source.parent.mkdir(parents=True)
    source.write_text("a = 1\n")
    first = code_digest(tmp_path)
    assert code_digest(tmp_path) == first
    source.write_text("a = 2\n")
    second = code_digest(tmp_path)
    source.rename(source.with_name("pool.py"))
    assert len({first, second, code_digest(tmp_path)}) == 3


def test_a_random_network_agrees_in_the_interpreter(tmp_path: Path) -> None:
    (outcome,) = run_networks([("ops", 2)], tmp_path / "networks.jsonl", lambda outcome: None)
    assert outcome.failure == ""


def test_compiling_in_a_process_that_interprets_is_an_error() -> None:
    with pytest.raises(BackendError, match="this process interprets Triton"):
        next(compile_all([]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_is_asked_for_where_there_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert main(["--gpu"]) == 2
    assert "there is no GPU that torch can use" in capsys.readouterr().err


def test_compute_sanitizer_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("PATH", "")
    assert main(["--compute-sanitizer", "memcheck"]) == 2
    assert "compute-sanitizer is not on the PATH" in capsys.readouterr().err
