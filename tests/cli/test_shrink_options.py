"""`graphopt optimize --save-shrink`, and the file cut into another checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.rewrite.cut import load_records
from tests.cli.test_cli import run

MODEL = """
import torch

def make(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    return model.eval(), (torch.randn(2, 4),)

def other():
    return make(seed=1)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shrink")
    (path / "task.py").write_text(MODEL)
    return path


def test_a_shrink_is_saved_and_replayed_on_another_checkpoint(folder: Path) -> None:
    done = run("optimize", "task.py:make", "-p", "shrink-neurons{ratio=0.5}", "--save-shrink", "cuts.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "0: 16 -> 8 neurons" in done.stdout
    assert "1 cut saved to cuts.json" in done.stdout
    (record,) = load_records(folder / "cuts.json")
    assert dict(record.shapes) == {"0.weight": (16, 4), "0.bias": (16,), "2.weight": (3, 16)}
    done = run("optimize", "task.py:other", "-p", 'replay-shrink{path="cuts.json"}', "--strict", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "8 units of 1 group taken out as recorded in cuts.json" in done.stdout


def test_nothing_to_save_is_an_error(folder: Path) -> None:
    done = run("optimize", "task.py:make", "-p", "lossless", "--save-shrink", "none.json", cwd=folder)
    assert done.returncode != 0
    assert "nothing to do: " in done.stdout  # the report comes all the same
    wanted = "there is no shrink to save: no pass cut anything\n  fix: run a pass that is recorded, such as shrink-channels{ratio=0.5}"
    assert wanted in done.stderr
    assert not (folder / "none.json").exists()


def test_what_the_file_does_not_say_is_said(folder: Path) -> None:
    lost = 'factor-linear{ratio=0.1, only=("0",)}'
    done = run("optimize", "task.py:make", "-p", lost, "-p", "shrink-neurons{ratio=0.5}", "--save-shrink", "mixed.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    place = lines.index("1 cut saved to mixed.json")
    assert lines[place + 1] == (
        f"note: not in mixed.json: what {lost} changed, so run that too where the file is replayed, in the same order"
    )


def test_an_unrecorded_pass_alone_is_an_error(folder: Path) -> None:
    done = run("optimize", "task.py:make", "-p", "factor-linear{ratio=0.1}", "--save-shrink", "none.json", cwd=folder)
    assert done.returncode != 0
    assert "there is no shrink to save: what factor-linear{ratio=0.1} changed is not recorded" in done.stderr
    assert not (folder / "none.json").exists()
