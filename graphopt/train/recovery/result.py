"""What a recovery hands back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from graphopt.analysis.table import counted, scaled
from graphopt.ir.graph import Graph
from graphopt.train.batched.checkpointing import CheckpointPlan
from graphopt.train.recovery.loop import Evaluation

__all__ = ["Recovery"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What `recover` returns.

    `module` is the trained network in eval mode, called as before; `graph` its graph, None where a module was given.
    `steps` were taken in all, the first `resumed_at` of them by a run that was stopped; the weights are those of step
    `best_step`. `history` has what was measured. `reconstructed` are the layers that were fitted to the teacher.
    `corrected` are annotations of sparsity that the training has made untrue, and what stands in the graph instead.

    `seconds_per_step` is the median of this process, `peak_bytes` what one step allocates at most at once (activations and
    gradients) beyond what was there before. Both are None where no step was measured. `plan` is what was run again in the
    backward pass, for the largest batch, where there was an `activation_memory`.
    """

    module: nn.Module
    graph: Graph | None
    steps: int
    resumed_at: int
    best_step: int
    stopped_early: bool
    history: tuple[Evaluation, ...]
    reconstructed: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()
    seconds_per_step: float | None = None
    peak_bytes: int | None = None
    plan: CheckpointPlan | None = None

    def __str__(self) -> str:
        early = ", stopped early" if self.stopped_early else ""
        head = f"{counted(self.steps, 'step')}{early}, weights of step {self.best_step}"
        return "\n".join([head, *(f"  {line}" for line in (*self.history, *self.corrected, *self._costs()))])

    def _costs(self) -> Iterator[str]:
        if self.seconds_per_step is not None:
            memory = "" if self.peak_bytes is None else f", {scaled(self.peak_bytes, 'B')} of memory at its peak"
            yield f"{self.seconds_per_step:.3g} s per step{memory}"
        if self.plan is not None:
            yield str(self.plan)
