"""Take out the least important neurons: hidden features of linear layers, as between the two layers of an MLP.

    %h: f32[1,197,3072] = linear(%x, %fc1.weight, %fc1.bias)    ratio 0.5
    %y: f32[1,197,768] = linear(%h, %fc2.weight, %fc2.bias)
    -> %h: f32[1,197,1536] = linear(%x, %fc1.weight, %fc1.bias)
       %y: f32[1,197,768] = linear(%h, %fc2.weight, %fc2.bias)

Numeric class: lossy. Stage: training-safe. Source: see `shrink_channels`, of which this is the part for linear layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.shrink.structured import ShrinkGroups

__all__ = ["ShrinkNeurons"]


@dataclass(frozen=True)
class ShrinkNeurons(ShrinkGroups):
    """Remove a fraction of the neurons of linear layers."""

    name = "shrink-neurons"
    kinds = frozenset({"neuron"})
