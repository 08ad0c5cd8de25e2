"""Cuts a graph into segments: what ONNX Runtime runs, and what the reference interpreter runs in between.

    %a = conv2d(...)          native 0
    %b = aten.histc(...)      foreign 0: no form in ONNX
    %c = relu(%a)             native 0: does not need %b
    %d = add(%b, %c)          native 1

Each node goes into the earliest segment that its operands allow. So every segment is convex, and there are
as few as the longest alternation of native and foreign nodes on any path makes necessary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphopt.backends.onnxruntime.context import Context, UnsupportedNodeError
from graphopt.backends.onnxruntime.emit import emit_node
from graphopt.backends.onnxruntime.naming import Namer
from graphopt.backends.onnxruntime.options import SessionOptions
from graphopt.backends.onnxruntime.signature import solve_symbols
from graphopt.ir.graph import Graph, Node, Value, operand_values

__all__ = ["ForeignNode", "Partition", "partition"]


@dataclass(frozen=True, slots=True)
class ForeignNode:
    """A node that the reference interpreter runs, and why."""

    node: Node
    reason: str


@dataclass(slots=True)
class Partition:
    """The segments in order of execution: native 0, foreign 0, native 1, foreign 1, ..."""

    graph: Graph
    natives: list[Context] = field(default_factory=list[Context])
    foreigns: list[list[ForeignNode]] = field(default_factory=list[list[ForeignNode]])
    stages: dict[Value, tuple[int, bool]] = field(default_factory=dict[Value, tuple[int, bool]])
    """For each result the number of its segment, and True when it is native."""

    def native_outputs(self) -> list[list[Value]]:
        """For each native segment the results that something outside of it reads."""
        found: list[list[Value]] = [[] for _ in self.natives]
        for value, (stage, native) in self.stages.items():
            if native and any(self._is_outside(user, stage) for user in value.users):
                found[stage].append(value)
        return found

    def _is_outside(self, user: Node, stage: int) -> bool:
        return user.is_return or not user.results or self.stages[user.results[0]] != (stage, True)

    @property
    def foreign_nodes(self) -> list[ForeignNode]:
        """All nodes that do not run natively, in order."""
        return [foreign for segment in self.foreigns for foreign in segment]


def partition(graph: Graph, options: SessionOptions) -> Partition:
    """Write every node that has a form in ONNX into the context of its segment, and list the others.

    Raises:
        LoweringError: a state has no numbers.
    """
    made = Partition(graph)
    namer = Namer()
    sources = {name: (value, axis, factor, offset) for name, value, axis, factor, offset in solve_symbols(graph.inputs)}

    def context(stage: int) -> Context:
        while len(made.natives) <= stage:
            first = not made.natives
            made.natives.append(
                Context(
                    graph,
                    namer,
                    sources.get if first else _no_source,
                    strict_nan=options.strict_nan,
                    decompose_attention=options.decompose_attention,
                )
            )
        return made.natives[stage]

    for value in graph.inputs:
        context(0).reserve(value)
    for node in graph.nodes:
        stage = _earliest(made, node, native=True)
        try:
            emit_node(context(stage), node)
            place = (stage, True)
        except UnsupportedNodeError as error:
            stage = _earliest(made, node, native=False)
            while len(made.foreigns) <= stage:
                made.foreigns.append([])
            made.foreigns[stage].append(ForeignNode(node, error.what))
            place = (stage, False)
        for result in node.results:
            made.stages[result] = place
    return made


def _no_source(name: str) -> None:
    """Later segments are given the sizes of symbols."""


def _earliest(made: Partition, node: Node, *, native: bool) -> int:
    stage = 0
    for value in operand_values(node):
        place = made.stages.get(value)
        if place is not None:
            number, is_native = place
            stage = max(stage, number + 1 if native and not is_native else number)
    return stage
