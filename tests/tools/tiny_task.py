"""A task of the quality benchmarks that is small enough for tests."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from tools.bench_quality.tasks.base import Hits, Item, Schedule, Task

__all__ = ["Tiny", "TinyTask"]


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.norm(self.one(x))))


class TinyTask(Task):
    name = "tiny"
    title = "Tiny"
    scores = ("agreement",)
    batch = 2
    width = 4
    levels = (0.25, 0.5)
    budgets = (0.8, 0.6)
    schedule = Schedule(steps=40, rate=1e-2)

    def dense(self) -> nn.Module:
        torch.manual_seed(3)
        return Tiny().eval()

    def example(self, batch: int) -> tuple[torch.Tensor, ...]:
        return (torch.randn(batch, 6, generator=torch.Generator().manual_seed(0)),)

    def calibration(self, seed: int) -> list[Item]:
        return [next(self.stream(seed)) for _ in range(2)]

    def stream(self, seed: int) -> Iterator[Item]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield Item((torch.randn(64, 6, generator=generator),))

    def loss(self, output: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        return nn.functional.mse_loss(output, teacher)

    def evaluate(self, module: nn.Module, split: str) -> dict[str, Hits]:
        x = torch.randn(500, 6, generator=torch.Generator().manual_seed(9))
        with torch.no_grad():
            return {"agreement": (module(x).argmax(1) == self.dense()(x).argmax(1)).numpy()}
