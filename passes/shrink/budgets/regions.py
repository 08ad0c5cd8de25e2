"""The part of a network that a group touches, as a graph of its own: what there is to time when its width changes.

    ... -> conv1 -> bn1 -> relu -> conv2 -> ...       group conv1: 64 channels of %conv1
    region: conv1, bn1, relu, conv2                   inputs: what conv1 reads; outputs: what conv2 gives

All members of the group are inside, so it can be cut in the region as in the whole. Sizes of symbolic dimensions are
filled in, and names are numbers, so that equal parts of a network have equal texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.analysis.axes.groups import AxisGroup
from graphopt.analysis.cost import evaluate_type
from graphopt.ir.attributes import evaluate_attribute
from graphopt.ir.builder import Builder
from graphopt.ir.dims import Expression, evaluate_dim
from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.passes.shrink.budgets.choices import mapped

__all__ = ["Region", "region_of"]


@dataclass(frozen=True, eq=False)
class Region:
    """A graph, and the group in it. Compared by identity."""

    graph: Graph
    group: AxisGroup


def region_of(graph: Graph, group: AxisGroup, dims: Mapping[str, int]) -> Region | None:
    """The region of a group; None where a node of it holds control flow."""
    inside = _nodes(group)
    if any(node.regions or node.graph is not graph for node in inside):
        return None
    builder = Builder(Graph("region"))
    values: dict[Value, Value] = {}
    ordered = [node for node in graph.nodes if node in inside]
    outer = (operand for node in ordered for operand in node.operands if isinstance(operand, Value) and operand.producer not in inside)
    for value in dict.fromkeys(outer):
        state = graph.state_of(value)
        if state is None:
            values[value] = builder.input(f"i{len(values)}", evaluate_type(value.type, dims))
        else:
            values[value] = builder.state(f"s{len(values)}", value.type, state.data, kind=state.kind)
    for number, node in enumerate(ordered):
        attrs = {name: evaluate_attribute(attribute, dims) for name, attribute in node.attrs.items()} if dims else node.attrs
        types = [evaluate_type(result.type, dims) for result in node.results]
        made = builder.insert(
            node.op, [_operand(operand, values, dims) for operand in node.operands], attrs, name=f"v{number}", types=types
        )
        values.update(zip(node.results, made.results, strict=True))
    needed = [result for node in ordered for result in node.results if any(user not in inside for user in result.users)]
    builder.outputs(*(values[result] for result in needed or ordered[-1].results))
    return Region(builder.graph, mapped([group], values)[group])


def _nodes(group: AxisGroup) -> frozenset[Node]:
    """The nodes that compute or read a member."""
    nodes: set[Node] = set()
    for member in group.members:
        if member.value.producer is not None:
            nodes.add(member.value.producer)
        nodes.update(user for user in member.value.users if not user.is_return)
    return frozenset(nodes)


def _operand(operand: Operand, values: Mapping[Value, Value], dims: Mapping[str, int]) -> Operand:
    if isinstance(operand, Value):
        return values[operand]
    return evaluate_dim(operand, dims) if isinstance(operand, Expression) else operand
