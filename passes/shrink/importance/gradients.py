"""Gradients of a graph's weights on calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from graphopt.capture.module import to_module
from graphopt.errors import PassError
from graphopt.ir.graph import Graph
from graphopt.passes.shrink.importance.loss import loss_of, random_signs
from graphopt.pipeline.calibration import Batch
from graphopt.pipeline.randomness import seeded

__all__ = ["Differentiable"]


class Differentiable:
    """A graph as a function of some of its states, by name.

    The numbers are shared with the graph; neither they nor their flags are changed. In eval mode: batch norms use
    their running statistics, dropout does nothing.
    """

    def __init__(self, graph: Graph, names: Iterable[str], seed: int) -> None:
        self.module: nn.Module = to_module(graph, flat=True)
        self.module.requires_grad_(False)
        known = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        self.weights: dict[str, torch.Tensor] = {name: known[name] for name in names}
        self._output_count = len(graph.outputs)
        self._seed = seed

    def outputs(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The flat outputs, without gradients."""
        with torch.no_grad():
            return self.module(*inputs)

    def signs(self, batch: Batch, index: int) -> list[torch.Tensor | None]:
        """Random signs for the outputs of a batch that has no targets, always the same for the batch of that index."""
        if batch.target is not None:
            return [None] * self._output_count
        return random_signs(self.outputs(batch.inputs), torch.Generator().manual_seed(abs(self._seed) + index))

    def gradients(
        self, inputs: Sequence[torch.Tensor], target: torch.Tensor | None, signs: Sequence[torch.Tensor | None]
    ) -> dict[str, torch.Tensor]:
        """The gradient of the batch's loss with respect to each weight.

        Raises:
            PassError: the graph has no gradients, or a target is no class of the outputs; the message has torch's words.
        """
        for weight in self.weights.values():
            weight.requires_grad_(True)
        try:
            with torch.enable_grad(), seeded():  # as every run of a graph that draws random numbers
                loss = loss_of(self.module(*inputs), target, signs)
                found = torch.autograd.grad(loss, list(self.weights.values()), allow_unused=True, materialize_grads=True)
        except IndexError as error:
            raise PassError(
                f"the targets do not fit the outputs: {str(error).strip().splitlines()[0]}",
                fix="give class indices from 0 to the number of classes - 1, or data without targets",
            ) from error
        except RuntimeError as error:
            raise PassError(
                f"the graph has no gradients: {str(error).strip().splitlines()[0]}", fix="use an importance that needs none: l2, activation"
            ) from error
        finally:
            for weight in self.weights.values():
                weight.requires_grad_(False)
        return dict(zip(self.weights, found, strict=True))

    def per_sample(
        self, inputs: Sequence[torch.Tensor], target: torch.Tensor | None, signs: Sequence[torch.Tensor | None]
    ) -> dict[str, torch.Tensor]:
        """The gradients of each sample's own loss, with samples on axis 0, by torch.func (vmap over grad).

        Raises:
            RuntimeError: vmap can't do an op of the graph.
        """
        given = [*inputs, *([] if target is None else [target]), *(sign for sign in signs if sign is not None)]

        def loss(weights: dict[str, torch.Tensor], *sample: torch.Tensor) -> torch.Tensor:
            parts = iter([tensor[None] for tensor in sample])
            arguments = tuple(next(parts) for _ in inputs)
            wanted = None if target is None else next(parts)
            chosen = [None if sign is None else next(parts) for sign in signs]
            return loss_of(torch.func.functional_call(self.module, weights, arguments), wanted, chosen)

        return torch.func.vmap(torch.func.grad(loss), in_dims=(None, *[0] * len(given)))(dict(self.weights), *given)
