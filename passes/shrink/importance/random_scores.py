"""Importance "random": uniform numbers in [0, 1), the baseline that every other importance has to beat.

They depend on the seed of the context and the name of the group alone, not on what else is in the graph.
"""

from __future__ import annotations

import zlib

import numpy

from graphopt.analysis.axes import AxisGroup, AxisGroups
from graphopt.passes.shrink.importance.members import Scores

__all__ = ["random_scores"]


def random_scores(groups: AxisGroups, seed: int) -> dict[AxisGroup, Scores]:
    """The scores of all groups."""
    return {group: numpy.random.default_rng([abs(seed), zlib.crc32(group.name.encode())]).random(group.size) for group in groups}
