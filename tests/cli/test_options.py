"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
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


GRAPH = "graph g(%x: f32[2,3]) {\n  %y: f32[2,3] = relu(%x)\n  return %y\n}\n"
MODULE = "import torch\n\ndef make():\n    return torch.nn.Linear(3, 2).eval(), (torch.randn(1, 3),)\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "w.safetensors"], "--weights is for modules, and 'g.gir' is a graph"),
        (["--shape", "x=4,3"], "--shape is for models that are captured now, and 'g' is a graph with sizes of its own"),
        (["--dynamic", "x:0=batch"], "--dynamic is for models that are captured now, and 'g' is a graph with sizes of its own"),
    ],
)
def test_options_of_capture_are_refused_for_a_graph(options: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "g.gir").write_text(GRAPH)
    done = run("show", "g.gir", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr


def test_shapes_may_have_a_dtype(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import torch\n\ndef make():\n    return torch.nn.Embedding(10, 4)\n")
    done = run("show", "net.py:make", "--shape", "input=2,3:int64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(%input: i64[2,3])" in done.stdout


def test_weights_of_a_function_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODULE)
    safetensors.torch.save_file({"weight": torch.full((2, 3), 7.0), "bias": torch.zeros(2)}, tmp_path / "w.safetensors")
    assert run("export", "net.py:make", "--weights", "w.safetensors", "-o", "out", cwd=tmp_path).returncode == 0
    saved = safetensors.torch.load_file(next((tmp_path / "out").glob("*.safetensors")))
    assert any(bool((tensor == 7).all()) for tensor in saved.values())
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:40])
    safetensors.torch.save_file({"weight": torch.zeros(5, 3), "bias": torch.zeros(2)}, tmp_path / "wide.safetensors")
    for name, reason in (("torn", "can't load torn.safetensors: "), ("wide", "size mismatch for weight")):
        done = run("show", "net.py:make", "--weights", f"{name}.safetensors", cwd=tmp_path)
        assert done.returncode == 2
        assert reason in done.stderr
        assert "fix: give the weights of that very model" in done.stderr
        assert "internal error" not in done.stderr
    done = run("show", "net.py:make", "--weights", "none.safetensors", cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no file none.safetensors" in done.stderr
