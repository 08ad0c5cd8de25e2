"""The smallest weights become zero, each by itself.

    param %conv.weight: f32[64,64,3,3]
    -> param %conv.weight: f32[64,64,3,3] sparse<unstructured 0.8>

Of equal weights the first go, so the ratio is exact to one weight. With `threshold`, weights of at least that size stay
in any case: `{ratio=1.0, threshold=0.01}` sets every weight below 0.01 to zero. `importance` may rank weights by
gradients on calibration data instead, see `graphopt.passes.sparsify.scores`; how zeros are shared out among layers
stands in `graphopt.passes.sparsify.ratios` and `graphopt.passes.sparsify.sensitivity`.

Numeric class: lossy. Stage: training-safe; weights keep names, shapes and ties, and those that stay keep their bits.
Source: Han et al., Learning both Weights and Connections for Efficient Neural Networks, NIPS 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from graphopt.errors import PassOptionError
from graphopt.ir.graph import Graph
from graphopt.passes.sparsify.layers import Layer
from graphopt.passes.sparsify.masking import MaskingPass
from graphopt.passes.sparsify.patterns import Pattern, Unstructured
from graphopt.passes.sparsify.scores import WeightScores, weight_scores
from graphopt.pipeline.context import Context

__all__ = ["SparsifyMagnitude"]


@dataclass(frozen=True)
class SparsifyMagnitude(MaskingPass):
    """Set the smallest weights to zero."""

    name = "sparsify-magnitude"

    threshold: float | None = field(default=None, metadata={"minimum": 0.0, "help": "weights of at least this size stay"})
    importance: Literal["magnitude", "taylor", "movement"] = field(
        default="magnitude", metadata={"help": "what weights are ranked by; the last two need calibration data"}
    )

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            PassOptionError: an option has the wrong type or is out of its range, or two do not go together.
        """
        super().__post_init__()
        if self.threshold is not None and self.importance != "magnitude":
            raise PassOptionError(f"threshold is one of magnitudes, and importance is '{self.importance}'", fix="leave one of them out")

    def pattern(self) -> Pattern:
        """Each weight by itself."""
        return Unstructured()

    def scores(self, graph: Graph, layers: Sequence[Layer], context: Context) -> WeightScores:
        """As `importance` says."""
        return weight_scores(graph, layers, self.importance, context)

    def limit(self) -> float | None:
        """The threshold."""
        return self.threshold

    def _keeps_some(self) -> bool:
        return self.threshold is not None
