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
    assert "1 cuts saved to cuts.json" in done.stdout
    (record,) = load_records(folder / "cuts.json")
    assert dict(record.shapes) == {"0.weight": (16, 4), "0.bias": (16,), "2.weight": (3, 16)}
    done = run("optimize", "task.py:other", "-p", 'replay-shrink{path="cuts.json"}', "--strict", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "8 units of 1 groups taken out as recorded in cuts.json" in done.stdout


def test_nothing_to_save_is_an_error(folder: Path) -> None:
    done = run("optimize", "task.py:make", "-p", "lossless", "--save-shrink", "none.json", cwd=folder)
    assert done.returncode != 0
    assert "nothing to do: " in done.stdout  # the report comes all the same
    assert "--save-shrink has nothing to write: no pass cut anything\n  fix: add -p 'shrink-channels{ratio=0.5}'" in done.stderr
    assert not (folder / "none.json").exists()
