"""The `graphopt` command: what each verb prints and writes, and what it says to bad input."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from graphopt.cli import main

MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, image):
        return self.head(torch.relu(self.norm(self.conv(image))).mean((2, 3)))

def make():
    torch.manual_seed(0)
    return Net(), (torch.randn(2, 3, 8, 8),)

def wrong():
    return 3

def without_inputs():
    return Net()
"""


@dataclass
class Done:
    """What a run of the command left behind."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str | Path, cwd: Path) -> Done:
    """The command in this process, which has torch loaded already."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return Done(int(left.value.code or 0), out.getvalue(), err.getvalue())


def run_process(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command as a shell would start it."""
    code = "import sys; from graphopt.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    (path / "net.py").write_text(MODEL)
    done = run_process("optimize", "net.py:make", "--output", "net", cwd=path)
    assert done.returncode == 0, done.stderr
    return path


def test_optimize_prints_the_report_and_saves(folder: Path) -> None:
    done = run("optimize", "net.py:make", "-p", "fold-batch-norm", "--output", "again", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "fold-batch-norm" in done.stdout
    assert "saved to again" in done.stdout
    assert (folder / "again" / "graph.gir").is_file()


def test_optimize_json_is_one_document(folder: Path) -> None:
    done = run("optimize", "net.py:make", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["model"] == "net.py:make"


def test_optimize_lowers_and_measures(folder: Path) -> None:
    done = run("optimize", "net.py:make", "--target", "onnxruntime", "--bench", "--rounds", "3", "-o", "ort", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "before" in done.stdout
    assert "ms" in done.stdout
    assert list((folder / "ort").glob("*.onnx"))


def test_show_prints_text_that_parses_back(folder: Path) -> None:
    from graphopt.ir.parser import parse
    from graphopt.ir.printer import show

    done = run("show", "net.py:make", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert show(parse(done.stdout)) == done.stdout


def test_show_filters_counts_and_costs(folder: Path) -> None:
    assert run("show", "net", "--op", "conv*", cwd=folder).stdout.count("\n") == 1
    counts = json.loads(run("show", "net.py:make", "--ops", "--json", cwd=folder).stdout)
    assert counts["batch_norm"] == 1
    cost = json.loads(run("show", "net", "--cost", "--json", cwd=folder).stdout)
    conv = next(row for row in cost["nodes"] if row["op"] == "conv2d")
    # 2 images x 8 channels x 8x8 pixels x 27 multiply-adds of 2 operations; biases are not counted, as in torch
    assert conv["flops"] == 2 * 8 * 64 * 27 * 2
    assert "conv2d" in run("show", "net", "--cost", cwd=folder).stdout


def test_show_groups_lists_members_reasons_and_what_is_fixed(folder: Path) -> None:
    text = run("show", "net.py:make", "--groups", cwd=folder).stdout
    assert text.startswith("1 axis group of make\ngroup conv  8 channel units\n")
    assert "%head.weight        axis 1  read     columns of linear %head" in text
    assert "%head.weight  axis 0  it is an axis of the output %head" in text
    document = json.loads(run("show", "net.py:make", "--groups", "--json", cwd=folder).stdout)
    assert [(group["name"], group["kind"], group["size"]) for group in document["groups"]] == [("conv", "channel", 8)]
    kept = run("show", "net.py:make", "--groups", "--exclude", "conv", cwd=folder).stdout
    assert "%conv.weight axis 0 excluded by 'conv'" in " ".join(kept.split())
    none = run("show", "net.py:make", "--groups", "--name", "head*", cwd=folder)
    assert none.returncode == 2
    assert "its groups are conv" in none.stderr


def test_show_says_what_ops_there_are_when_nothing_matches(folder: Path) -> None:
    done = run("show", "net", "--op", "lstm", cwd=folder)
    assert done.returncode == 2
    assert "no node of" in done.stderr
    assert "conv2d" in done.stderr


def test_diff_tells_and_exits_with_one(folder: Path) -> None:
    same = run("diff", "net", "net", cwd=folder)
    assert same.returncode == 0
    other = run("diff", "net.py:make", "net", cwd=folder)
    assert other.returncode == 1
    assert "batch_norm" in other.stdout


def test_passes_lists_and_explains(folder: Path) -> None:
    listed = json.loads(run("passes", "--json", cwd=folder).stdout)
    by_name = {row["name"]: row for row in listed}
    assert by_name["fold-batch-norm"]["class"] == "rounding"
    assert by_name["fold-batch-norm"]["stage"] == "deploy"
    assert by_name["lossless"]["class"] == "preset"
    explained = run("passes", "fold-constants", cwd=folder)
    assert "max_bytes" in explained.stdout


def test_unknown_pass_lists_near_names(folder: Path) -> None:
    done = run("optimize", "net.py:make", "-p", "fold-batchnorm", cwd=folder)
    assert done.returncode == 2
    assert "fold-batch-norm" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_passes_good_and_names_damage(folder: Path) -> None:
    good = run("check", "net", cwd=folder)
    assert good.returncode == 0
    assert "ok" in good.stdout
    damaged = folder / "damaged"
    damaged.mkdir()
    for file in (folder / "net").iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    weights = damaged / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    bad = run("check", "damaged", cwd=folder)
    assert bad.returncode == 2
    assert "weights.safetensors" in bad.stderr
    assert "Traceback" not in bad.stderr


@pytest.mark.parametrize("kind", ["graph", "python", "onnx"])
def test_export_writes_each_format(folder: Path, kind: str) -> None:
    target = f"exported_{kind}" + (".onnx" if kind == "onnx" else "")
    done = run("export", "net.py:make", "-f", kind, "-o", target, "-p", "lossless", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / target).exists()


def test_bench_compares_backends(folder: Path) -> None:
    done = run("bench", "net.py:make", "-t", "torch", "-t", "reference", "--rounds", "3", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["variants"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "nonsense"), "no model that I know"),
        (("show", "torchvision:resnet19"), "near names: resnet1"),
        (("show", "timm:levit_128x"), "levit_128"),
        (("show", "transformers:BertForNothing"), "no model class"),
        (("show", "net.py:absent"), "has no function 'absent'"),
        (("show", "net.py:wrong"), "returned a int"),
        (("show", "net.py:without_inputs"), "example"),
        (("show", "missing.py:make"), "there is no file missing.py\n  fix: give an absolute path, or one from the current folder"),
        (("show", "missing.gir"), "fix: give a text file of the IR, or a folder that graphopt saved"),
        (("show", "torchvision:squeezenet1_1", "--weights", "w.safetensors"), "there is no file w.safetensors\n  fix: give --weights"),
        (("show", "net.py:make", "--shape", "image"), "--shape 'image'"),
        (("show", "net.py:make", "--shape", "x=1,3:int65"), "has the unknown dtype 'int65'\n  fix: use int64, int32, bool, "),
        (("show", "net.py:make", "--dynamic", "batch"), "--dynamic 'batch'"),
        (("optimize", "net.py:make", "--target", "onnxruntme"), "onnxruntime"),
        (("check", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_gives_one_clear_error(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_of_another_model_are_refused(folder: Path) -> None:
    save_file({"head.weight": torch.ones(2)}, folder / "other.safetensors")
    done = run("show", "torchvision:squeezenet1_1", "--weights", "other.safetensors", cwd=folder)
    assert done.returncode == 2
    assert "error: other.safetensors does not fit the model: 52 parameters missing" in done.stderr
    assert "1 unknown (first ['head.weight'])\n  fix: give the weights of that very model" in done.stderr


def test_debug_shows_the_traceback(folder: Path) -> None:
    done = run_process("--debug", "show", "nonsense", cwd=folder)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_dynamic_axis_reaches_the_ir(folder: Path) -> None:
    done = run("show", "net.py:make", "--dynamic", "image:0=batch", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "f32[batch,3,8,8]" in done.stdout


def test_diff_json_has_names_and_counts(folder: Path) -> None:
    document = json.loads(run("diff", "net.py:make", "net", "--json", cwd=folder).stdout)
    assert not document["equal"]
    assert document["ops"]["batch_norm"] == -1
    assert document["nodes"][0] > document["nodes"][1]


def test_check_level_is_one_of_three(folder: Path) -> None:
    done = run("optimize", "net.py:make", "--check", "some", cwd=folder)
    assert done.returncode == 2
    assert "full" in done.stderr
