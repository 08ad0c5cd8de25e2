"""Bundles: axes that are the same axis all over, position by position.

    %a = conv2d(%x, %w, %b)     %c = relu(%a)     %d = add(%c, %e)
    one bundle: %w axis 0, %b axis 0, %a axis 1, %c axis 1, %d axis 1, %e axis 1

Most links of a graph are of this kind, so a union-find over axes leaves few positions to look at. What an axis rule
says beyond that (ranges, products of digits) is kept for `choices` and `units`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from graphopt.analysis.table import counted
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops.axes.links import AxisLink, Choice, Fix, Free, Heads, Parts, Place, Product, Sums, Tie, Weight
from graphopt.ops.registry import call_of, definition, is_canonical

__all__ = ["Bundles", "Open", "Reason", "Use"]


class Reason(NamedTuple):
    """Why axes can't be cut, and the node that forbids it ("" where none does)."""

    text: str
    where: str = ""


class Use(NamedTuple):
    """What an axis of a weight means to the node that reads it: a role's value and the word for it."""

    role: str
    word: str
    node: Node


@dataclass(slots=True)
class Open:
    """A choice that one node leaves open; places are axis numbers. `chosen` is the index of an alternative."""

    node: Node
    alternatives: tuple[tuple[Product | Sums, ...], ...]
    numbers: dict[Place, int]
    chosen: int = -1


class Bundles:
    """The axes of all values of a graph, numbered; joined into bundles, some of which are fixed."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.first: dict[Value, int] = {}
        """Number of each value's axis 0; the others follow."""
        self.values: list[tuple[Value, int]] = []
        """Value and axis of each number."""
        self.sizes: list[int] = []
        self.reasons: list[Reason | None] = []
        """For each axis number that stands for a bundle: why it is fixed."""
        self.open: list[Open] = []
        self.parts: list[tuple[int, list[tuple[int, int]]]] = []
        """(whole, [(part, start), ...]) as axis numbers."""
        self.uses: dict[int, Use] = {}
        self.renormalised: list[tuple[int, Node]] = []
        self.heads: set[int] = set()
        self.copies: set[int] = set()
        self._parent: list[int] = []
        self._seen: list[int] = []
        self._read()

    def find(self, number: int) -> int:
        """The axis number that stands for the bundle."""
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def number(self, value: Value, axis: int) -> int:
        """Number of an axis."""
        return self.first[value] + axis

    def reason(self, number: int) -> Reason | None:
        """Why the bundle of an axis is fixed; None where it is not."""
        return self.reasons[self.find(number)]

    def fix(self, number: int, reason: Reason) -> None:
        """Fix the bundle of an axis; a reason that it has already stays."""
        root = self.find(number)
        if self.reasons[root] is None:
            self.reasons[root] = reason

    def fix_all(self, value: Value, reason: Reason) -> None:
        """Fix every axis of a value."""
        first = self.first[value]
        for axis in range(len(value.shape)):
            self.fix(first + axis, reason)

    def snapshot(self) -> Callable[[], None]:
        """A function that undoes all decisions made from now on."""
        reasons, renormalised = list(self.reasons), list(self.renormalised)

        def restore() -> None:
            self.reasons, self.renormalised = list(reasons), list(renormalised)
            for choice in self.open:
                choice.chosen = -1

        return restore

    def _read(self) -> None:
        for value in self.graph.inputs:
            self._add(value)
            self.fix_all(value, Reason(f"it is an axis of the input %{value.name}"))
        for state in self.graph.states.values():
            self._add(state.value)
            if not state.value.use_count:
                self.fix_all(state.value, Reason("no node reads it"))
        for index, node in enumerate(self.graph.nodes):
            for value in node.results:
                self._add(value)
            self._visit(index, node)
        for value in self.graph.outputs:
            if isinstance(value, Value):
                self.fix_all(value, Reason(f"it is an axis of the output %{value.name}"))

    def _add(self, value: Value) -> None:
        self.first[value] = start = len(self.values)
        for axis, dim in enumerate(value.shape):
            self.values.append((value, axis))
            self._parent.append(start + axis)
            self._seen.append(-1)
            if isinstance(dim, int):
                self.sizes.append(dim)
                self.reasons.append(Reason(f"it has {counted(dim, 'position')}") if dim < 2 else None)
            else:
                self.sizes.append(-1)
                self.reasons.append(Reason(f"its size is the symbol {dim}"))

    def _visit(self, index: int, node: Node) -> None:
        rule = definition(node.op).axes if is_canonical(node.op) else None
        operands = [self.first[operand] if isinstance(operand, Value) else -1 for operand in node.operands]
        results = [self.first[value] for value in node.results]
        if rule is None:
            known = f"no axis rule for {node.op}" if is_canonical(node.op) else f"{node.op} is opaque"
            self._fix_unseen(-2, node, Reason(f"{known} (%{node.name})", node.name))
            return

        def number(place: Place) -> int:
            found = operands[place[0]] + place[1] if place[0] >= 0 else results[-1 - place[0]] + place[1]
            self._seen[found] = index
            return found

        for link in rule(call_of(node)):
            self._link(link, node, number)
        self._fix_unseen(index, node, Reason(f"{node.op} %{node.name} mixes its positions", node.name))

    def _link(self, link: AxisLink, node: Node, number: Callable[[Place], int]) -> None:
        if isinstance(link, Tie):
            self._join(number(link.left), number(link.right), node)
        elif isinstance(link, Fix):
            self.fix(number(link.place), Reason(f"{node.op} %{node.name} {link.reason}", node.name))
        elif isinstance(link, Sums):
            if link.renormalises:
                self.renormalised.append((number(link.place), node))
            else:
                number(link.place)
        elif isinstance(link, Weight):
            self.uses.setdefault(number(link.place), Use(link.role, link.word, node))
        elif isinstance(link, Choice):
            self._keep(link, node, number)
        elif isinstance(link, Parts):
            self.parts.append((number(link.whole), [(number(part), start) for part, start in link.parts]))
        elif isinstance(link, Heads):
            self.heads.add(number(link.place))
        else:
            assert isinstance(link, Free), f"{link} is no link"
            if link.copies:
                self.copies.add(number(link.place))
            else:
                number(link.place)

    def _keep(self, link: Choice, node: Node, number: Callable[[Place], int]) -> None:
        numbers: dict[Place, int] = {}
        for place in _places(link):
            numbers.setdefault(place, number(place))
        if any(self.reasons[self.find(found)] is None for found in numbers.values()):
            self.open.append(Open(node, link.alternatives, numbers))

    def _join(self, left: int, right: int, node: Node) -> None:
        if self.sizes[left] != self.sizes[right] or self.sizes[left] < 2:
            if self.sizes[left] != self.sizes[right]:
                other = "a symbolic size" if min(self.sizes[left], self.sizes[right]) < 0 else "another size"
                reason = Reason(f"{node.op} %{node.name} couples it to {other}", node.name)
                self.fix(left, reason)
                self.fix(right, reason)
            return
        a, b = self.find(left), self.find(right)
        if a == b:
            return
        if a > b:
            a, b = b, a
        self._parent[b] = a
        if self.reasons[a] is None:
            self.reasons[a] = self.reasons[b]

    def _fix_unseen(self, index: int, node: Node, reason: Reason) -> None:
        """Fix axes that the node's rule did not mention."""
        for value in (*node.operands, *node.results):
            if isinstance(value, Value):
                first = self.first[value]
                for number in range(first, first + len(value.shape)):
                    if self._seen[number] != index:
                        self.fix(number, reason)


def _places(link: Choice) -> Iterable[Place]:
    for alternative in link.alternatives:
        for part in alternative:
            if isinstance(part, Product):
                yield from (place for place, _ in part.members)
            else:
                yield part.place
