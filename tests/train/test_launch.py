"""recover() through `accelerate`: on one device, and in two processes on this machine, told of each other by the environment."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import graphopt
from graphopt.train import recover
from tests.support.recovering import batches, bits, sparse

pytestmark = pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")

SCRIPT = """
import os, sys, torch
from torch import nn
from graphopt.errors import UsageError
from graphopt.train import recover

torch.set_num_threads(1)
folder, rank = sys.argv[1], int(os.environ["RANK"])

def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)).eval()

teacher, student = network(0), network(1)
with torch.no_grad():
    student[4].weight[:, ::2] = 0.0
data = torch.utils.data.TensorDataset(torch.randn(64, 6, generator=torch.Generator().manual_seed(0)))
loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)

def metric(module):
    with torch.no_grad():
        return -float((module(data[:][0]) - teacher(data[:][0])).square().mean()) + rank  # the first process decides

class Stopped(BaseException):
    pass

class Fragile:
    # the loader, until so many batches were taken
    def __init__(self, count): self.left = count
    def __len__(self): return len(loader)
    def __iter__(self):
        for item in loader:
            if not self.left: raise Stopped
            self.left -= 1
            yield item

def run(data, file=None, model=student, **options):
    return recover(model, data, teacher=teacher, metric=metric, epochs=3, evaluate_every=3, lr=0.05, batch_norm_batches=0,
                   checkpoint=file and f"{folder}/{file}", checkpoint_every=2, **options)

whole = run(Fragile(1000))
try:
    run(Fragile(30), "shared.safetensors")
except Stopped:
    pass
resumed = run(Fragile(1000), "shared.safetensors")
pieces = {"model": nn.Sequential(student[0], *student[2:]), "micro_batch": 2}  # a batch norm would need whole batches
run(loader, f"of{rank}.safetensors", **pieces)
try:
    run(loader, f"of{rank}.safetensors", **pieces)
except UsageError as error:
    text = str(error)
torch.save({"whole": whole.module.state_dict(), "resumed": resumed.module.state_dict(),
            "history": list(map(str, whole.history)), "again": list(map(str, resumed.history)),
            "start": resumed.resumed_at, "steps": whole.steps, "text": text}, f"{folder}/{rank}.pt")
"""


def test_two_processes_compute_the_same_and_one_writes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    common |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, error = process.communicate(timeout=280)
        assert process.returncode == 0, error.decode()
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, tensor in first["whole"].items():
        assert all(torch.equal(tensor, other) for other in (second["whole"][name], first["resumed"][name], second["resumed"][name])), name
    assert not first["whole"]["4.weight"][:, ::2].any()
    assert first["history"] == first["again"] == second["history"] == second["again"]
    assert first["steps"] == 24  # 16 batches, 8 for each, 3 times
    assert first["start"] == second["start"] == 14  # 30 batches are 15 steps, and every second one is kept
    assert not list(tmp_path.glob("*.part"))
    assert (tmp_path / "of0.safetensors").exists()
    assert not (tmp_path / "of1.safetensors").exists()
    for rank, found in enumerate((first, second)):
        assert (
            f"of{rank}.safetensors is not the same in all processes\n  fix: give a file in a folder that all machines see" in found["text"]
        )


def test_accelerate_computes_the_same_on_one_device(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    first, second = (recover(student, batches(labels=True), teacher=teacher, epochs=1, accelerate=choice) for choice in (False, True))
    assert bits(first.module) == bits(second.module)


PROCESS = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import torch
from tests.support.recovering import batches, bits, network, sparse
from graphopt.train import recover
found = recover(sparse(), batches(4), teacher=network(), epochs=2, metric=lambda module: 0.0, evaluate_every=1)
digest = hashlib.sha256(b"".join(bits(found.module))).hexdigest()
torch.distributed.destroy_process_group()  # else its threads may end the process as they are torn down
sys.stdout.write(f"{found.steps} steps, {int((found.module.get_parameter('5.weight') == 0).sum())} zeros, {digest}\\n")
"""


@pytest.mark.slow
def test_two_processes_share_the_batches_and_end_with_the_same_bits(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROCESS)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(script),
        str(Path(__file__).parents[2]),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first == second
    zeros = int((sparse().get_parameter("5.weight") == 0).sum())
    assert first.startswith(f"4 steps, {zeros} zeros, "), "half of the steps that one process takes: 4 batches, 2 epochs"
