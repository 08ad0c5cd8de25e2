"""A student that computes activations twice where its memory would not do, by a plan made when its batches are seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from graphopt.backends.reference.binding import bind_dims
from graphopt.ir.graph import Graph
from graphopt.train.batched.checkpointing import CheckpointPlan, PlannedParts, plan_checkpoints

__all__ = ["ActivationMemory", "Planned"]

ActivationMemory: TypeAlias = 'int | Literal["least"] | None'
"""Bytes of activations that are kept at most, the least that is possible, or None: all are kept."""


class Planned:
    """Makes a flat module of a graph follow a plan where gradients are wanted; elsewhere it computes as before.

    Sizes of symbolic dimensions are not known before the first batch. The plan is made for the largest ones so far, as
    smaller batches need less, and is made anew when larger ones come.
    """

    def __init__(self, graph: Graph, module: nn.Module, memory: ActivationMemory) -> None:
        self._graph = graph
        self._budget = memory if isinstance(memory, int) else None
        self._parts: PlannedParts | None = None
        self.plan: CheckpointPlan | None = None
        self.sizes: dict[str, int] = {}
        """Of the symbols, that the plan was made for."""
        plain = type(module)

        def forward(self_: nn.Module, *inputs: Any) -> Any:
            if not torch.is_grad_enabled():
                return plain.forward(self_, *inputs)
            return tuple(self._parts_for(inputs).run(self_, inputs))

        module.__class__ = type(plain.__name__, (plain,), {"forward": forward})

    def prepare(self, sizes: Mapping[str, int]) -> None:
        """Make the plan for these sizes, or larger ones that were seen.

        Raises:
            UsageError: the budget can't be kept.
        """
        self.sizes = {name: max(size, self.sizes.get(name, 0)) for name, size in sizes.items()}
        self.plan = plan_checkpoints(self._graph, budget=self._budget, dims=self.sizes)
        self._parts = PlannedParts(self._graph, self.plan)

    def _parts_for(self, inputs: tuple[Any, ...]) -> PlannedParts:
        sizes = bind_dims(self._graph, inputs)
        if self._parts is None or any(size > self.sizes.get(name, 0) for name, size in sizes.items()):
            self.prepare(sizes)
        assert self._parts is not None, "prepare has made them"
        return self._parts
