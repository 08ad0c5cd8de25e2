"""Zeros that weights hold already are written into their types, where backends see them.

    param %fc.weight: f32[768,768]                    2 of every 4 inputs are zero
    -> param %fc.weight: f32[768,768] sparse<2:4 axis=1 0.5>

The narrowest pattern that holds for all numbers is taken: N:M along the inputs, blocks, else unstructured
(`graphopt.analysis.sparsity_patterns`). An annotation that is true stays; one that is not is corrected, or goes where fewer
than `least` of the weights are zero.

Numeric class: exact, no number changes. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphopt.analysis.sparsity import annotation_holds
from graphopt.analysis.sparsity_patterns import fitting_pattern
from graphopt.ir.types import Sparsity
from graphopt.passes.sparsify.layers import Layer, Scope, find_layers
from graphopt.pipeline.passes import NumericClass, Outcome, Pass
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["AnnotateSparsity"]


@dataclass(frozen=True)
class AnnotateSparsity(Pass):
    """Recognise zeros in the weights of linear layers and convolutions."""

    name = "annotate-sparsity"
    numeric = NumericClass.EXACT

    least: float = field(
        default=0.3, metadata={"minimum": 0.0, "maximum": 1.0, "help": "fraction of zeros from which on a weight is sparse"}
    )
    only: tuple[str, ...] = field(default=(), metadata={"help": "patterns of layer names to look at"})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "patterns of layer names to leave alone"})

    def apply(self, rewriter: Rewriter) -> Outcome:
        """Annotate.

        Raises:
            PassOptionError: a pattern of names means no layer.
        """
        layers, skipped = find_layers(rewriter.graph, Scope(self.only, self.exclude, dense_ends=False, depthwise=True))
        notes: list[str] = []
        for layer in layers:
            old = layer.weight.type.sparsity
            found, ratio = self._look(layer)
            if found is None and old is None:
                if ratio:
                    skipped.append((layer.name, f"{ratio:.4f} of its weights are zero, needs {self.least:g} (least)"))
            elif found != old:
                rewriter.annotate(layer.weight.name, found)
                notes.append(f"{layer.name}: {found.text if found is not None else 'dense'}")
        return Outcome(len(notes), tuple(skipped), tuple(notes))

    def _look(self, layer: Layer) -> tuple[Sparsity | None, float]:
        """What is true of a weight, and its fraction of zeros."""
        assert layer.weight.data is not None, "find_layers asked for numbers"
        numbers = layer.weight.data.tensor().detach()
        old = layer.weight.type.sparsity
        zeros = numbers.numel() - int((numbers != 0).sum())
        ratio = zeros / numbers.numel()
        if old is not None and annotation_holds(numbers, old):
            return old, ratio
        if not zeros or ratio < self.least:
            return None, ratio
        return fitting_pattern(numbers, 0 if layer.transposed else 1), ratio
