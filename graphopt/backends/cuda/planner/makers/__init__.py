"""One file per family of ops: from a group to the ways to run it."""

from collections.abc import Mapping

from graphopt.backends.cuda.planner.builder import Maker
from graphopt.backends.cuda.planner.makers import dense, images, moves, pointwise, rows

__all__ = ["MAKERS"]

MAKERS: Mapping[str, Maker] = {**dense.MAKERS, **images.MAKERS, **moves.MAKERS, **pointwise.MAKERS, **rows.MAKERS}
"""Makers by op. An op without one, or whose maker refuses, is run by the reference lowering."""
