"""The poison check: do removed units reach anything that is not listed in their group?

    leaks = poison_check(graph, groups, {group: gone}, inputs)

Every position that would go holds NaN: in the states, and after each node in the results that the groups list. Then
the node's real op runs, through the reference backend. Where the op sums over an axis (the columns of a layer, a mean,
a layer norm), the positions to go are zeros for it, if all operands that it multiplies there list them: they add
nothing, and 0 * NaN does not count. If the groups are closed, no NaN can stand anywhere but at listed positions of
the result. One that does is a leak: taking the positions out would take something from a position that stays, or
leave shapes that do not fit.

Each node is checked given that those before it hold, so one run proves the whole graph. What is not seen: integers and
booleans can't hold NaN, so nodes behind a comparison get clean operands there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy
import torch
from numpy.typing import NDArray

from graphopt.analysis.axes.groups import AxisGroups, Removal
from graphopt.analysis.table import counted
from graphopt.backends.reference.binding import bind_results
from graphopt.backends.reference.interpreter import Interpreter, bind_dims, state_tensor
from graphopt.errors import BrokenPromiseError, PassError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops.axes.links import Choice, Place, Product, Sums, Tie
from graphopt.ops.registry import call_of, definition, is_canonical

__all__ = ["Leak", "poison_check", "require_closed"]

Mask: TypeAlias = "NDArray[numpy.bool_]"
Gone: TypeAlias = "Mapping[Value, Mapping[int, Mask]]"


@dataclass(frozen=True, slots=True)
class Leak:
    """A result in which NaN stands where no group says so. `position` is the first such index, `count` how many there are."""

    node: Node
    value: Value
    position: tuple[int, ...]
    count: int

    def __str__(self) -> str:
        place = ", ".join(str(index) for index in self.position)
        return (
            f"{self.node.op} %{self.node.name}: removed units reach {counted(self.count, 'element')} of {self.value!r}, [{place}] the first"
        )


def require_closed(graph: Graph, groups: AxisGroups, removal: Removal, inputs: Sequence[torch.Tensor]) -> None:
    """Run `poison_check` and insist that it finds nothing.

    Raises:
        BrokenPromiseError: a removed unit reaches what stays; the message names the first node where it does.
    """
    found = poison_check(graph, groups, removal, inputs)
    if found:
        leak, *others = found
        names = ", ".join(sorted(group.name for group in removal))
        raise BrokenPromiseError(
            f"axis groups are not closed: {leak}" + (f", and {counted(len(others), 'more node')}" if others else ""),
            where=repr(leak.node),
            fix=f"report the model; until it is mended, exclude the layers of {names}",
        )


def poison_check(graph: Graph, groups: AxisGroups, removal: Removal, inputs: Sequence[torch.Tensor]) -> tuple[Leak, ...]:
    """Nodes at which units of `removal` reach elements that their groups do not list; empty for closed groups.

    `inputs` are flat, as for the reference interpreter; the run takes the time of one run of the graph. A NaN that the
    graph makes by itself, without poison, is no leak.

    Raises:
        BackendError: a state has no numbers, or an op failed.
        PassError: a group of the removal is not one of `groups`.
    """
    return _Check(graph, groups, removal).run(inputs)


class _Check:
    def __init__(self, graph: Graph, groups: AxisGroups, removal: Removal) -> None:
        self._graph = graph
        self._interpreter = Interpreter(graph)
        self._gone = _gone_positions(removal)
        self._clean: dict[Value, torch.Tensor] | None = None
        known = frozenset(groups)
        unknown = [group.name for group in removal if group not in known]
        if unknown:
            raise PassError(f"group {unknown[0]} is not one of this graph's", fix="analyse the graph again after every edit")

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[Leak, ...]:
        dims = bind_dims(self._graph, inputs)
        values: dict[Value, torch.Tensor] = dict(zip(self._graph.inputs, inputs, strict=True))
        last = _last_readers(self._graph)
        leaks: list[Leak] = []
        for node in self._graph.nodes:
            sums = self._summed(node)
            operands: list[object] = []
            for index, operand in enumerate(node.operands):
                if isinstance(operand, Value):
                    operands.append(_filled(self._tensor(values, operand), sums.get(index, {}), 0.0))
                else:
                    operands.append(operand)
            results = self._interpreter.evaluate(node, operands, dims)
            bind_results(node.results, results, dims)
            for value, tensor in zip(node.results, results, strict=True):
                leak = self._leak(node, value, tensor, inputs)
                if leak is not None:
                    leaks.append(leak)
                    tensor = torch.nan_to_num(tensor)  # one leak is named once, where it begins
                values[value] = self._poisoned(value, tensor)
            for value in last.get(node, ()):
                values.pop(value, None)
        return tuple(leaks)

    def _summed(self, node: Node) -> dict[int, dict[int, Mask]]:
        """For each operand and axis that the node sums over: the positions that go, from whatever it is multiplied with too."""
        rule = definition(node.op).axes if is_canonical(node.op) else None
        parts: list[object] = []
        for link in rule(call_of(node)) if rule is not None else ():
            if isinstance(link, Choice):
                # The last alternative that explains what goes: whole groups are summed over by nobody.
                fitting = [alternative for alternative in link.alternatives if self._explains(node, alternative)]
                parts.extend(fitting[-1] if fitting else ())
            else:
                parts.append(link)
        gone = {part.place: self._gone_of(node, part.place) for part in parts if isinstance(part, Sums)}
        for part in parts:
            if isinstance(part, Tie) and part.left in gone and part.right in gone:
                gone[part.left] = gone[part.right] = gone[part.left] & gone[part.right]
            elif isinstance(part, Product):
                self._agree(part, gone)
        found: dict[int, dict[int, Mask]] = {}
        for place, mask in gone.items():
            if mask.any():
                found.setdefault(place.slot, {})[place.axis] = mask
        return found

    def _agree(self, product: Product, gone: dict[Place, Mask]) -> None:
        """Of members that are summed over, leave the values of the live digit that go in all of them."""
        members = [(place, digits) for place, digits in product.members if place in gone and product.live in digits]
        tables = [gone[place].reshape([product.digits[digit] for digit in digits]) for place, digits in members]
        others = [tuple(axis for axis, digit in enumerate(digits) if digit != product.live) for _, digits in members]
        if members:
            shared = numpy.logical_and.reduce([table.any(axis=axes) for table, axes in zip(tables, others, strict=True)])
            for (place, _), table, axes in zip(members, tables, others, strict=True):
                gone[place] = (table & numpy.expand_dims(shared, axes)).reshape(-1)

    def _gone_of(self, node: Node, place: Place) -> Mask:
        value = node.operands[place.slot]
        assert isinstance(value, Value), "a rule speaks of operands that are there"
        size = value.shape[place.axis]
        none = numpy.zeros(size if isinstance(size, int) else 0, dtype=bool)
        return self._gone.get(value, {}).get(place.axis, none)

    def _explains(self, node: Node, parts: tuple[Product | Sums, ...]) -> bool:
        """True when of every member the same values of the live digit go, whatever the other digits are."""
        for part in parts:
            if isinstance(part, Sums):
                continue
            for place, digits in part.members:
                value = node.operands[place.slot] if place.slot >= 0 else node.results[-1 - place.slot]
                gone = self._gone.get(value, {}).get(place.axis) if isinstance(value, Value) else None
                if gone is None:
                    continue
                if part.live not in digits:
                    return False
                table = gone.reshape([part.digits[digit] for digit in digits])
                others = tuple(axis for axis, digit in enumerate(digits) if digit != part.live)
                if not numpy.array_equal(table.any(axis=others), table.all(axis=others)):
                    return False
        return True

    def _tensor(self, values: dict[Value, torch.Tensor], value: Value) -> torch.Tensor:
        if value not in values:
            state = self._graph.state_of(value)
            assert state is not None, "a value is an input, a state or a result of a node before"
            values[value] = self._poisoned(value, state_tensor(state))
        return values[value]

    def _poisoned(self, value: Value, tensor: torch.Tensor) -> torch.Tensor:
        return _filled(tensor, self._gone.get(value, {}), float("nan")) if tensor.is_floating_point() else tensor

    def _leak(self, node: Node, value: Value, tensor: torch.Tensor, inputs: Sequence[torch.Tensor]) -> Leak | None:
        if not tensor.is_floating_point():
            return None
        found = torch.isnan(tensor)
        if not bool(found.any()):
            return None
        found = _filled(found, self._gone.get(value, {}), False)
        if not bool(found.any()):
            return None
        found &= ~torch.isnan(self._without_poison(inputs)[value])
        places = found.nonzero()
        return Leak(node, value, tuple(places[0].tolist()), len(places)) if len(places) else None

    def _without_poison(self, inputs: Sequence[torch.Tensor]) -> dict[Value, torch.Tensor]:
        if self._clean is None:
            self._clean = {}
            self._interpreter.run(*inputs, on_value=self._clean.__setitem__)
        return self._clean


def _filled(tensor: torch.Tensor, places: Mapping[int, Mask], number: float | bool) -> torch.Tensor:
    """A copy with a number at some positions of some axes."""
    for axis, mask in places.items():
        tensor = tensor.index_fill(axis, torch.from_numpy(mask.nonzero()[0]).to(tensor.device), number)
    return tensor


def _gone_positions(removal: Removal) -> Gone:
    found: dict[Value, dict[int, Mask]] = {}
    for group, units in removal.items():
        padded = numpy.append(units.astype(bool), False)  # unit -1 is nobody's and stays
        for member in group.members:
            mask = padded[member.units]
            if mask.any():
                axes = found.setdefault(member.value, {})
                axes[member.axis] = axes[member.axis] | mask if member.axis in axes else mask
    return found


def _last_readers(graph: Graph) -> dict[Node, list[Value]]:
    seen: set[Value] = set()
    last: dict[Node, list[Value]] = {}
    for node in graph.reversed_nodes:
        for value in (*node.results, *node.operands):
            if isinstance(value, Value) and value not in seen:
                seen.add(value)
                last.setdefault(node, []).append(value)
    return last
