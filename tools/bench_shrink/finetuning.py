"""The short fine-tuning that every method gets: the same loss, data, steps and rates, with the dense network as teacher."""

from __future__ import annotations

import torch

from tools.bench_shrink.tasks.base import Task

__all__ = ["fine_tune"]


def fine_tune(task: Task, module: torch.nn.Module, seed: int) -> None:
    """Train the module in place by the task's schedule; it is in eval mode afterwards."""
    schedule = task.schedule
    teacher = task.dense()
    module.train(schedule.trains_norms)
    parameters = [parameter.requires_grad_(True) for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.rate, weight_decay=1e-4)
    cosine = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.rate, total_steps=schedule.steps, pct_start=0.1)
    torch.manual_seed(seed)
    stream = task.stream(seed)
    for _ in range(schedule.steps):
        item = next(stream)
        with torch.no_grad():
            wanted = teacher(*item.inputs)
        loss = task.loss(module(*item.inputs), wanted, item.target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cosine.step()
    module.eval()
