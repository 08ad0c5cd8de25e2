"""`graphopt optimize` with the user's data, metric and budget from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import run

MODEL = """
import torch

def make():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3), torch.nn.Flatten())
    return model.eval(), (torch.randn(2, 3, 6, 6),)

def data():
    return [torch.randn(4, 3, 6, 6) for _ in range(2)]

def broken_data():
    raise OSError("no such disk")

def channels(module):
    return float(sum(p.numel() for p in module.parameters()))

def half(module):
    return 0.5
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quality")
    (path / "task.py").write_text(MODEL)
    return path


def test_metric_and_budget_weaken_a_pass_and_are_printed(folder: Path) -> None:
    options = ["--metric", "task.py:channels", "--calibration", "task.py:data", "--metric-drop", "300"]
    done = run("optimize", "task.py:make", "-p", "shrink-channels{ratio=0.5}", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "shrink-channels{ratio=0.5}: metric 532, drop 528: not kept, 300 allowed" in done.stdout
    assert "shrink-channels{ratio=0.25}: metric 796, drop 264: holds" in done.stdout
    assert "shrink-channels{ratio=0.2812}: metric 796, drop 264: kept" in done.stdout
    assert "metric: 1060 -> 796, drop 264, 300 allowed" in done.stdout
    assert "calibration batches of 4 rows were cut into 2 of 2" in done.stdout
    document = json.loads(run("optimize", "task.py:make", "-p", "shrink-channels{ratio=0.5}", *options, "--json", cwd=folder).stdout)
    assert document["quality"] == {"metric": {"before": 1060.0, "after": 796.0}, "drop": 264.0, "allowed_drop": 300.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metric-drop", "0.1"], "--metric-drop needs a metric to hold it against"),
        (["--metric", "task.py:halve"], "--metric: task.py has no function 'halve'\n  fix: near names: half"),
        (["--metric", "task.py"], "--metric 'task.py' names no function"),
        (["--metric", "nowhere.at_all:f"], "--metric: module 'nowhere.at_all' can't be imported"),
        (["--metric", "other.py:f"], "there is no file other.py"),
        (["--calibration", "task.py:broken_data"], "--calibration: task.py:broken_data() raised OSError: no such disk"),
        (["--calibration", "task.py:half"], "--calibration: task.py:half() raised TypeError"),
    ],
)
def test_what_is_said_about_wrong_options(folder: Path, options: list[str], message: str) -> None:
    done = run("optimize", "task.py:make", *options, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_help_has_the_options(folder: Path) -> None:
    done = run("optimize", "--help", cwd=folder)
    for option in ("--calibration", "--metric", "--metric-drop"):
        assert option in done.stdout


def test_a_lossy_pass_that_fails_is_an_error_and_what_was_saved_is_named(folder: Path) -> None:
    done = run("optimize", "task.py:make", "-p", "sparsify-wanda", "-o", "without", cwd=folder)
    assert done.returncode == 2
    assert "sparsify-wanda  lossy  failed" in done.stdout
    assert (
        "error: sparsify-wanda failed: sparsify-wanda needs calibration data and there is none; what was saved to without is" in done.stderr
    )
    assert "fix: give data with --calibration FILE.py:FUNCTION" in done.stderr
    assert (folder / "without").is_dir()


@pytest.mark.parametrize("verb", [("export", "-o", "nothing"), ("bench",), ("show",)])
def test_no_verb_goes_on_with_a_model_that_was_not_asked_for(folder: Path, verb: tuple[str, ...]) -> None:
    done = run(verb[0], "task.py:make", *verb[1:], "-p", "sparsify-wanda", cwd=folder)
    assert done.returncode == 2
    assert "error: sparsify-wanda failed: sparsify-wanda needs calibration data and there is none" in done.stderr
    assert "--calibration FILE.py:FUNCTION" in done.stderr
    assert not done.stdout
    assert not (folder / "nothing").exists()
