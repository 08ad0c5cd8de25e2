"""The frame of passes that look at what each layer reads: one layer after the other, in execution order.

Calibration batches go through the network side by side. A layer is made sparse when they arrive at it and they go on through
the sparse one, so later layers see what earlier ones really give. A pass that wants to know what a layer would read in the dense
network gets that from a second stream, which begins at the first sparse layer. Memory: the values that are alive at one layer
(in both streams, if there are two), and the moments of one layer at a time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch

from graphopt.errors import PassError
from graphopt.ir.graph import Graph, State
from graphopt.passes.finished import Finished
from graphopt.passes.shrink.layers import constant_numbers, own_weight
from graphopt.passes.shrink.statistics.stream import Stream
from graphopt.passes.sparsify.apply import Sparsified, set_weight
from graphopt.passes.sparsify.inputs import Inputs
from graphopt.passes.sparsify.layers import Layer
from graphopt.passes.sparsify.masking import Sparsify
from graphopt.passes.sparsify.patterns import NOfM, Pattern, UnitPattern, parse_pattern
from graphopt.passes.sparsify.ratios import layers_within, ranked_ratios, shared_ratios, weaker_within
from graphopt.passes.sparsify.scores import calibration_of, weight_scores
from graphopt.pipeline.context import Context
from graphopt.pipeline.memory import release_free_memory
from graphopt.pipeline.passes import Outcome, Pass
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["DataAwarePass", "Solution"]


@dataclass(frozen=True, slots=True)
class Solution:
    """New numbers of a layer, in the dtypes of its own: the weight with zeros, and the bias where that changes too."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataAwarePass(Sparsify):
    """Patterns and ratios of layers that are made sparse from their inputs."""

    pattern: str = field(default="unstructured", metadata={"help": "'unstructured', N:M as '2:4', or output channels x inputs as '4x1'"})
    scope: Literal["layer", "global", "erk", "uniform-plus"] = field(
        default="layer",
        metadata={
            "help": "how zeros are shared out among layers: alike, as one ranking of all weights by size would, or by the size of layers"
        },
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
    def solve(self, graph: Graph, layer: Layer, inputs: Inputs, pattern: Pattern, ratio: float, seed: int) -> Solution:
        """Sparse weights for one layer."""

    def compares(self) -> bool:
        """True where `solve` looks at what a layer reads in the dense network too."""
        return False

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
        finished = Finished(context, self.name, self.options(), graph, calibration)
        ratios = self._ratios(graph, layers, pattern, context, done)
        todo = {layer.nodes[0]: layer for layer in layers if ratios[layer] > 0}
        stream = Stream.of(graph, calibration, streams=2 if self.compares() else 1)
        dense: Stream | None = None
        done.notes += stream.notes
        count = len(todo)
        for node in list(graph.nodes):
            layer = todo.pop(node, None)
            if layer is not None:
                number = count - len(todo)
                if context.progress is not None:
                    context.progress(f"{self.name} {layer.name}, {number} of {count}", (number - 1) / count)
                values = stream.tensors(node.operands[0])
                inputs = _inputs(values, [] if dense is None else dense.tensors(node.operands[0]))
                _check_finite(layer, values)
                if inputs.dense is not values:
                    _check_finite(layer, inputs.dense)
                if dense is None and self.compares():
                    dense = stream.fork(frozen=True)

                def solved(layer: Layer = layer, inputs: Inputs = inputs) -> dict[str, Any]:
                    return asdict(self.solve(graph, layer, inputs, pattern, ratios[layer], context.seed))

                _install(rewriter, layer, Solution(**finished.result(f"layer-{number:05}", solved)), pattern, done)
                release_free_memory()
            if not todo:
                break
            stream.step(node)
            if dense is not None:
                dense.step(node)
        done.notes += finished.notes
        return done.outcome()

    def weaker(self, strength: float) -> Pass | None:
        """A smaller ratio; with N:M, fewer layers with zeros."""
        pattern = parse_pattern(self.pattern)
        if isinstance(pattern, NOfM):
            return replace(self, ratio=weaker_within(pattern, self.ratio, strength))
        return super().weaker(strength)

    def _keeps_some(self) -> bool:
        return isinstance(parse_pattern(self.pattern), NOfM)

    def _ratios(self, graph: Graph, layers: Sequence[Layer], pattern: Pattern, context: Context, done: Sparsified) -> dict[Layer, float]:
        """The ratio of each layer, 0 for one that stays dense."""
        if isinstance(pattern, NOfM):
            allowed = layers_within(layers, pattern, weight_scores(graph, layers, "magnitude", context), self.ratio)
            ratios = {layer: 1 - pattern.n / pattern.m if layer in allowed else 0.0 for layer in layers}
            why = f"more zeros than ratio {self.ratio:g} allows; it loses more than others"
        elif self.ratios == "sensitivity":
            ratios = self.measured_ratios(graph, layers, pattern, weight_scores(graph, layers, "magnitude", context), context, done)
            why = "it stays dense (sensitivity)"
        elif self.scope == "global":
            assert isinstance(pattern, UnitPattern), "patterns are of units or N:M"
            ratios = ranked_ratios(layers, pattern, weight_scores(graph, layers, "magnitude", context), self.ratio)
            why = "it stays dense (global)"
        else:
            ratios = shared_ratios(layers, self.ratio, self.scope)
            why = f"it stays dense ({self.scope})"
        done.skipped.extend((layer.name, why) for layer in layers if ratios[layer] == 0)
        return ratios


def _install(rewriter: Rewriter, layer: Layer, solution: Solution, pattern: Pattern, done: Sparsified) -> None:
    """Put new numbers into the graph."""
    assert layer.weight.data is not None, "find_layers asked for numbers"
    device = layer.weight.data.tensor().device
    done.notes += solution.notes
    set_weight(rewriter, layer, solution.weight.to(device), pattern, done)
    bias = own_weight(rewriter.graph, layer.nodes[0], 2) if solution.bias is not None else None
    if isinstance(bias, State) and solution.bias is not None:
        rewriter.replace_state(bias.name, constant_numbers(solution.bias.to(device)), bias.type, exact=True)


def _inputs(values: Sequence[torch.Tensor], dense: Sequence[torch.Tensor]) -> Inputs:
    """What a layer reads; the dense network gives the same tensors where no layer in front of them is sparse."""
    return Inputs(values, dense if any(a is not b for a, b in zip(values, dense, strict=bool(dense))) else values)


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
