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

    `metric_drop` is the largest fall of the metric, in the metric's own unit, at least 0. A pass that costs more is
    tried with less strength (a smaller `ratio`, mostly) up to `tries` times, each of which is one evaluation of the
    metric, before it is rolled back; 0 rolls it back at once.

    Raises:
        UsageError: a limit is negative or not a number.
    """

    metric_drop: float
    tries: int = 5

    def __post_init__(self) -> None:
        number = isinstance(self.metric_drop, int | float)  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        if not (number and math.isfinite(self.metric_drop) and self.metric_drop >= 0):
            raise UsageError(f"metric_drop is {self.metric_drop!r}, needs a number of at least 0")
        whole = isinstance(self.tries, int) and not isinstance(self.tries, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not whole or self.tries < 0:
            raise UsageError(f"tries is {self.tries!r}, needs a whole number of at least 0")
