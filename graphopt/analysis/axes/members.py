"""Turns units into groups for people: members in execution order, roles, reasons, kinds and names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from graphopt.analysis.axes.bundles import Bundles, Reason, Use
from graphopt.analysis.axes.groups import AxisGroup, AxisGroups, Fixed, Member, Role
from graphopt.analysis.axes.units import UnitGroup
from graphopt.ir.graph import Graph, Node, State, Value
from graphopt.ops import CONVOLUTIONS, ELEMENTWISE, SHAPE, TRANSPOSED_CONVOLUTIONS
from graphopt.ops.axes.links import Choice, Parts, Product, Tie
from graphopt.ops.registry import call_of, definition, is_canonical

__all__ = ["execution_order", "make_groups"]

_CONVOLUTIONS = CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS
_COMBINING = ELEMENTWISE | SHAPE


def execution_order(graph: Graph) -> list[Value]:
    """All values: before each node's results the states that it is the first to read."""
    order: dict[Value, None] = {}
    for node in graph.nodes:
        for operand in node.operands:
            if isinstance(operand, Value):
                order.setdefault(operand)
        order.update(dict.fromkeys(node.results))
    order.update(dict.fromkeys(state.value for state in graph.states.values()))
    return list(order)


def make_groups(
    bundles: Bundles, order: list[Value], found: list[UnitGroup], kinds: Mapping[int, str], fixed: Mapping[int, Reason]
) -> AxisGroups:
    """The groups that hold a state and have at least two units, and the parameter axes that no group has."""
    return _Assembly(bundles, order).assemble(found, kinds, fixed)


class _Assembly:
    def __init__(self, bundles: Bundles, order: list[Value]) -> None:
        self._bundles = bundles
        self._graph = bundles.graph
        self._order = order
        self._states: dict[Value, State] = {state.value: state for state in bundles.graph.states.values()}
        self._rank = {value: index for index, value in enumerate(order)}
        self._axes: dict[int, list[tuple[Value, int]]] = {}
        for value in order:
            for axis in range(len(value.shape)):
                self._axes.setdefault(bundles.find(bundles.number(value, axis)), []).append((value, axis))
        self._uses = dict(bundles.uses)
        _trace_uses(bundles, self._uses)
        self._reasons: dict[tuple[Value, int], str] = {}
        self._renormalised: dict[int, dict[str, None]] = {}
        for number, node in bundles.renormalised:
            self._renormalised.setdefault(bundles.find(number), {})[node.name] = None

    def assemble(self, found: list[UnitGroup], kinds: Mapping[int, str], fixed: Mapping[int, Reason]) -> AxisGroups:
        groups: list[AxisGroup] = []
        covered: set[tuple[Value, int]] = set()
        taken: set[str] = set()
        alone: dict[int, Reason] = {}
        for units in found:
            members = self._members(units)
            states = [member for member in members if member.value in self._states]
            if not states:
                continue
            if units.size < 2:
                for root in units.units:
                    alone.setdefault(root, Reason("all its positions go together"))
                continue
            groups.append(self._group(units, members, kinds, taken))
            covered.update((member.value, member.axis) for member in states)
        return AxisGroups(tuple(groups), tuple(self._fixed(covered, {**alone, **fixed})))

    def _members(self, units: UnitGroup) -> list[Member]:
        places = [(value, axis, root) for root in units.units for value, axis in self._axes[root]]
        places.sort(key=lambda place: (self._rank[place[0]], place[1]))
        return [Member(value, axis, units.units[root], self._role(value, axis), self._reason(value, axis)) for value, axis, root in places]

    def _group(self, units: UnitGroup, members: list[Member], kinds: Mapping[int, str], taken: set[str]) -> AxisGroup:
        writers = [self._uses[self._bundles.number(m.value, m.axis)] for m in members if m.role is Role.WRITTEN]
        node = writers[0].node if writers else None
        name = base = node.name if node is not None else members[0].value.name
        number = 1
        while name in taken:
            name = f"{base}_{number}"
            number += 1
        taken.add(name)
        kind = next((kinds[root] for root in units.units if root in kinds), None) or _kind(node)
        names = dict.fromkeys(name for root in units.units for name in self._renormalised.get(root, ()))
        return AxisGroup(name, kind, units.size, tuple(members), tuple(names))

    def _role(self, value: Value, axis: int) -> Role:
        if value not in self._states:
            return Role.CARRIED
        use = self._uses.get(self._bundles.number(value, axis))
        return Role.SCALED if use is None else Role(use.role)

    def _reason(self, value: Value, axis: int) -> str:
        found = self._reasons.get((value, axis))
        if found is None:
            found = self._reasons[value, axis] = self._reason_text(value, axis)
        return found

    def _reason_text(self, value: Value, axis: int) -> str:
        node = value.producer
        if node is None:
            use = self._uses.get(self._bundles.number(value, axis))
            if use is not None:
                return f"{use.word} of {use.node.op} %{use.node.name}"
            user = next((user for user in value.users if not user.is_return), None)
            return f"operand of {user.op} %{user.name}" if user is not None else "read by no node"
        if node.op in _CONVOLUTIONS or node.op == "linear":
            return f"{'features' if node.op == 'linear' else 'channels'} of {node.op} %{node.name}"
        values = [operand for operand in node.operands if isinstance(operand, Value)]
        if node.op not in _COMBINING:  # weights have reasons of their own
            values = [operand for operand in values if operand not in self._states] or values
        names = [f"%{operand.name}" for operand in values]
        shown = names[:3] + (["..."] if len(names) > 3 else [])
        return f"{node.op} of {' and '.join(shown)}" if shown else f"made by {node.op}"

    def _fixed(self, covered: set[tuple[Value, int]], other: Mapping[int, Reason]) -> Iterator[Fixed]:
        for value in self._order:
            state = self._states.get(value)
            if state is None or not state.type.dtype.is_float:
                continue
            for axis, dim in enumerate(value.shape):
                if dim == 1 or (value, axis) in covered:
                    continue
                root = self._bundles.find(self._bundles.number(value, axis))
                reason = self._bundles.reasons[root] or other.get(root) or Reason("no node reads it")
                tied = f"; the tensor is also {', '.join(state.tied)}" if state.tied else ""
                yield Fixed(value, axis, reason.text + tied, reason.where)


def _kind(node: Node | None) -> str:
    """By the op that makes the first member."""
    if node is not None and node.op == "embedding":
        return "embedding"
    return "channel" if node is not None and node.op in _CONVOLUTIONS else "neuron"


def _trace_uses(bundles: Bundles, uses: dict[int, Use]) -> None:
    """Carry what a weight's axes mean back through the nodes that compute the weight from states."""
    derived: set[Value] = set()
    nodes: list[Node] = []
    states = {state.value for state in bundles.graph.states.values()}
    for node in bundles.graph.nodes:
        operands = [operand for operand in node.operands if isinstance(operand, Value)]
        if operands and all(operand in states or operand in derived for operand in operands):
            derived.update(node.results)
            nodes.append(node)
    chosen = {(choice.node, choice.alternatives): choice.chosen for choice in bundles.open}
    for node in reversed(nodes):
        if not is_canonical(node.op):
            continue
        rule = definition(node.op).axes
        for link in rule(call_of(node)) if rule is not None else ():
            if isinstance(link, Tie):
                _carry(bundles, uses, node, link.left, link.right)
            elif isinstance(link, Parts):
                for part, _ in link.parts:
                    _carry(bundles, uses, node, link.whole, part)
            elif isinstance(link, Choice) and (node, link.alternatives) in chosen:
                for part in link.alternatives[chosen[node, link.alternatives]]:
                    if isinstance(part, Product):
                        live = [place for place, digits in part.members if part.live in digits]
                        for place in live:
                            for other in live:
                                _carry(bundles, uses, node, place, other)


def _carry(bundles: Bundles, uses: dict[int, Use], node: Node, left: tuple[int, int], right: tuple[int, int]) -> None:
    """From a result's axis to an operand's."""
    for (slot, axis), (other, other_axis) in ((left, right), (right, left)):
        if slot >= 0 > other:
            value, made = node.operands[slot], node.results[-1 - other]
            use = uses.get(bundles.number(made, other_axis))
            if use is not None and isinstance(value, Value):
                uses.setdefault(bundles.number(value, axis), use)
