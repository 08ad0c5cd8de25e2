"""A module that keeps fewer activations than it computes, by a plan made when its batches are seen."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from graphopt.backends.reference.binding import solve
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.train.batched.checkpointing import CheckpointPlan, PlannedParts, plan_checkpoints

__all__ = ["ActivationMemory", "Planned"]

ActivationMemory: TypeAlias = 'int | Literal["least"] | None'
"""Bytes of activations that are kept at most, the least that is possible, or None: all are kept."""


class Planned:
    """Makes a flat module of a graph follow a plan where gradients are wanted and some of it is run again; elsewhere it
    computes as before.

    Sizes of symbolic dimensions are not known before the first batch. The plan is made for the largest ones so far, as
    smaller batches need less, and is made anew when larger ones come. A budget that can't be kept is an error where
    `strict`, and otherwise as much is run again as helps; sizes that are not known then mean that nothing is.
    """

    def __init__(self, graph: Graph, module: nn.Module, memory: ActivationMemory, *, strict: bool = True) -> None:
        self._graph = graph
        self._budget = memory if isinstance(memory, int) else None
        self._strict = strict
        self._parts: PlannedParts | None = None
        self._prepared = False
        self.plan: CheckpointPlan | None = None
        self.sizes: dict[str, int] = {}
        """Of the symbols, that the plan was made for."""
        places = {value: index for index, value in enumerate(graph.inputs)}
        self._solutions = [(places[solution.value], solution) for solution in solve(graph.inputs, {})]
        plain = type(module)

        def forward(self_: nn.Module, *inputs: Any) -> Any:
            parts = self._parts_for(inputs) if torch.is_grad_enabled() else None
            return plain.forward(self_, *inputs) if parts is None else tuple(parts.run(self_, inputs))

        module.__class__ = type(plain.__name__, (plain,), {"forward": forward})

    def prepare(self, sizes: dict[str, int]) -> None:
        """Make the plan for these sizes, or larger ones that were seen.

        Raises:
            UsageError: the budget can't be kept, or a size is not known, and the plan is strict.
        """
        self.sizes = {name: max(size, self.sizes.get(name, 0)) for name, size in sizes.items()}
        self.plan = self._made()
        self._parts = PlannedParts(self._graph, self.plan) if self.plan is not None and self.plan.again else None
        self._prepared = True

    def _made(self) -> CheckpointPlan | None:
        budgets = (self._budget,) if self._strict else (self._budget, None)
        for budget in budgets:
            try:
                return plan_checkpoints(self._graph, budget=budget, dims=self.sizes)
            except UsageError:
                if self._strict:
                    raise
        return None

    def _parts_for(self, inputs: tuple[Any, ...]) -> PlannedParts | None:
        sizes = {solution.symbol: solution.size(inputs[place].shape) for place, solution in self._solutions}
        if not self._prepared or any(size > self.sizes.get(name, 0) for name, size in sizes.items()):
            self.prepare(sizes)
        return self._parts
