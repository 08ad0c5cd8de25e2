"""FLOPs, parameters and peak memory of a graph whose groups have some widths, without cutting it.

    %y: f32[1,64,8,8] = conv2d(%x, %w: f32[64,32,3,3], none)     group a: 64 rows of %w, group b: 32 columns
    a = 32, b = 24   ->   the FLOPs of conv2d for f32[1,32,8,8] and f32[32,24,3,3]

A unit counts with the mean number of positions that units of its group have on an axis; where units differ in that,
the numbers are close and not exact, so the pass looks at the graph that was really cut in the end.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence, Set

import numpy

from graphopt.analysis.axes.groups import AxisGroup
from graphopt.analysis.cost import evaluate_type
from graphopt.analysis.liveness import live_ranges
from graphopt.analysis.memory import shares_memory
from graphopt.ir.attributes import evaluate_attribute
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops import Call, definition, is_canonical
from graphopt.passes.shrink.budgets.goals import Goal

__all__ = ["FlopsGoal", "MemoryGoal", "ParametersGoal", "Shapes"]


class Shapes:
    """Types of values as functions of widths, and which groups touch which value."""

    def __init__(self, graph: Graph, groups: Sequence[AxisGroup], dims: Mapping[str, int]) -> None:
        self.graph = graph
        self.dims = dims
        self.sizes = tuple(group.size for group in groups)
        self._axes: dict[Value, list[tuple[int, int, float]]] = {}
        for number, group in enumerate(groups):
            for member in group.members:
                owned = int((member.units >= 0).sum())
                self._axes.setdefault(member.value, []).append((member.axis, number, owned / group.size))

    def groups_of(self, values: Sequence[object]) -> tuple[int, ...]:
        """Numbers of the groups that have positions in any of the values, in order."""
        return tuple(sorted({number for value in values if isinstance(value, Value) for _, number, _ in self._axes.get(value, ())}))

    def type_of(self, value: Value, widths: Sequence[int]) -> TensorType:
        """The type that a value has at these widths, symbols replaced by sizes."""
        full = evaluate_type(value.type, self.dims)
        axes = self._axes.get(value)
        if axes is None:
            return full
        shape = list(full.shape)
        lost: dict[int, float] = {}
        for axis, number, positions in axes:
            lost[axis] = lost.get(axis, 0.0) + positions * (self.sizes[number] - widths[number])
        for axis, count in lost.items():
            size = shape[axis]
            shape[axis] = max(1, size - round(count)) if isinstance(size, int) else size
        return TensorType(full.dtype, tuple(shape))


class _SumGoal(Goal):
    """An amount that is a sum over parts, each of which depends on a few groups."""

    def __init__(self, name: str, limit: float, shapes: Shapes) -> None:
        super().__init__(name, limit, shapes.sizes)
        self._shapes = shapes
        self._parts: list[tuple[int, ...]] = []
        self._of_group: list[list[int]] = [[] for _ in self.sizes]
        self._fixed = 0.0
        self._known: dict[tuple[int, tuple[int, ...]], float] = {}
        self._total = 0.0
        self._related: dict[int, frozenset[int]] = {}

    def _add_part(self, groups: tuple[int, ...]) -> None:
        for group in groups:
            self._of_group[group].append(len(self._parts))
        self._parts.append(groups)

    def _finish(self) -> None:
        self._total = self._fixed + sum(self._part(part, self.widths) for part in range(len(self._parts)))
        self._original = max(self._total, 1.0)

    def _part(self, part: int, widths: Sequence[int]) -> float:
        key = part, tuple(widths[group] for group in self._parts[part])
        if key not in self._known:
            self._known[key] = self._compute(part, widths)
        return self._known[key]

    @abstractmethod
    def _compute(self, part: int, widths: Sequence[int]) -> float:
        """The amount of one part at these widths."""

    def _change(self, index: int, width: int) -> float:
        changed = list(self.widths)
        changed[index] = width
        return sum(self._part(part, changed) - self._part(part, self.widths) for part in self._of_group[index])

    def amount(self) -> float:
        """The amount at the present widths."""
        return self._total / self._original

    def amount_if(self, index: int, width: int) -> float:
        """The amount if one group had another width."""
        return (self._total + self._change(index, width)) / self._original

    def move(self, index: int, width: int) -> None:
        """Give a group another width."""
        self._total += self._change(index, width)
        super().move(index, width)

    def fraction(self) -> float:
        """The fraction of the original that remains."""
        return self.amount()

    def related(self, index: int) -> Set[int]:
        """Groups whose changes bring something else after a change of this one."""
        if index not in self._related:
            self._related[index] = frozenset(group for part in self._of_group[index] for group in self._parts[part]) | {index}
        return self._related[index]


class FlopsGoal(_SumGoal):
    """Floating-point operations of one run; nodes whose FLOPs are not known count nothing."""

    def __init__(self, limit: float, shapes: Shapes) -> None:
        super().__init__("flops", limit, shapes)
        self._nodes: list[Node] = []
        for node in shapes.graph.nodes:
            groups = shapes.groups_of((*node.operands, *node.results))
            if groups:
                self._nodes.append(node)
                self._add_part(groups)
            else:
                self._fixed += self._flops(node, self.widths)
        self._finish()

    def _compute(self, part: int, widths: Sequence[int]) -> float:
        return self._flops(self._nodes[part], widths)

    def _flops(self, node: Node, widths: Sequence[int]) -> float:
        if not is_canonical(node.op) or node.regions:
            return 0.0
        shapes = self._shapes
        operands = tuple(shapes.type_of(operand, widths) if isinstance(operand, Value) else operand for operand in node.operands)
        results = tuple(shapes.type_of(result, widths) for result in node.results)
        attrs = {name: evaluate_attribute(value, shapes.dims) for name, value in node.attrs.items()} if shapes.dims else node.attrs
        count = definition(node.op).flops(Call(node.op, operands, attrs, node.regions), results)
        return float(count) if isinstance(count, int) else 0.0


class ParametersGoal(_SumGoal):
    """Elements of all parameters."""

    def __init__(self, limit: float, shapes: Shapes) -> None:
        super().__init__("parameters", limit, shapes)
        self._values: list[Value] = []
        for state in shapes.graph.states.values():
            if state.kind != "param":
                continue
            groups = shapes.groups_of((state.value,))
            if groups:
                self._values.append(state.value)
                self._add_part(groups)
            else:
                self._fixed += self._elements(state.value, self.widths)
        self._finish()

    def _compute(self, part: int, widths: Sequence[int]) -> float:
        return self._elements(self._values[part], widths)

    def _elements(self, value: Value, widths: Sequence[int]) -> float:
        count = self._shapes.type_of(value, widths).elements
        return float(count) if isinstance(count, int) else 0.0


class MemoryGoal(Goal):
    """Peak bytes of activations, as `graphopt.analysis.memory` counts them.

    The amount is the sum, over all nodes at which more is alive than the goal allows, of the excess: lowering one
    of two equal peaks is progress, though the peak stays where it is.
    """

    def __init__(self, limit: float, shapes: Shapes) -> None:
        super().__init__("memory", 0.0, shapes.sizes)
        self._shapes = shapes
        self._goal = limit
        graph = shapes.graph
        self._count = max(graph.node_count, 1)
        self._values: list[Value] = []
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._read(graph)
        self._inputs = float(sum(self._bytes(value, self.widths) for value in graph.inputs))
        self._sizes = numpy.array([self._bytes(value, self.widths) for value in self._values], dtype=numpy.float64)
        self._of_group: list[list[int]] = [[] for _ in self.sizes]
        for position, value in enumerate(self._values):
            for group in shapes.groups_of((value,)):
                self._of_group[group].append(position)
        self._peak = max(float(self._live(self._sizes).max(initial=0.0)), 1.0)
        self._related = self._overlaps()

    def _overlaps(self) -> list[frozenset[int]]:
        """For each group those that have values alive at the same time."""
        alive = numpy.zeros((len(self.sizes), self._count + 1), dtype=numpy.float32)
        for group, positions in enumerate(self._of_group):
            for position in positions:
                alive[group, self._starts[position] : self._ends[position] + 1] = 1.0
        together = alive @ alive.T > 0
        return [frozenset(numpy.flatnonzero(row).tolist()) | {group} for group, row in enumerate(together)]

    def _read(self, graph: Graph) -> None:
        owners: dict[Value, Value] = {}
        for node in graph.nodes:
            if shares_memory(node) and isinstance(node.operands[0], Value):
                owners[node.result] = owners.get(node.operands[0], node.operands[0])
        ranges = live_ranges(graph)
        ends: dict[Value, int] = {}
        for value, live in ranges.items():
            owner = owners.get(value, value)
            ends[owner] = max(ends.get(owner, -1), live.end)
        for owner, end in ends.items():
            if owner.producer is not None:
                self._values.append(owner)
                self._starts.append(ranges[owner].start)
                self._ends.append(end)

    def _bytes(self, value: Value, widths: Sequence[int]) -> int:
        size = self._shapes.type_of(value, widths).bytes
        return size if isinstance(size, int) else 0

    def _live(self, sizes: numpy.typing.NDArray[numpy.float64]) -> numpy.typing.NDArray[numpy.float64]:
        """Bytes that are alive while each node runs."""
        steps = numpy.zeros(self._count + 2)
        numpy.add.at(steps, self._starts, sizes)
        numpy.add.at(steps, numpy.array(self._ends, dtype=numpy.int64) + 1, -sizes)
        return numpy.cumsum(steps)[: self._count] + self._inputs

    def _sizes_if(self, index: int, width: int) -> numpy.typing.NDArray[numpy.float64]:
        sizes = self._sizes.copy()
        changed = list(self.widths)
        changed[index] = width
        for position in self._of_group[index]:
            sizes[position] = self._bytes(self._values[position], changed)
        return sizes

    def _excess(self, sizes: numpy.typing.NDArray[numpy.float64]) -> float:
        return float(numpy.maximum(self._live(sizes) / self._peak - self._goal, 0.0).sum())

    def amount(self) -> float:
        """The amount at the present widths."""
        return self._excess(self._sizes)

    def amount_if(self, index: int, width: int) -> float:
        """The amount if one group had another width."""
        return self._excess(self._sizes_if(index, width)) if self._of_group[index] else self.amount()

    def move(self, index: int, width: int) -> None:
        """Give a group another width."""
        self._sizes = self._sizes_if(index, width)
        super().move(index, width)

    def fraction(self) -> float:
        """The fraction of the original that remains."""
        return float(self._live(self._sizes).max(initial=0.0)) / self._peak

    def related(self, index: int) -> Set[int]:
        """Groups whose changes bring something else after a change of this one."""
        return self._related[index]
