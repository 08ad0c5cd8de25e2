"""Of every M consecutive inputs the N most important weights stay, for each output channel and tap.

    param %fc.weight: f32[768,768]
    -> param %fc.weight: f32[768,768] sparse<2:4 axis=1 0.5>

With `rows=R`, R consecutive output channels share the choice, so that a kernel reads an input once for all of them. A layer
is left alone where M does not divide its inputs (of a group) or R its outputs.

`ratio` is the largest fraction of zeros over all layers: below 1 - N/M the layers whose weights lose the smallest part of
their scores become sparse and the others stay dense, which is how a quality budget is kept.

Numeric class: lossy. Stage: training-safe; weights keep names, shapes and ties, and those that stay keep their bits.
Source: Mishra et al., Accelerating Sparse Deep Neural Networks, 2021 (2:4); Zhou et al., Learning N:M Fine-grained
Structured Sparse Neural Networks From Scratch, ICLR 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from graphopt.errors import PassOptionError
from graphopt.passes.sparsify.apply import set_mask
from graphopt.passes.sparsify.masking import Sparsify
from graphopt.passes.sparsify.patterns import NOfM
from graphopt.passes.sparsify.ratios import layers_within, weaker_within
from graphopt.passes.sparsify.scores import weight_scores
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import Outcome
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["SparsifyNM"]


@dataclass(frozen=True)
class SparsifyNM(Sparsify):
    """Keep N of every M weights along the inputs."""

    name = "sparsify-n-m"

    ratio: float = field(default=1.0, metadata={"minimum": 0.0, "maximum": 1.0, "help": "largest fraction of zeros over all layers"})
    n: int = field(default=2, metadata={"minimum": 1, "help": "weights that stay of every m"})
    m: int = field(default=4, metadata={"minimum": 2, "help": "consecutive inputs of which n stay"})
    rows: int = field(default=1, metadata={"minimum": 1, "help": "consecutive output channels that share the choice"})
    importance: Literal["magnitude", "taylor", "movement"] = field(
        default="magnitude", metadata={"help": "what weights are ranked by; the last two need calibration data"}
    )

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            PassOptionError: an option has the wrong type or is out of its range, or n is not below m.
        """
        super().__post_init__()
        if self.n >= self.m:
            raise PassOptionError(f"n is {self.n} and m is {self.m}, needs n < m", fix="2:4 is n=2, m=4")

    def apply_with(self, rewriter: Rewriter, context: Context) -> Outcome:
        """Choose and set the weights to zero.

        Raises:
            PassOptionError: a pattern of names means no layer.
            PassError: calibration data is needed and there is none.
        """
        pattern = NOfM(self.n, self.m, self.rows)
        layers, done = self.layers(rewriter.graph, pattern)
        if not layers:
            return done.outcome()
        score = weight_scores(rewriter.graph, layers, self.importance, context)
        allowed = layers_within(layers, pattern, score, self.ratio)
        for layer in layers:
            if layer in allowed:
                set_mask(rewriter, layer, pattern.goes(score(layer), layer, self.ratio), pattern, done)
            else:
                done.skipped.append((layer.name, f"more zeros than ratio {self.ratio:g} allows; it loses more than others"))
        return done.outcome()

    def weaker(self, strength: float) -> SparsifyNM:
        """Fewer layers with zeros."""
        return replace(self, ratio=weaker_within(NOfM(self.n, self.m), self.ratio, strength))

    def _keeps_some(self) -> bool:
        return True
