"""Gradients of a graph's weights on calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import torch
from torch import nn

from graphopt.capture.module import to_module
from graphopt.errors import PassError
from graphopt.ir.graph import Graph
from graphopt.passes.shrink.importance.loss import loss_of, random_signs
from graphopt.pipeline.calibration import Batch
from graphopt.pipeline.randomness import seeded
from graphopt.train.batched.per_sample import SampleGradients
from graphopt.train.batched.planned import Planned

__all__ = ["ACTIVATION_BYTES", "Differentiable"]

ACTIVATION_BYTES = 1 << 30
"""Activations of a batch that are kept for its backward pass at most, where the graph can do with that."""


class Differentiable:
    """A graph as a function of some of its states, by name.

    The numbers are shared with the graph; neither they nor their flags are changed. In eval mode: batch norms use
    their running statistics, dropout does nothing. Where a batch's activations take more than `ACTIVATION_BYTES`, parts of the
    graph are run again in the backward pass. Pieces of the batch would do too, but only for graphs that treat rows apart.
    """

    def __init__(self, graph: Graph, names: Iterable[str], seed: int) -> None:
        self.module: nn.Module = to_module(graph, flat=True)
        self.module.requires_grad_(False)
        self._graph = graph
        self._samples = SampleGradients()
        Planned(graph, self.module, ACTIVATION_BYTES, strict=False)
        known = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        self.weights: dict[str, torch.Tensor] = {name: known[name] for name in names}
        self._output_count = len(graph.outputs)
        self._seed = seed

    @cached_property
    def _plain(self) -> nn.Module:
        """The same numbers for vmap, which can't run parts again."""
        return to_module(self._graph, flat=True).requires_grad_(False)

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
    ) -> Iterator[dict[str, torch.Tensor]]:
        """The gradients of each sample's own loss, with samples on axis 0, in chunks; see `graphopt.train.batched.per_sample`.

        Raises:
            PassError: as `gradients`.
        """

        def taken(given: Iterable[torch.Tensor]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None, list[torch.Tensor | None]]:
            parts = iter(given)
            arguments = tuple(next(parts) for _ in inputs)
            wanted = None if target is None else next(parts)
            return arguments, wanted, [None if sign is None else next(parts) for sign in signs]

        def loss(weights: dict[str, torch.Tensor], *sample: torch.Tensor) -> torch.Tensor:
            arguments, wanted, chosen = taken(tensor[None] for tensor in sample)
            return loss_of(torch.func.functional_call(self._plain, weights, arguments), wanted, chosen)

        given = [*inputs, *([] if target is None else [target]), *(sign for sign in signs if sign is not None)]
        return self._samples.chunks(loss, dict(self.weights), given, lambda *rows: self.gradients(*taken(rows)))
