"""The sparse optimizers in other people's training loops: DDP, FSDP, Lightning, HF Trainer, gradient scaling."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from graphopt.train import GradualPruning, SparseAdamW, SparseSGD

WORKER = """
import sys, torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from graphopt.train import GradualPruning, RigL, SET, SparseSGD

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(rank)  # DDP makes the weights equal
module = DistributedDataParallel(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
optimizer = SparseSGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01, masks={})
schedules = [GradualPruning(optimizer, ratio=0.6, end=10, every=2), RigL(optimizer, end=60, every=7), SET(optimizer, end=60, every=11)]
for step in range(40):
    x = torch.randn(4, 6)
    optimizer.zero_grad()
    module(x).square().mean().backward()
    optimizer.step()
    for schedule in schedules:
        schedule.step()
masks = [mask for mask in optimizer.masks.values()]
torch.save({"weights": [p.detach() for p in module.parameters()], "masks": masks}, f"{folder}/rank{rank}.pt")
dist.destroy_process_group()
"""


SHARDED = """
import sys, torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from graphopt.train import GradualPruning, RigL, SET, SparseAdamW, masks_of

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
found = {}
for spread in (False, True):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))  # 9 rows are no multiple of 2 processes
    with torch.no_grad():
        module[0].weight[torch.rand(9, 6) < 0.5] = 0.0
    masks = masks_of(module)
    if spread:
        fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    optimizer = SparseAdamW(module.named_parameters(), lr=0.05, masks=masks)
    schedules = [GradualPruning(optimizer, ratio=0.6, end=10, every=2), RigL(optimizer, end=60, every=7), SET(optimizer, end=60, every=11)]
    for step in range(20):
        if step == 12:
            optimizer.load_state_dict(optimizer.state_dict())
        optimizer.zero_grad()
        module(torch.randn(4, 6)).square().mean().backward()  # the same rows for all
        optimizer.step()
        for schedule in schedules:
            schedule.step()
    weights = [p.full_tensor() if spread else p for p in module.parameters()]
    packed = optimizer.state_dict()["masks"]
    found[spread] = {"weights": [w.detach() for w in weights], "masks": [packed[index]["bits"] for index in sorted(packed)]}
if rank == 0:
    torch.save(found, f"{folder}/found.pt")
dist.destroy_process_group()
"""


def in_two_processes(text: str, folder: Path) -> None:
    script = folder / "worker.py"
    script.write_text(text)
    processes = [subprocess.Popen([sys.executable, str(script), str(rank), str(folder)], stderr=subprocess.PIPE) for rank in range(2)]
    for process in processes:
        _, error = process.communicate(timeout=200)
        assert process.returncode == 0, error.decode()


def test_parameters_that_are_spread_over_processes_are_trained_as_whole_ones(tmp_path: Path) -> None:
    in_two_processes(SHARDED, tmp_path)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert len(found[True]["masks"]) == 2
    for mine, plain in zip(found[True]["masks"], found[False]["masks"], strict=True):
        assert torch.equal(mine, plain)
    for mine, plain in zip(found[True]["weights"], found[False]["weights"], strict=True):
        assert torch.equal(mine == 0, plain == 0)
        assert torch.allclose(mine, plain, atol=1e-6)
    assert int((found[True]["weights"][0] == 0).sum()) >= 32


def test_masks_are_equal_on_all_ranks_of_ddp(tmp_path: Path) -> None:
    in_two_processes(WORKER, tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert len(first["masks"]) == 2
    for kind in ("weights", "masks"):
        assert all(torch.equal(a, b) for a, b in zip(first[kind], second[kind], strict=True))
    assert [int((~mask).sum()) for mask in first["masks"]] == [28, 14]
    for weight, mask in zip([first["weights"][0], first["weights"][2]], first["masks"], strict=True):
        assert (weight[~mask].view(torch.int32) == 0).all()


class Network(nn.Module):
    """Two layers; half of the first one's weights are zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        with torch.no_grad():
            self.first.weight[torch.rand(8, 6) < 0.5] = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


def test_a_gradient_scaler_skips_steps_without_harm() -> None:
    module = Network()
    optimizer = SparseSGD(module.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    mask = optimizer.mask(module.first.weight)
    for step in range(4):
        optimizer.zero_grad()
        scaler.scale(module(torch.ones(2, 6)).square().mean()).backward()
        if step == 1:
            assert module.first.weight.grad is not None
            module.first.weight.grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
    assert mask is not None
    assert torch.equal(module.first.weight != 0, mask)


@pytest.mark.skipif(find_spec("lightning") is None, reason="lightning is not installed: pip install -e '.[lightning]'")
def test_lightning_trains_and_saves_masks(tmp_path: Path) -> None:
    import lightning  # pyright: ignore[reportMissingImports]

    class Task(lightning.LightningModule):  # pyright: ignore[reportUntypedBaseClass]
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = SparseAdamW(self.parameters(), lr=0.05)
            GradualPruning(optimizer, ratio=0.75, end=6, every=2).attach()
            return optimizer

    data = torch.utils.data.TensorDataset(torch.randn(24, 6), torch.randint(0, 3, (24,)))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "enable_model_summary": False}
    task = Task()
    trainer = lightning.Trainer(max_epochs=2, enable_checkpointing=False, default_root_dir=tmp_path, **quiet)
    trainer.fit(task, loader)
    weight = task.network.first.weight
    assert int((weight == 0).sum()) == 36
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert "masks" in torch.load(tmp_path / "last.ckpt", weights_only=False)["optimizer_states"][0]


@pytest.mark.skipif(
    find_spec("transformers") is None or find_spec("accelerate") is None, reason="transformers and accelerate are not both installed"
)
def test_hf_trainer_trains(tmp_path: Path) -> None:
    import transformers

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.network(x)
            return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    model = Model()
    before = model.network.first.weight.detach().clone()
    optimizer = SparseSGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    arguments = transformers.TrainingArguments(str(tmp_path), max_steps=5, report_to=[], disable_tqdm=True, use_cpu=True, save_steps=5)
    rows = [{"x": torch.randn(6), "labels": torch.tensor(1)} for _ in range(8)]
    transformers.Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer, scheduler)).train()  # pyright: ignore[reportArgumentType]
    weight = model.network.first.weight.detach()
    assert torch.equal(weight == 0, before == 0)
    assert not torch.equal(weight, before)
    saved = torch.load(tmp_path / "checkpoint-5" / "optimizer.pt", weights_only=True)
    assert list(saved["masks"]) == [0]
