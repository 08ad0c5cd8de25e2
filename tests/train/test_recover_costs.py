"""recover() in little memory, and what it says of its time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import UsageError
from graphopt.train import recover
from tests.support.recovering import ROWS, batches


class Deep(nn.Module):
    """Blocks with a path around each, batch norms and dropout."""

    def __init__(self, seed: int, blocks: int = 6) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.GELU(), nn.Linear(64, 8)) for _ in range(blocks))
        self.dropout = nn.Dropout(0.2)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        for block in self.blocks:
            input = input + self.dropout(block(input))  # noqa: A001
        return input


def deep(seed: int) -> graphopt.Graph:
    x = torch.randn(4, 8, dtype=torch.float64)
    return graphopt.capture(Deep(seed).double().eval(), (x,), dynamic={"input": {0: "batch"}})


def test_activations_are_computed_again_with_the_same_gradients(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(rows, 8, generator=generator, dtype=torch.float64) for rows in (64, 32, 96, 64)]
    options: dict[str, Any] = {"teacher": deep(1), "epochs": 2, "distillation": "mse", "features": ("add*",), "accelerate": False}
    options |= {"measure_memory": True, "lr": 0.02}
    plain = recover(deep(0), data, **options)
    least = recover(deep(0), data, activation_memory="least", **options)
    assert plain.plan is None
    assert least.plan is not None
    assert least.plan.again >= 2
    assert f"  {least.plan}" in str(least)
    for name, tensor in plain.module.state_dict().items():
        assert torch.allclose(least.module.state_dict()[name], tensor, rtol=1e-11, atol=1e-13), name
    assert plain.peak_bytes is not None
    assert least.peak_bytes is not None
    assert least.peak_bytes < 0.75 * plain.peak_bytes
    budget = (least.plan.bytes + least.plan.without) // 2
    some = recover(deep(0), data, activation_memory=budget, checkpoint=tmp_path / "some", **options)
    assert some.plan is not None
    assert least.plan.bytes < some.plan.bytes <= budget
    assert recover(deep(0), data, activation_memory=budget, checkpoint=tmp_path / "some", **options).plan == some.plan
    with pytest.raises(UsageError, match=r"need .* at least with checkpoints, 1.* are allowed\n  fix: use smaller batches"):
        recover(deep(0), data, activation_memory=1, **options)


def test_time_and_memory_of_steps_are_reported(student: graphopt.Graph, teacher: graphopt.Graph, tmp_path: Path) -> None:
    options: dict[str, Any] = {"teacher": teacher, "steps": 4, "accelerate": False, "checkpoint": tmp_path / "done"}
    found = recover(student, batches(), measure_memory=True, **options)
    assert found.seconds_per_step is not None
    assert found.seconds_per_step > 0
    assert found.peak_bytes is not None
    weights = sum(parameter.numel() * 4 for parameter in found.module.parameters())
    assert weights < found.peak_bytes < 100 * weights + 4 * ROWS * 64 * 40  # gradients at least, and activations of both networks
    assert f"  {found.seconds_per_step:.3g} s per step, " in str(found)
    assert str(found).endswith(" of memory at its peak")
    again = recover(student, batches(), **options)  # finished: no step is taken
    assert (again.seconds_per_step, again.peak_bytes) == (None, None)
    assert " s per step" not in str(again)
