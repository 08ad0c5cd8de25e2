"""Is a run as near to float64 as float32 can be? By the rule of `graphopt.pipeline.compare`, with two allowances."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor
from graphopt.pipeline.compare import compare_declared

__all__ = ["WINOGRAD", "Judge"]

Tensors = tuple[torch.Tensor, ...]

WINOGRAD = 1e-5
"""What a network with Winograd steps may be off, relative to the largest value of the output."""
_NUDGE = 3e-7
"""Relative change of all numbers that shows whether a difference is a decision (floor, sign, a comparison) that fell the
other way: then the float64 run itself jumps."""
_NUDGES = 3


@dataclass
class Judge:
    """References of one network on one set of inputs."""

    graph: Graph
    inputs: Tensors

    def __post_init__(self) -> None:
        self.reference = Interpreter(self.graph, precise=True).run(*[_wide(tensor) for tensor in self.inputs])
        self.eager = Interpreter(self.graph).run(*self.inputs)
        self._nudged: list[Tensors] | None = None

    def judge(self, got: Tensors, winograd: bool) -> tuple[float, str]:
        """The largest error relative to the largest value of its output, and what is wrong, empty when nothing is."""
        worst, failure = 0.0, ""
        for index, (reference, eager, new) in enumerate(zip(self.reference, self.eager, got, strict=True)):
            error, mismatch = compare_declared(reference, eager, new)
            magnitude = float(reference.double().abs().nan_to_num(0, 0, 0).max()) if reference.numel() else 0.0
            if error != float("inf") and magnitude and new.is_floating_point():
                worst = max(worst, error / magnitude)
            if mismatch is None or failure or (winograd and error <= WINOGRAD * magnitude):
                continue
            if error > 4 * max(_distance(reference, other[index]) for other in self._runs_nearby()):
                failure = f"output {index} is off by {error:.3g}, its largest value is {magnitude:.3g}; {mismatch.rule}"
        return worst, failure

    def _runs_nearby(self) -> list[Tensors]:
        if self._nudged is None:
            self._nudged = [self._nudged_run(seed) for seed in range(_NUDGES)]
        return self._nudged

    def _nudged_run(self, seed: int) -> Tensors:
        generator = torch.Generator().manual_seed(seed)

        def nudge(tensor: torch.Tensor) -> torch.Tensor:
            if not tensor.is_floating_point():
                return tensor
            return tensor.double() * (1 + _NUDGE * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))

        copy = self.graph.clone()
        editor = GraphEditor(copy)
        for state in tuple(copy.states.values()):
            if state.data is not None:
                editor.update_state(replace(state, data=TensorData(nudge(state.data.precise()))))
        return Interpreter(copy, precise=True).run(*[nudge(tensor) for tensor in self.inputs])


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _distance(left: torch.Tensor, right: torch.Tensor) -> float:
    """max|left - right|; infinite where one is finite and the other is not."""
    a, b = left.double(), right.double()
    if not torch.equal(torch.isfinite(a), torch.isfinite(b)):
        return float("inf")
    usable = torch.isfinite(a)
    return float((a - b)[usable].abs().max()) if bool(usable.any()) else 0.0
