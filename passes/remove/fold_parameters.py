"""Compute before the run what depends on parameters and constants alone.

    %weight: f32[8,4] = weight_norm(%v, %g) {axis=0}          %t: f32[4,8] = permute(%w) {axes=(1, 0)}
    -> param %weight_folded: f32[8,4]                         -> param %t_folded: f32[4,8]

As `fold-constants`, with parameters and running statistics counted as constants. A result larger than `max_bytes`
is folded too where what it is made from goes away.

Numeric class: exact; the reference kernels compute in the declared dtypes what the model would compute.
Stage: deploy; training would move the result and not the parameters that it came from.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.remove.fold_constants import FoldConstants
from graphopt.pipeline.passes import Stage

__all__ = ["FoldParameters"]


@dataclass(frozen=True)
class FoldParameters(FoldConstants):
    """Compute subgraphs of parameters and constants; a result may have up to `max_bytes`."""

    name = "fold-parameters"
    stage = Stage.DEPLOY
    parameters = True
