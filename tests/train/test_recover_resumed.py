"""recover() after a kill: it loses little, and ends with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import ArtifactError, UsageError
from graphopt.train import recover
from graphopt.train.recovery.checkpoint import Checkpoint, read
from tests.support.recovering import batches, bits, capture, network, sparse

SCRIPT = """
import sys, time, torch
from torch import nn
from graphopt.train import recover

torch.set_num_threads(1)
torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)).eval()
torch.manual_seed(1)
student = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)).eval()
with torch.no_grad():
    student[4].weight[:, ::2] = 0.0

class Slow(torch.utils.data.Dataset):
    def __len__(self): return 48
    def __getitem__(self, index):
        time.sleep(float(sys.argv[2]))
        return torch.randn(6) + index  # drawn anew: from the seed too

loader = torch.utils.data.DataLoader(Slow(), batch_size=4, shuffle=True)
def metric(module):
    with torch.no_grad():
        return -float((module(torch.ones(2, 6)) - teacher(torch.ones(2, 6))).square().mean())
found = recover(student, loader, teacher=teacher, epochs=3, metric=metric, evaluate_every=7, optimizer="adamw", lr=0.01,
                checkpoint=sys.argv[1], checkpoint_every=5, accelerate=False)
torch.save({"weights": found.module.state_dict(), "resumed": found.resumed_at, "steps": found.steps, "best": found.best_step,
            "history": [str(entry) for entry in found.history]}, sys.argv[1] + ".result")
"""


def kill_behind(process: subprocess.Popen[bytes], file: Path, place: int, enough: int) -> int:
    """Kill -9 as soon as a number of the checkpoint's place is large enough; returns what it was."""
    deadline = time.monotonic() + 200
    seen = 0
    while seen < enough and time.monotonic() < deadline and process.poll() is None:
        if file.exists():
            seen = int(read(file)[2]["place"][place])
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    return seen


def started(script: str, folder: Path, name: str, pause: float) -> subprocess.Popen[bytes]:
    """A process of its own that runs the script with a checkpoint of this name."""
    file = folder / "script.py"
    file.write_text(script)
    return subprocess.Popen([sys.executable, str(file), str(folder / name), str(pause)], stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the script of a process wrote when it was done."""
    _, error = process.communicate(timeout=200)
    assert process.returncode == 0, error.decode()
    assert isinstance(process.args, list), "as `started` gives them"
    return torch.load(f"{process.args[2]}.result", weights_only=True)


def test_a_kill_loses_at_most_one_interval(tmp_path: Path) -> None:
    start = partial(started, SCRIPT, tmp_path)
    whole_run = start("whole.pt", 0.0)
    killed = start("killed.pt", 0.02)
    seen = kill_behind(killed, tmp_path / "killed.pt", 0, 10)
    assert seen >= 10

    resumed, whole = (ended(process) for process in (start("killed.pt", 0.0), whole_run))
    assert resumed["resumed"] >= seen
    assert whole["resumed"] == 0
    assert resumed["steps"] == whole["steps"] == 36
    assert resumed["history"] == whole["history"]
    assert all(torch.equal(value, whole["weights"][name]) for name, value in resumed["weights"].items())
    assert not resumed["weights"]["4.weight"][:, ::2].any()


def test_layers_that_are_done_are_not_done_again(tmp_path: Path, student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    options: dict[str, Any] = {"teacher": teacher, "layerwise": True, "steps": 2, "accelerate": False}
    whole = recover(student, batches(12), **options)

    class Killed(BaseException):
        pass

    file = tmp_path / "layers.pt"

    class Fragile(list[Any]):
        """Data that is gone when training starts, behind the layers."""

        def __iter__(self) -> Iterator[Any]:
            if file.exists() and read(file)[2]["place"][6] == 2:
                raise Killed
            return super().__iter__()

    with pytest.raises(Killed):
        recover(student, Fragile(batches(12)), checkpoint=file, **options)
    resumed = recover(student, batches(12), checkpoint=file, **options)
    assert resumed.reconstructed == whole.reconstructed == ("5",)
    assert bits(resumed.module) == bits(whole.module)


LAYERS = """
import sys, time, torch
from torch import nn
import graphopt
from graphopt.train import recover
from graphopt.train.recovery import layers

torch.set_num_threads(1)
torch.manual_seed(0)
x = torch.randn(256, 8)
teacher = nn.Sequential(*[part for _ in range(6) for part in (nn.Linear(8, 8), nn.Tanh())]).eval()
passes = ["sparsify-magnitude{ratio=0.5, dense_ends=false}"]
result = graphopt.optimize(teacher, passes, example_inputs=(x[:4],), dynamic={"input": {0: "batch"}})
fit, fitted = layers._fit, []

def slow(student, node, *rest):
    time.sleep(float(sys.argv[2]))
    fitted.append(node.name)
    return fit(student, node, *rest)

layers._fit = slow
found = recover(result, list(x.split(32)), layerwise=True, steps=4, checkpoint=sys.argv[1], accelerate=False)
torch.save({"weights": found.module.state_dict(), "fitted": fitted, "reconstructed": list(found.reconstructed)}, sys.argv[1] + ".result")
"""


def test_a_kill_between_layers_loses_at_most_one(tmp_path: Path) -> None:
    start = partial(started, LAYERS, tmp_path)
    whole_run = start("whole.pt", 0.0)
    killed = start("killed.pt", 0.3)
    seen = kill_behind(killed, tmp_path / "killed.pt", 6, 2)
    assert 2 <= seen < 6

    resumed, whole = (ended(process) for process in (start("killed.pt", 0.0), whole_run))
    assert len(whole["fitted"]) == 6
    assert 1 <= len(resumed["fitted"]) <= 6 - seen
    assert resumed["fitted"] == whole["fitted"][-len(resumed["fitted"]) :]
    assert resumed["reconstructed"] == whole["reconstructed"]
    assert len(whole["reconstructed"]) >= 3
    assert all(torch.equal(value, whole["weights"][name]) for name, value in resumed["weights"].items())


def test_a_finished_run_returns_at_once(tmp_path: Path, student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    options: dict[str, Any] = {"teacher": teacher, "steps": 3, "checkpoint": tmp_path / "done.pt", "accelerate": False}
    other: dict[str, Any] = {**options, "steps": 4}
    first = recover(student, batches(), **options)
    left_over, another = tmp_path / "done.pt.123.part", tmp_path / "other.pt.123.part"
    for part in (left_over, another):
        part.write_bytes(b"killed while it wrote")
    second = recover(student, iter(()), **options)
    assert second.resumed_at == 3
    assert not left_over.exists()
    assert another.exists(), "of a run that may be alive"
    assert bits(first.module) == bits(second.module)
    cases: tuple[tuple[graphopt.Graph, dict[str, Any], str], ...] = (
        (student, other, "steps was 3, is 4"),
        (student, {**options, "lr": 0.5, "temperature": 3.0}, "lr was 0.01, is 0.5; temperature was 2.0, is 3.0"),
        (student, {**options, "loss": nn.functional.cross_entropy}, "loss was None, is 'cross_entropy'"),
        (capture(sparse(ratio=0.5)), options, "the numbers of the model or the teacher differ"),
        (student, {**options, "teacher": capture(network(1))}, "the numbers of the model or the teacher differ"),
    )
    for model, given, why in cases:
        with pytest.raises(UsageError, match=f"done.pt is that of another run: {why}\n  fix: give the same arguments"):
            recover(model, batches(), **given)
    (tmp_path / "done.pt").write_bytes(b"PK not a checkpoint")
    with pytest.raises(ArtifactError, match=r"done.pt can't be read: .*\n  fix: delete it|(?s:done.pt can't be read)"):
        recover(student, batches(), **options)


def test_time_to_write_grows_with_tensors_and_not_with_their_square(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    address = torch.Tensor.data_ptr

    def counted(tensor: torch.Tensor) -> int:
        calls.append(1)
        return address(tensor)

    monkeypatch.setattr(torch.Tensor, "data_ptr", counted)
    whole = torch.arange(12.0)
    content = {"tensors": [*(torch.full((2,), float(index)) for index in range(200)), whole, whole, whole[:4]]}
    checkpoint = Checkpoint(tmp_path / "many.pt", "run")
    checkpoint.save(content)
    monkeypatch.undo()
    assert len(calls) < 20 * len(content["tensors"])
    found = checkpoint.load()
    assert found is not None
    assert all(torch.equal(a, b) for a, b in zip(found["tensors"], content["tensors"], strict=True))
