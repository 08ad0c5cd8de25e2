"""Take out the least important attention heads, or with `heads="inside"` features inside every head.

    %q: f32[1,12,197,64] ... %a: f32[1,12,197,64] = scaled_dot_product_attention(%q, %k, %v, none) {scale=none, ...}
    ratio 0.5                    -> %a: f32[1,6,197,64]
    ratio 0.5, heads="inside"    -> %a: f32[1,12,197,32] with {scale=0.125}: the scale stays that of 64 features

Queries, keys and values lose the same heads; with grouped queries a key's head goes with all queries that read it.

Numeric class: lossy. Stage: training-safe. Source: Michel et al., Are Sixteen Heads Really Better than One?, NeurIPS 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.shrink.structured import ShrinkGroups

__all__ = ["ShrinkHeads"]


@dataclass(frozen=True)
class ShrinkHeads(ShrinkGroups):
    """Remove a fraction of the attention heads, or of the features inside them."""

    name = "shrink-heads"
    kinds = frozenset({"head", "feature"})
