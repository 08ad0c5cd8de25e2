"""The short fine-tuning that methods get: the same loss, data, steps and rates, with the dense network as teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from tools.bench_quality.tasks.base import Item, Task

__all__ = ["Lesson", "fine_tune", "lessons"]


@dataclass(frozen=True, slots=True)
class Lesson:
    """A batch and the dense network's outputs for it."""

    item: Item
    wanted: torch.Tensor


def lessons(task: Task, seed: int) -> Iterator[Lesson]:
    """The batches of the task's schedule."""
    teacher, stream = task.dense(), task.stream(seed)
    for _ in range(task.schedule.steps):
        item = next(stream)
        with torch.no_grad():
            wanted = teacher(*item.inputs)
        yield Lesson(item, wanted)


def fine_tune(task: Task, module: torch.nn.Module, seed: int, given: Iterable[Lesson] | None = None) -> None:
    """Train the module in place by the task's schedule; it is in eval mode afterwards.

    `given` are the lessons of the same task and seed, where they were made before.
    """
    schedule = task.schedule
    module.train(schedule.trains_norms)
    parameters = [parameter.requires_grad_(True) for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.rate, weight_decay=1e-4)
    cosine = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.rate, total_steps=schedule.steps, pct_start=0.1)
    torch.manual_seed(seed)
    for lesson in lessons(task, seed) if given is None else given:
        loss = task.loss(module(*lesson.item.inputs), lesson.wanted, lesson.item.target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cosine.step()
    module.eval()
