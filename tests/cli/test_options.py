"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graphopt.cli.options import thread_options
from tests.cli.test_cli import run


@pytest.mark.parametrize("target", ["onnxruntime", "cpu"])
def test_backends_with_threads_of_their_own_are_told(target: str) -> None:
    assert thread_options(3, target) == {"threads": 3}
    assert thread_options(0, target) == {}


@pytest.mark.parametrize("target", ["torch", "reference"])
def test_the_others_use_those_of_torch(target: str) -> None:
    before = torch.get_num_threads()
    try:
        assert thread_options(before + 1, target) == {}
        assert torch.get_num_threads() == before + 1
        assert thread_options(0, target) == {}
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-t", "torch", "--threads", "2"], "--threads is an option of the targets cpu and onnxruntime"),
        (["-t", "cuda", "--threads", "2"], "--threads is an option of the targets cpu and onnxruntime"),
        (["--threads", "2"], "--threads is an option of the targets cpu and onnxruntime"),
        (["-t", "onnxruntime", "--no-measure"], "--no-measure is an option of the targets cpu and cuda"),
        (["-t", "cpu", "--name", "net"], "--name is an option of --standalone"),
    ],
)
def test_export_refuses_options_that_would_do_nothing(options: list[str], message: str, tmp_path: Path) -> None:
    done = run("export", "torchvision:resnet18", "-o", "out", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr
    assert "fix: " in done.stderr
    assert not (tmp_path / "out").exists()
