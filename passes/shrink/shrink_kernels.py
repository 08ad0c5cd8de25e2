"""Smaller convolution kernels: 7 -> 5 -> 3 -> 1, for each axis as far as it costs little.

    %y: f32[1,64,56,56] = conv2d(%x, %w, none) {padding=(3, 3), ...}        %w: f32[64,64,7,7]
    -> %y = conv2d(%x, %w, none) {padding=(2, 1), ...}                      %w: f32[64,64,5,3]

Of all crops that keep the size of the result (see `graphopt.passes.remove.window_crops`) the one that leaves the
fewest taps is taken, as long as it loses at most `energy`. What is lost is told by `measure`:

- "weights": the squares of the weights that go, over those of all weights. A border of zeros goes always.
- "output": the squared error of the layer's outputs over their variance, on calibration data, with the smaller kernel
  fitted by least squares. Neighbouring pixels are alike, so this is often far less than the weights say.

Where there is calibration data the weights that stay (and the bias) are fitted to it in either case, unless
`refit` is off, layer after layer on what the layers before it really give. Weights that are annotated as sparse are cut
and not fitted, so that their zeros stay.

Numeric class: lossy. Stage: training-safe; weights keep their names and get new shapes.
Source: least squares per layer as in He et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from math import prod
from typing import Any, Literal

import torch

from graphopt.analysis.sparsity_patterns import sparsity_left
from graphopt.errors import PassError
from graphopt.ir.graph import Node, State
from graphopt.ir.types import TensorType
from graphopt.passes.finished import Finished
from graphopt.passes.remove.absorb import CONVOLUTIONS, TRANSPOSED
from graphopt.passes.remove.remove_idle_kernel_borders import cropped_weight
from graphopt.passes.remove.window_crops import Axis, Crop, axes_of, cropped_attrs
from graphopt.passes.shrink.layers import check_patterns, constant_numbers, excluded, layer_name, own_weight
from graphopt.passes.shrink.patches import fit_kernel, patch_moments
from graphopt.passes.shrink.statistics.stream import Stream
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import ContextPass, NumericClass, Outcome, weakened
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["ShrinkKernels"]

_LARGEST_PATCH = 5000
"""Most numbers in a patch for which the moments are computed (200 MB of them)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What goes of one kernel, what that costs, and the numbers of the rest where they were fitted."""

    crops: tuple[Crop, ...]
    loss: float
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None


@dataclass(frozen=True)
class ShrinkKernels(ContextPass):
    """Cut the borders of convolution kernels that matter little."""

    name = "shrink-kernels"
    numeric = NumericClass.LOSSY

    energy: float = field(default=0.05, metadata={"minimum": 0.0, "maximum": 1.0, "help": "largest fraction that one kernel may lose"})
    measure: Literal["weights", "output"] = field(
        default="weights", metadata={"help": "energy of the weights that go, or of the error of the outputs on calibration data"}
    )
    refit: bool = field(default=True, metadata={"help": "fit what stays to the old outputs on calibration data, where there is any"})
    smallest: int = field(default=1, metadata={"minimum": 1, "help": "least number of taps along an axis"})
    only: tuple[str, ...] = field(default=(), metadata={"help": "patterns of layer names to work on"})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "patterns of layer names to leave alone"})

    def weaker(self, strength: float) -> ShrinkKernels:
        """The pass with a smaller energy."""
        return replace(self, energy=weakened(self.energy, strength))

    def apply_with(self, rewriter: Rewriter, context: Context) -> Outcome:
        """Shrink each kernel as far as it may.

        Raises:
            PassError: `measure="output"` without calibration data, or the checkpoint can't be written.
            PassOptionError: a pattern means no convolution.
        """
        graph = rewriter.graph
        if self.measure == "output" and context.calibration is None:
            raise PassError(
                "shrink-kernels with measure='output' needs calibration data",
                fix="pass calibration=loader to optimize, or use measure='weights'",
            )
        kernels = [node for node in graph.nodes if node.op in CONVOLUTIONS or node.op in TRANSPOSED]
        check_patterns(map(layer_name, kernels), only=self.only, exclude=self.exclude)
        if not kernels:
            return Outcome(0)
        fits = context.calibration is not None and (self.refit or self.measure == "output")
        stream = Stream.of(graph, context.calibration) if fits and context.calibration is not None else None
        work = _Work(self, rewriter, stream, context.seed, Finished(context, self.name, self.options(), graph, context.calibration))
        numbers = {node: number for number, node in enumerate(kernels, 1)}
        for node in list(graph.nodes) if stream is not None else kernels:
            made, number = node, numbers.get(node)
            if number is not None:
                if context.progress is not None:
                    context.progress(f"{self.name} {layer_name(node)}, {number} of {len(kernels)}", (number - 1) / len(kernels))
                made = work.shrink(node, f"layer-{number:05}")
            if stream is not None:
                stream.step(made)
        notes = list(stream.notes) if stream is not None else []
        if self.refit and context.calibration is None and work.rewritten:
            notes.append("kernels were cut and not refitted: there is no calibration data")
        return Outcome(work.rewritten, tuple(work.skipped), (*work.notes, *notes, *work.finished.notes))


class _Work:
    """One run of the pass."""

    def __init__(self, options: ShrinkKernels, rewriter: Rewriter, stream: Stream | None, seed: int, finished: Finished) -> None:
        self._options = options
        self._rewriter = rewriter
        self._stream = stream
        self._seed = seed
        self.finished = finished
        self.rewritten = 0
        self.skipped: list[tuple[str, str]] = []
        self.notes: list[str] = []

    def shrink(self, node: Node, key: str) -> Node:
        """The convolution with a smaller kernel, or the same node. What is found is kept under `key`."""
        graph = self._rewriter.graph
        name = layer_name(node)
        reason = excluded(name, self._options.only, self._options.exclude)
        weight = reason or own_weight(graph, node)
        if isinstance(weight, str):
            self.skipped.append((name, weight))
            return node
        kernel = weight.type.static_shape[2:]
        if all(size <= self._options.smallest for size in kernel):
            return node  # a 1x1 convolution is not what the pass is about
        axes = axes_of(node, kernel)
        choice = self._chosen(node, weight, axes, key)
        if isinstance(choice, str):
            self.skipped.append((name, choice))
            return node
        self.rewritten += 1
        left = tuple(axis.kernel - crop.taps for axis, crop in zip(axes, choice.crops, strict=True))
        self.notes.append(f"{name}: {'x'.join(map(str, kernel))} -> {'x'.join(map(str, left))}, loses {choice.loss:.2%}")
        return self._build(node, weight, axes, choice)

    def _chosen(self, node: Node, weight: State, axes: tuple[Axis, ...], key: str) -> Choice | str:
        """What `_choose` gives, or gave before a kill, with its notes."""

        def compute() -> dict[str, Any]:
            before = len(self.notes)
            made = self._choose(node, weight, axes)
            notes, self.notes[before:] = self.notes[before:], []
            if isinstance(made, str):
                return {"notes": notes, "reason": made}
            crops = [(crop.low, crop.high) for crop in made.crops]
            numbers = None if made.weight is None else made.weight.contiguous()  # as it comes out of a file
            return {"notes": notes, "crops": crops, "loss": made.loss, "weight": numbers, "bias": made.bias}

        found = self.finished.result(key, compute)
        self.notes += found["notes"]
        if "reason" in found:
            return found["reason"]
        return Choice(tuple(Crop(*sides) for sides in found["crops"]), found["loss"], found["weight"], found["bias"])

    def _choose(self, node: Node, weight: State, axes: tuple[Axis, ...]) -> Choice | str:
        """The crop that leaves the fewest taps within the limit, and among those the one that loses least."""
        assert weight.data is not None, "own_weight asked for numbers"
        tensor = weight.data.precise().detach().cpu()
        ways = [crops for crops in product(*(axis.crops(self._options.smallest) for axis in axes)) if any(c.taps for c in crops)]
        if not ways:
            return f"no crop of the {'x'.join(str(axis.kernel) for axis in axes)} kernel keeps the size of the result: padding is too small"
        taps = tensor.square().sum((0, 1))
        by_weight = [Choice(crops, _lost(taps, crops)) for crops in ways]
        fitted = self._fitting(node, weight, tensor, axes)
        if self._options.measure == "weights":
            return self._choose_by_weight(by_weight, axes, fitted)
        if isinstance(fitted, str):
            return f"{fitted}, so its outputs were not measured"
        return self._choose_by_output(by_weight, axes, fitted)

    def _choose_by_weight(self, choices: list[Choice], axes: tuple[Axis, ...], fitted: _Fitting | str | None) -> Choice | str:
        possible = [choice for choice in choices if choice.loss <= self._options.energy]
        if not possible:
            least = min(choices, key=lambda choice: choice.loss)
            return f"every crop loses at least {least.loss:.2%} of the weights' energy, at most {self._options.energy:.2%} may go"
        best = min(possible, key=lambda choice: (_taps_left(axes, choice.crops), choice.loss))
        if fitted is None or isinstance(fitted, str) or best.loss == 0 or not self._options.refit:
            if isinstance(fitted, str):
                self.notes.append(f"{fitted}: cut without refit")
            return best
        return fitted.fit(best.crops)

    def _choose_by_output(self, choices: list[Choice], axes: tuple[Axis, ...], fitted: _Fitting | None) -> Choice | str:
        assert fitted is not None, "measuring outputs needs calibration data"
        least = float("inf")
        for choice in sorted(choices, key=lambda choice: (_taps_left(axes, choice.crops), choice.loss)):
            found = fitted.fit(choice.crops)
            if found.loss <= self._options.energy:
                return found
            least = min(least, found.loss)
        return f"every crop loses at least {least:.2%} of the outputs' energy, at most {self._options.energy:.2%} may go"

    def _fitting(self, node: Node, state: State, weight: torch.Tensor, axes: tuple[Axis, ...]) -> _Fitting | str | None:
        """What fits this layer to the data; None without any, or why it can't be done."""
        if self._stream is None:
            return None
        if node.op in TRANSPOSED:
            return f"{layer_name(node)} is a transposed convolution"
        if state.type.sparsity is not None:
            return f"{layer_name(node)} is sparse, a fit would fill its zeros"
        size = prod(weight.shape[1:])
        if size > _LARGEST_PATCH:
            return f"{layer_name(node)} reads {size} numbers at once, at most {_LARGEST_PATCH} are fitted"
        bias = own_weight(self._rewriter.graph, node, 2) if node.operands[2] is not None else None
        return _Fitting(node, weight, bias if isinstance(bias, State) else None, self._stream, axes, self._seed)

    def _build(self, node: Node, weight: State, axes: tuple[Axis, ...], choice: Choice) -> Node:
        crops, rewriter = choice.crops, self._rewriter
        kernel = tuple(axis.kernel - crop.taps for axis, crop in zip(axes, crops, strict=True))
        type_ = TensorType(weight.type.dtype, (*weight.type.static_shape[:2], *kernel))
        if choice.weight is None:
            crop = partial(cropped_weight, crops=crops)
            rewriter.replace_state(weight.name, crop, replace(type_, sparsity=sparsity_left(weight, crop)), exact=True)
        else:
            rewriter.replace_state(weight.name, constant_numbers(choice.weight.reshape(type_.static_shape)), type_)
        bias = rewriter.graph.state_of(node.operands[2])
        if choice.bias is not None and bias is not None:
            rewriter.replace_state(bias.name, constant_numbers(choice.bias), bias.type)
        return rewriter.remake(node, cropped_attrs(node, axes, crops), [node.result.type])


class _Fitting:
    """Fits smaller kernels of one layer to its data; the moments are computed once."""

    def __init__(self, node: Node, weight: torch.Tensor, bias: State | None, stream: Stream, axes: tuple[Axis, ...], seed: int) -> None:
        kernel = tuple(axis.kernel for axis in axes)
        self._kernel = kernel
        self._weight = weight.flatten(2)
        self._bias = bias.data.precise().detach().cpu() if bias is not None and bias.data is not None else None
        self._moments = lambda: patch_moments(node, stream.tensors(node.operands[0]), kernel, seed)

    def fit(self, crops: tuple[Crop, ...]) -> Choice:
        """The best kernel on the taps that a crop leaves."""
        moments = self._moments()
        self._moments = lambda: moments
        kept = torch.zeros(self._kernel, dtype=torch.bool)
        cropped_weight(kept, crops).fill_(True)
        found = fit_kernel(moments, self._weight, kept.flatten(), bias=self._bias)
        return Choice(crops, found.loss, found.weight, found.bias)


def _taps_left(axes: tuple[Axis, ...], crops: tuple[Crop, ...]) -> int:
    return prod(axis.kernel - crop.taps for axis, crop in zip(axes, crops, strict=True))


def _lost(taps: torch.Tensor, crops: tuple[Crop, ...]) -> float:
    """The energy of the taps that go, as a fraction."""
    rest = taps.clone()
    cropped_weight(rest, crops).zero_()
    total = float(taps.sum())
    return float(rest.sum()) / total if total else 0.0
