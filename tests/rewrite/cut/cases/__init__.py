"""Small graphs of every family of ops, a group in each, and the lines of the graph that a cut changes."""

from __future__ import annotations

from tests.rewrite.cut.cases import convolutions, norms, products, ranges, shapes
from tests.rewrite.cut.cases.base import Case

__all__ = ["CASES", "Case"]

CASES = (*convolutions.CASES, *norms.CASES, *products.CASES, *ranges.CASES, *shapes.CASES)
