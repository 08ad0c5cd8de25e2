"""The frame of passes that look at what each layer reads: one layer after the other, in execution order.

Calibration batches go through the network side by side. A layer is made sparse when they arrive at it and they go on through
the sparse one, so later layers see what earlier ones really give. Memory: the values that are alive at one layer, and the
moments of one layer at a time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from graphopt.errors import PassError
from graphopt.ir.graph import Graph
from graphopt.passes.shrink.statistics.stream import Stream
from graphopt.passes.sparsify.apply import Sparsified
from graphopt.passes.sparsify.layers import Layer
from graphopt.passes.sparsify.masking import Sparsify
from graphopt.passes.sparsify.patterns import NOfM, Pattern, parse_pattern
from graphopt.passes.sparsify.ratios import layers_within, shared_ratios
from graphopt.passes.sparsify.scores import calibration_of, weight_scores
from graphopt.passes.sparsify.sensitivity import sensitive_ratios
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import Outcome
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["DataAwarePass"]


@dataclass(frozen=True)
class DataAwarePass(Sparsify):
    """Patterns and ratios of layers that are made sparse from their inputs."""

    pattern: str = field(default="unstructured", metadata={"help": "'unstructured', N:M as '2:4', or output channels x inputs as '4x1'"})
    scope: Literal["layer", "erk", "uniform-plus"] = field(
        default="layer", metadata={"help": "how zeros are shared out among layers: alike, or by their size"}
    )
    ratios: Literal["scope", "sensitivity"] = field(
        default="scope", metadata={"help": "ratios of layers by `scope`, or by what each does to the outputs"}
    )

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            PassOptionError: an option has the wrong type or is out of its range.
        """
        super().__post_init__()
        parse_pattern(self.pattern)

    @abstractmethod
    def solve(
        self, rewriter: Rewriter, layer: Layer, values: Sequence[torch.Tensor], pattern: Pattern, ratio: float, seed: int, done: Sparsified
    ) -> None:
        """Give one layer sparse weights; `values` is what it reads in each batch."""

    def apply_with(self, rewriter: Rewriter, context: Context) -> Outcome:
        """Go through the network.

        Raises:
            PassOptionError: a pattern of names means no layer, or nothing would be left.
            PassError: there is no calibration data, or it makes values that are not finite.
        """
        graph, pattern = rewriter.graph, parse_pattern(self.pattern)
        calibration = calibration_of(context, self.name)
        found, done = self.layers(graph, pattern, ends_too=self.scope == "uniform-plus" and self.ratios == "scope")
        layers: list[Layer] = []
        for layer in found:
            reason = _unfit(layer)
            if reason is None:
                layers.append(layer)
            else:
                done.skipped.append((layer.name, reason))
        if not layers:
            return done.outcome()
        ratios = self._ratios(graph, layers, pattern, context, done)
        todo = {layer.nodes[0]: layer for layer in layers if ratios[layer] > 0}
        stream = Stream.of(graph, calibration)
        done.notes += stream.notes
        for node in list(graph.nodes):
            layer = todo.pop(node, None)
            if layer is not None:
                if context.progress is not None:
                    context.progress(f"{self.name} {layer.name}", 1 - (len(todo) + 1) / len(layers))
                values = stream.tensors(node.operands[0])
                _check_finite(layer, values)
                self.solve(rewriter, layer, values, pattern, ratios[layer], context.seed, done)
            stream.step(node)
            if not todo:
                break
        return done.outcome()

    def _keeps_some(self) -> bool:
        return isinstance(parse_pattern(self.pattern), NOfM)

    def _ratios(self, graph: Graph, layers: Sequence[Layer], pattern: Pattern, context: Context, done: Sparsified) -> dict[Layer, float]:
        """The ratio of each layer, 0 for one that stays dense."""
        if isinstance(pattern, NOfM):
            allowed = layers_within(layers, pattern, weight_scores(graph, layers, "magnitude", context), self.ratio)
            ratios = {layer: 1 - pattern.n / pattern.m if layer in allowed else 0.0 for layer in layers}
            why = f"more zeros than ratio {self.ratio:g} allows; it loses more than others"
        elif self.ratios == "sensitivity":
            ratios = sensitive_ratios(graph, layers, pattern, weight_scores(graph, layers, "magnitude", context), self.ratio, context)
            why = "it stays dense (sensitivity)"
        else:
            ratios = shared_ratios(layers, self.ratio, self.scope)
            why = f"it stays dense ({self.scope})"
        done.skipped.extend((layer.name, why) for layer in layers if ratios[layer] == 0)
        return ratios


def _unfit(layer: Layer) -> str | None:
    if layer.transposed:
        return "transposed convolutions add up patches, which is not fitted here; sparsify-magnitude takes them"
    if len(layer.nodes) > 1:
        return f"%{layer.weight.name} is read by {len(layer.nodes)} layers, needs 1"
    return None


def _check_finite(layer: Layer, values: Sequence[torch.Tensor]) -> None:
    if not all(bool(x.isfinite().all()) for x in values):
        raise PassError(
            f"what '{layer.name}' reads on calibration data has NaN or infinite values",
            fix="run the model on the calibration data to see where they come from",
        )
