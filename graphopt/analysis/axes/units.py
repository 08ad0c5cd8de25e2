"""Units: positions that can only go together, over all bundles that are not fixed.

Positions of free bundles are numbered; ranges and live digits make edges between them; connected components are the
units. Everything is arrays of positions: no loop over channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy
from numpy.typing import NDArray

from graphopt.analysis.axes.bundles import Bundles, Reason
from graphopt.ops.axes.links import Product

__all__ = ["UnitGroup", "group_units"]

Ids: TypeAlias = "NDArray[numpy.int64]"


@dataclass(slots=True)
class UnitGroup:
    """Units on the same bundles: for each bundle the unit of each position, -1 where it is none of the group."""

    size: int
    units: dict[int, Ids]


def group_units(bundles: Bundles, order: list[int]) -> tuple[list[UnitGroup], dict[int, Reason]]:
    """The groups of units, and why bundles without any are fixed. `order` are all bundles in the order that units are numbered."""
    return _Positions(bundles, order).groups()


class _Positions:
    def __init__(self, bundles: Bundles, order: list[int]) -> None:
        self._bundles = bundles
        self._fixed = [root for root in order if bundles.reasons[root] is not None]
        self._free = [root for root in order if bundles.reasons[root] is None]
        self._fixed_id = {root: index for index, root in enumerate(self._fixed)}
        self._base: dict[int, int] = {}
        self._count = len(self._fixed)
        for root in self._free:
            self._base[root] = self._count
            self._count += bundles.sizes[root]
        self._left: list[Ids] = []
        self._right: list[Ids] = []

    def groups(self) -> tuple[list[UnitGroup], dict[int, Reason]]:
        self._edges_of_parts()
        self._edges_of_products()
        empty = numpy.zeros(0, dtype=numpy.int64)
        left, right = (numpy.concatenate(side) if side else empty for side in (self._left, self._right))
        labels = components(self._count, left, right)
        return self._grouped(labels)

    def _ids(self, number: int) -> Ids:
        root = self._bundles.find(number)
        size = max(self._bundles.sizes[number], 0)
        if root in self._fixed_id:
            return numpy.full(size, self._fixed_id[root], dtype=numpy.int64)
        return numpy.arange(self._base[root], self._base[root] + size, dtype=numpy.int64)

    def _join(self, left: Ids, right: Ids) -> None:
        self._left.append(left)
        self._right.append(right)

    def _edges_of_parts(self) -> None:
        for whole, parts in self._bundles.parts:
            numbers = (whole, *(part for part, _ in parts))
            if all(self._bundles.reason(number) is not None for number in numbers):
                continue
            positions = self._ids(whole)
            for part, start in parts:
                ids = self._ids(part)
                self._join(positions[start : start + len(ids)], ids)

    def _edges_of_products(self) -> None:
        for choice in self._bundles.open:
            for part in choice.alternatives[choice.chosen]:
                if isinstance(part, Product):
                    self._edges_of_product(part, [(choice.numbers[place], digits) for place, digits in part.members])

    def _edges_of_product(self, product: Product, members: list[tuple[int, tuple[int, ...]]]) -> None:
        live = [(number, digits) for number, digits in members if product.live in digits]
        if all(self._bundles.reason(number) is not None for number, _ in live):
            return
        size = product.digits[product.live]
        shared = numpy.arange(self._count, self._count + size, dtype=numpy.int64)
        self._count += size
        for number, digits in live:
            place = digits.index(product.live)
            before = _product(product.digits[digit] for digit in digits[:place])
            after = _product(product.digits[digit] for digit in digits[place + 1 :])
            self._join(self._ids(number), numpy.tile(numpy.repeat(shared, after), before))

    def _grouped(self, labels: Ids) -> tuple[list[UnitGroup], dict[int, Reason]]:
        """Units with the same bundles make a group. Sets of bundles are compared by sums of random numbers."""
        random = numpy.random.default_rng(0).integers(1, 2**63, size=len(self._free), dtype=numpy.uint64)
        signature = numpy.zeros(self._count, dtype=numpy.uint64)
        present: dict[int, Ids] = {}
        reasons: dict[int, Reason] = {}
        for index, root in enumerate(self._free):
            own = labels[self._base[root] : self._base[root] + self._bundles.sizes[root]]
            units = numpy.unique(own)
            movable = units[units >= len(self._fixed)]
            if not len(movable):
                reason = self._bundles.reasons[self._fixed[int(units[0])]]
                assert reason is not None, "a fixed bundle has a reason"
                reasons[root] = reason
            signature[movable] += random[index]
            present[root] = movable
        roots = numpy.unique(numpy.concatenate(list(present.values()))) if present else numpy.zeros(0, dtype=numpy.int64)
        _, first, group_of_root = numpy.unique(signature[roots], return_index=True, return_inverse=True)
        # Groups come in the order of their first units.
        rank = numpy.empty(len(first), dtype=numpy.int64)
        rank[numpy.argsort(first, kind="stable")] = numpy.arange(len(first))
        group_of_root = rank[group_of_root]
        groups = [UnitGroup(0, {}) for _ in range(len(first))]
        group_of = numpy.full(self._count, -1, dtype=numpy.int64)
        group_of[roots] = group_of_root
        within = numpy.zeros(self._count, dtype=numpy.int64)
        by_group = numpy.argsort(group_of_root, kind="stable")
        counts = numpy.bincount(group_of_root, minlength=len(first))
        starts = numpy.cumsum(counts) - counts
        within[roots[by_group]] = numpy.arange(len(roots)) - numpy.repeat(starts, counts)
        for index, count in enumerate(counts.tolist()):
            groups[index].size = count
        for root, movable in present.items():
            own = labels[self._base[root] : self._base[root] + self._bundles.sizes[root]]
            for index in numpy.unique(group_of[movable]).tolist():
                units = numpy.where(group_of[own] == index, within[own], -1)
                units.setflags(write=False)
                groups[index].units[root] = units
        return groups, reasons


def _product(sizes: Iterable[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def components(count: int, left: Ids, right: Ids) -> Ids:
    """For each of `count` ids the smallest id that edges `left[i]` - `right[i]` connect it to."""
    labels = numpy.arange(count, dtype=numpy.int64)
    while True:
        a, b = labels[left], labels[right]
        differ = a != b
        if not differ.any():
            return labels
        left, right, a, b = left[differ], right[differ], a[differ], b[differ]
        numpy.minimum.at(labels, numpy.maximum(a, b), numpy.minimum(a, b))
        while True:
            shorter = labels[labels]
            if (shorter == labels).all():
                break
            labels = shorter
