"""How much quality a pipeline may cost.

Budget(metric_drop=0.01)      # the metric may fall by 0.01: one point of an accuracy in [0, 1]
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.errors import UsageError

__all__ = ["Budget"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on what lossy passes may cost together, measured against the model as it was given.

    `metric_drop` is the largest fall of the metric, in the metric's own unit, at least 0.

    Raises:
        UsageError: a limit is negative or not a number.
    """

    metric_drop: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.metric_drop) and self.metric_drop >= 0):
            raise UsageError(f"metric_drop is {self.metric_drop}, needs a number of at least 0")
