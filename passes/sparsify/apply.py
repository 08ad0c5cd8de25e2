"""Put sparse numbers in the place of a weight, with the annotation that is true of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from graphopt.analysis.table import counted
from graphopt.passes.shrink.layers import constant_numbers
from graphopt.passes.sparsify.layers import Layer
from graphopt.passes.sparsify.patterns import Pattern
from graphopt.pipeline.passes import Outcome
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["Sparsified", "masked", "set_mask", "set_weight", "summary"]

Numbers = Callable[[torch.Tensor], torch.Tensor]


class Sparsified:
    """What a pass did so far."""

    def __init__(self, skipped: Sequence[tuple[str, str]] = ()) -> None:
        self.skipped = list(skipped)
        self.layers: list[tuple[str, int, int]] = []
        self.notes: list[str] = []

    def outcome(self) -> Outcome:
        """With a note on all layers together and one on each."""
        return Outcome(len(self.layers), tuple(self.skipped), (*summary(self.layers), *self.notes))


def set_mask(rewriter: Rewriter, layer: Layer, goes: torch.Tensor, pattern: Pattern, done: Sparsified) -> None:
    """Set the weights under a mask to zero; the others keep their bits."""
    numbers = torch.where(goes, 0.0, layer.numbers())
    _set(rewriter, layer, numbers, pattern, done, lambda weight: masked(weight, goes))


def masked(weight: torch.Tensor, goes: torch.Tensor) -> torch.Tensor:
    """A weight with zeros under a mask; the others keep their bits."""
    return torch.where(goes.to(weight.device), torch.zeros((), dtype=weight.dtype, device=weight.device), weight)


def set_weight(rewriter: Rewriter, layer: Layer, weight: torch.Tensor, pattern: Pattern, done: Sparsified) -> None:
    """Give a layer another weight, with zeros, of the dtype and on the device of the old one."""
    _set(rewriter, layer, weight, pattern, done, constant_numbers(weight))


def _set(rewriter: Rewriter, layer: Layer, numbers: torch.Tensor, pattern: Pattern, done: Sparsified, function: Numbers) -> None:
    annotation = pattern.annotation(numbers, layer)
    zeros = numbers.numel() - int((numbers != 0).sum())
    if not zeros or annotation.ratio == 0:
        done.skipped.append((layer.name, "no weight goes"))
        return
    old = layer.weight
    rewriter.replace_state(old.name, function, replace(old.type, sparsity=annotation), exact=True)
    for node in layer.nodes:
        rewriter.touch(node)
    done.layers.append((layer.name, zeros, numbers.numel()))


def summary(layers: Sequence[tuple[str, int, int]]) -> tuple[str, ...]:
    """Zeros of all layers together, and of each."""
    zeros, elements = sum(layer[1] for layer in layers), sum(layer[2] for layer in layers)
    if not elements:
        return ()
    whole = f"{zeros / elements:.4f} of {elements} weights in {counted(len(layers), 'layer')} are zero"
    return (whole, *(f"{name}: {count / size:.4f} of {size}" for name, count, size in layers))
