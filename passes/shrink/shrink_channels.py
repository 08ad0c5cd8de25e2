"""Take out the least important units of every hidden axis: channels, neurons, heads, embedding features.

    %a: f32[1,64,56,56] = conv2d(%x, %conv1.weight, none)      ratio 0.5      %conv1.weight: f32[64,3,3,3]
    %y: f32[1,10,56,56] = conv2d(%a, %conv2.weight, none)                     %conv2.weight: f32[10,64,1,1]
    -> %a: f32[1,32,56,56] = conv2d(%x, %conv1.weight, none)                  %conv1.weight: f32[32,3,3,3]
       %y: f32[1,10,56,56] = conv2d(%a, %conv2.weight, none)                  %conv2.weight: f32[10,32,1,1]

Which positions belong together is found by `graphopt.analysis.axes`; options are told in docs/shrink.md.

Numeric class: lossy. Stage: training-safe. Source: structured pruning by dependency groups (Fang et al., DepGraph:
Towards Any Structural Pruning, CVPR 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.shrink.structured import ShrinkGroups

__all__ = ["ShrinkChannels"]


@dataclass(frozen=True)
class ShrinkChannels(ShrinkGroups):
    """Remove a fraction of the units of every hidden axis that can go."""

    name = "shrink-channels"
