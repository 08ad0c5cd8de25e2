"""One way to make a network smaller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch

from tools.bench_quality.records import LONGER, STAGES
from tools.bench_quality.tasks.base import Task

__all__ = ["Arm", "Shrunk"]


@dataclass(frozen=True)
class Shrunk:
    """The smaller network, in eval mode, what it was told, and what it had to say."""

    module: torch.nn.Module
    settings: str
    notes: tuple[str, ...] = field(default=())


class Arm(ABC):
    """A method with its settings. `draws` is True when a result depends on the seed: it looks at data or random numbers.

    `by` is "ratio" where levels are parts of the units to remove, "latency" where they are parts of the time to get to.
    """

    name: str
    by: str = "ratio"
    draws: bool = True

    def stages(self, task: Task) -> tuple[str, ...]:
        """Of `plain`, `tuned` and `longer` those that say something about this method on a task; none where it has nothing to do."""
        del task
        return (*STAGES, LONGER)

    def levels(self, task: Task) -> tuple[float, ...]:
        """The levels of a task that this method runs at."""
        return task.budgets if self.by == "latency" else task.levels

    @abstractmethod
    def shrink(self, task: Task, level: float, seed: int) -> Shrunk:
        """A smaller network from the task's dense one."""
