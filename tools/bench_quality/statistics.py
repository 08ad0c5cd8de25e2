"""Paired comparisons: the same test items, one network and the other.

The unit is the item. With several seeds an item counts by its mean over them, so that seeds are not taken for more data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

__all__ = ["Difference", "difference", "mcnemar"]

_RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Difference:
    """How many points more the first is right than the second: mean, 95 % interval, two-sided p of no difference."""

    points: float
    lower: float
    upper: float
    p: float


def difference(first: NDArray[numpy.bool_], second: NDArray[numpy.bool_], seed: int = 0) -> Difference:
    """Paired bootstrap over items (Efron 1979), percentile interval; arguments are (items,) or (seeds, items).

    p is twice the smaller share of resamples at or beyond 0, at least 1 in the number of resamples.
    """
    gaps = _by_item(first) - _by_item(second)
    values, counts = numpy.unique(gaps, return_counts=True)
    drawn = numpy.random.default_rng(seed).multinomial(len(gaps), counts / len(gaps), size=_RESAMPLES)
    means = 100.0 * (drawn @ values) / len(gaps)
    lower, upper = (float(value) for value in numpy.percentile(means, (2.5, 97.5)))
    tail = min(float((means <= 1e-12).mean()), float((means >= -1e-12).mean()))
    return Difference(100.0 * float(gaps.mean()), lower, upper, min(1.0, max(2.0 * tail, 1.0 / _RESAMPLES)))


def _by_item(hits: NDArray[numpy.bool_]) -> NDArray[numpy.float64]:
    found = hits.astype(numpy.float64)
    return found.mean(axis=0) if found.ndim == 2 else found


def mcnemar(first: NDArray[numpy.bool_], second: NDArray[numpy.bool_]) -> float:
    """Exact two-sided p (McNemar 1947): of the items on which one is right and one is wrong, is it half and half?"""
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    total, fewer = only_first + only_second, min(only_first, only_second)
    if total == 0:
        return 1.0
    logs = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2.0) for k in range(fewer + 1)]
    return min(1.0, 2.0 * math.fsum(math.exp(value) for value in logs))
