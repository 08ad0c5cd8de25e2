"""Keep one of several states with the same bytes, parameters and running statistics among them.

    param %a.weight: f32[8,8]          %x1 = linear(%x, %a.weight, none)
    param %b.weight: f32[8,8]          %y1 = linear(%y, %b.weight, none)
    -> param %a.weight: f32[8,8] tied ("b.weight",)       %y1 = linear(%y, %a.weight, none)

As `merge-duplicate-constants`, without its exceptions. Numeric class: exact. Stage: deploy; training would move
the two parameters together that moved apart before.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.passes.remove.merge_duplicate_constants import MergeDuplicateConstants
from graphopt.pipeline.passes import Stage

__all__ = ["MergeDuplicateParameters"]


@dataclass(frozen=True)
class MergeDuplicateParameters(MergeDuplicateConstants):
    """Keep one of several states with the same bytes."""

    name = "merge-duplicate-parameters"
    stage = Stage.DEPLOY
    parameters = True
