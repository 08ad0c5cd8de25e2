"""Where it shall be fast: a backend and the threads that it may use, and how long graphs take there.

A device is what the planner asks for times and nothing else: one with a clock of its own, such as a simulator, can
take its place (`Planner(..., device=...)`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from graphopt.analysis.table import counted
from graphopt.backends.base import Executable, lower
from graphopt.backends.timing import Latency, interleave
from graphopt.ir.graph import Graph

if TYPE_CHECKING:
    import torch

__all__ = ["SECONDS", "Device", "share"]

ROUNDS = (8, 40)
"""Fewest and most interleaved rounds of a measurement."""

SECONDS = 3.0
"""Time for a measurement of the whole network, within the limits of rounds; a region gets a third of it."""


@dataclass(frozen=True, slots=True)
class Device:
    """A backend and its threads."""

    target: str
    threads: int

    @property
    def text(self) -> str:
        """`onnxruntime, 2 threads`."""
        return f"{self.target}, {counted(self.threads, 'thread')}"

    def lower(self, graph: Graph) -> Executable:
        """The graph ready to run there.

        Raises:
            BackendError: the backend can't express it.
        """
        options: dict[str, Any] = {} if self.target == "torch" else {"threads": self.threads}
        return lower(graph, self.target, **options)

    def measure(self, executables: Mapping[str, Executable], inputs: Sequence[torch.Tensor], seconds: float = SECONDS) -> Latency:
        """Time executables of one signature in interleaved rounds, for about so many seconds."""
        functions = {name: partial(made.run, inputs) for name, made in executables.items()}
        with self._limited():
            trial = interleave(functions, rounds=3)
            fewest, most = ROUNDS
            rounds = int(seconds / sum(timing.median for timing in trial.timings))
            return interleave(functions, rounds=min(max(rounds, fewest), most), warm_up=1)

    @contextlib.contextmanager
    def _limited(self) -> Generator[None]:
        """Within, torch uses as many threads as the device may."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def share(latency: Latency, index: int) -> float:
    """Time of a variant as a fraction of the first one's: by medians or by fastest rounds, whichever is worse.

    On a busy machine the two differ, and a width that is not surely faster is not faster.
    """
    first, other = latency.timings[0], latency.timings[index]
    return max(1 / other.speedup, other.fastest / first.fastest)
