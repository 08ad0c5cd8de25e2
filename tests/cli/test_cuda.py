"""The target cuda from the shell, without a GPU: plans, exported folders, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import graphopt
from graphopt.backends.cuda.executable import CudaExecutable
from tests.cli.test_cli import MODEL, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cuda")
    (path / "net.py").write_text(MODEL)
    return path


def test_show_prints_the_plan(folder: Path) -> None:
    done = run("show", "net.py:make", "--plan", "--target", "cuda", "--dtype", "bfloat16", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("plan ")
    assert "for cuda, bfloat16: " in done.stdout
    assert "mul + add + relu + mean over (2, 3) of bf16[2,8,8,8] channels last" in done.stdout
    done = run("show", "net.py:make", "--plan", "--target", "cpu", "--json", cwd=folder)
    assert "for cpu: " in json.loads(done.stdout)["plan"]


def test_export_writes_a_folder_that_can_be_read(folder: Path) -> None:
    done = run("export", "net.py:make", "--target", "cuda", "--dtype", "float16", "-o", "saved", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "@triton.jit" in (folder / "saved" / "network.py").read_text()
    loaded = graphopt.load(folder / "saved")
    assert isinstance(loaded, CudaExecutable)
    assert loaded.options.dtype == "float16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "net.py:make", "--plan"), "a plan is that of a target"),
        (("show", "net.py:make", "--plan", "--target", "torch"), "torch has no plan to show"),
        (("show", "net.py:make", "--plan", "--target", "cpu", "--dtype", "float16"), "--dtype is an option of the target cuda"),
        (("show", "net.py:make", "--plan", "--target", "cuda", "--dynamic", "image:0=batch"), "has sizes that are symbols"),
        (("export", "net.py:make", "--dtype", "float16", "-o", "x"), "--dtype is an option of the target cuda"),
    ],
)
def test_what_makes_no_sense_is_an_error(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments, cwd=folder)
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())
