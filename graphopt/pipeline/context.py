"""What a lossy pass may look at besides the graph: the user's data, metric and budget.

optimize(model, passes=["shrink-channels{ratio=0.5}"], calibration=loader, metric=accuracy, budget=Budget(metric_drop=0.01))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from graphopt.pipeline.budget import Budget
    from graphopt.pipeline.calibration import Calibration

__all__ = ["Context", "Metric"]

Metric = Callable[["torch.nn.Module"], float]
"""Quality of a model, higher is better; called with a module in eval mode, which it leaves as it is."""


@dataclass(frozen=True, slots=True)
class Context:
    """The surroundings of a pipeline's run; every part is optional.

    `seed` makes whatever is random repeatable. `progress` is called with (what is done, fraction from 0 to 1). `checkpoint`
    is a folder in which passes that take long keep what is finished, for the same run after a kill.
    """

    calibration: Calibration | None = None
    metric: Metric | None = None
    budget: Budget | None = None
    seed: int = 0
    progress: Callable[[str, float], None] | None = None
    checkpoint: Path | None = None
