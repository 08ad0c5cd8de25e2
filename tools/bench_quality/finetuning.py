"""The short fine-tuning that methods get: the same loss, data, steps and rates, with the dense network as teacher."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from tools.bench_quality.layout import fast_layout
from tools.bench_quality.tasks.base import Item, Task

__all__ = ["SGD_RATE", "Lesson", "best_fine_tuned", "fine_tune", "lessons"]

SGD_RATE = 10.0
"""The rate of SGD with momentum, in parts of that of AdamW, whose steps do not get smaller with the gradients."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A batch and the dense network's outputs for it."""

    item: Item
    wanted: torch.Tensor


def lessons(task: Task, seed: int, times: int = 1) -> Iterator[Lesson]:
    """The batches of the task's schedule, or of `times` as many steps."""
    teacher, stream = task.dense(), task.stream(seed)
    with fast_layout(teacher):
        for _ in range(times * task.schedule.steps):
            item = next(stream)
            with torch.no_grad():
                wanted = teacher(*item.inputs)
            yield Lesson(item, wanted)


def best_fine_tuned(task: Task, module: torch.nn.Module, seed: int, times: int = 1) -> torch.nn.Module:
    """The module trained with that of the schedule's rates which is best on validation data, for `times` its steps; a copy."""
    found: dict[float, torch.nn.Module] = {}
    given = list(lessons(task, seed, times))
    for rate in task.schedule.rates:
        found[rate] = copy.deepcopy(module)
        fine_tune(task, found[rate], seed, given, rate=rate)
    if len(found) == 1:
        return found[task.schedule.rate]
    score = task.scores[0]
    return max(found.values(), key=lambda each: float(task.evaluate(each, "validation")[score].mean()))


def fine_tune(
    task: Task,
    module: torch.nn.Module,
    seed: int,
    given: Sequence[Lesson] | None = None,
    *,
    rate: float | None = None,
    optimizer: Literal["adamw", "sgd"] = "adamw",
) -> None:
    """Train the module in place by the task's schedule, at its first rate or another; it is in eval mode afterwards.

    `given` are the lessons of the same task and seed, where they were made before: one step for each. SGD has `SGD_RATE` times the
    rate, and momentum that goes against the rate, as torch's one-cycle schedule has it.
    """
    schedule = task.schedule
    rate = schedule.rate if rate is None else rate
    given = list(lessons(task, seed)) if given is None else given
    module.train(schedule.trains_norms)
    parameters = [parameter.requires_grad_(True) for parameter in module.parameters()]
    if optimizer == "sgd":
        rate = rate * SGD_RATE
        stepper: torch.optim.Optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.95, weight_decay=1e-4)
    else:
        stepper = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4)
    cosine = torch.optim.lr_scheduler.OneCycleLR(stepper, rate, total_steps=len(given), pct_start=0.1)
    torch.manual_seed(seed)
    with fast_layout(module):
        for lesson in given:
            loss = task.loss(module(*lesson.item.inputs), lesson.wanted, lesson.item.target)
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            cosine.step()
    module.eval()
