"""Applies a recorded cut to a graph: decide all types first, then edit.

    param %w1: f32[8,3,1,1]  keeps rows 0, 1, 4         ->  param %w1: f32[3,3,1,1]
    %a: f32[1,8,6,6] = conv2d(%x, %w1, none)            ->  %a: f32[1,3,6,6] = conv2d(%x, %w1, none)
    %b: f32[1,8,36] = reshape(%a) {shape=(1, 8, 36)}    ->  %b: f32[1,3,36] = reshape(%a) {shape=(1, 3, 36)}

Types follow from those of the states and from the recorded attributes by the type rules of the ops. Annotated zeros stay
annotated: with the ratio and the pattern of the numbers that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from graphopt.analysis.sparsity_patterns import sparsity_left
from graphopt.errors import IRError, PassError
from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.ops import Call, infer_call, is_canonical
from graphopt.rewrite.cut.parts import take_out
from graphopt.rewrite.cut.record import AxisCut, CutRecord
from graphopt.rewrite.rewriter import Rewriter

if TYPE_CHECKING:
    import torch

__all__ = ["NodePlan", "Plan", "apply_plan", "apply_record", "make_plan", "replay", "slice_of"]


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A node that reads something of another type or gets other attributes, and what its results become."""

    node: Node
    attrs: Mapping[str, Attribute]
    types: tuple[TensorType, ...]

    @property
    def changes(self) -> bool:
        """False where only operands change."""
        old = tuple(TensorType(result.type.dtype, result.type.shape) for result in self.node.results)
        return self.types != old or dict(self.attrs) != dict(self.node.attrs)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a cut does to a graph. `types` are those of the values whose type changes."""

    record: CutRecord
    nodes: tuple[NodePlan, ...]
    types: Mapping[Value, TensorType]


def replay(graph: Graph, record: CutRecord) -> Graph:
    """The graph with the same positions taken out; `graph` itself stays as it is.

    `graph` is that of the same model, captured in the same way, with whatever numbers in its states.

    Raises:
        PassError: the record does not fit: a state or a node is missing, or has other sizes.
    """
    copy = graph.clone()
    apply_record(Rewriter(copy), record)
    return copy


def apply_record(rewriter: Rewriter, record: CutRecord) -> None:
    """The same in place.

    Raises:
        PassError: the record does not fit; nothing was edited but parts of the record before the one that does not.
    """
    for part in record.parts:
        take_out(rewriter, part)
    apply_plan(rewriter, make_plan(rewriter.graph, record))


def make_plan(graph: Graph, record: CutRecord) -> Plan:
    """What a recorded cut does to a graph without the recorded parts; nothing is edited.

    Raises:
        PassError: the record does not fit.
    """
    types: dict[Value, TensorType] = {}
    for name, axes in record.states.items():
        state = graph.states.get(name)
        if state is None:
            raise PassError(f"the cut is of %{name}, which the graph '{graph.name}' does not have", fix="replay it on the same model")
        types[state.value] = _cut_type(state.value, axes, record)
    unknown = [name for name in record.attributes if not graph.has_value(name) or graph.value(name).producer is None]
    if unknown:
        raise PassError(
            f"the cut is of node %{unknown[0]}, which the graph '{graph.name}' does not have", fix="replay it on the same model"
        )
    nodes: list[NodePlan] = []
    for node in graph.nodes:
        changes = record.attributes.get(node.name, {})
        if changes or any(isinstance(operand, Value) and operand in types for operand in node.operands):
            plan = _plan_node(node, changes, types)
            nodes.append(plan)
            types.update((result, type_) for result, type_ in zip(node.results, plan.types, strict=True) if type_.shape != result.shape)
    for output in graph.outputs:
        if isinstance(output, Value) and output in types:
            raise PassError(f"the cut would make output {output!r} a {types[output].text}", fix="exclude the groups that reach the outputs")
    return Plan(record, tuple(nodes), types)


def apply_plan(rewriter: Rewriter, plan: Plan) -> None:
    """Edit the graph that the plan was made for."""
    for name, axes in plan.record.states.items():
        state, take = rewriter.graph.states[name], slice_of(axes)
        rewriter.replace_state(name, take, replace(plan.types[state.value], sparsity=sparsity_left(state, take)), exact=True)
    for item in plan.nodes:
        if item.changes:
            rewriter.remake(item.node, item.attrs, item.types)
        else:
            rewriter.touch(item.node)


def slice_of(axes: tuple[AxisCut, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Picks the kept positions of some axes."""

    def take(tensor: torch.Tensor) -> torch.Tensor:
        import torch

        for axis, kept in axes:
            tensor = tensor.index_select(axis, torch.tensor(kept, dtype=torch.int64, device=tensor.device))
        return tensor

    return take


def _cut_type(value: Value, axes: tuple[AxisCut, ...], record: CutRecord) -> TensorType:
    """Without sparsity: what is left need not follow the pattern, so that `apply_plan` looks at the numbers."""
    expected = record.shapes[value.name]
    if value.shape != expected:
        old = TensorType(value.type.dtype, expected).text
        axis = next((axis for axis, (a, b) in enumerate(zip(value.shape, expected, strict=False)) if a != b), None)
        where = "the number of axes" if len(value.shape) != len(expected) or axis is None else f"axis {axis}"
        raise PassError(
            f"the cut is of a %{value.name} that was {old}, here it is {value.type.text}: {where} differs",
            fix="replay it on the same model, after the passes that ran before the cut",
        )
    shape = list(value.shape)
    for axis, kept in axes:
        size = shape[axis] if axis < len(shape) else 0
        if not isinstance(size, int) or kept[-1] >= size:
            raise PassError(
                f"the cut keeps position {kept[-1]} of axis {axis} of {value!r}, which has no such position",
                fix="the record is damaged: cut again and save it",
            )
        shape[axis] = len(kept)
    return value.type.with_shape(tuple(shape))


def _plan_node(node: Node, changes: Mapping[str, Attribute], types: Mapping[Value, TensorType]) -> NodePlan:
    if not is_canonical(node.op) or node.regions:
        changed = next((operand for operand in node.operands if isinstance(operand, Value) and operand in types), None)
        if changed is None:
            raise PassError(
                f"the cut changes {', '.join(changes)} of %{node.name}, which is {node.op} here",
                where=repr(node),
                fix="replay it on the same model, after the passes that ran before the cut",
            )
        raise PassError(
            f"the cut would give {node.op} a {types[changed].text} as %{changed.name}, and nothing is known of what it does with it",
            where=repr(node),
            fix=f"exclude the groups that %{changed.name} belongs to",
        )
    attrs = {**node.attrs, **changes}
    operands = tuple(
        types.get(operand, TensorType(operand.type.dtype, operand.type.shape)) if isinstance(operand, Value) else operand
        for operand in node.operands
    )
    try:
        return NodePlan(node, attrs, tuple(infer_call(Call(node.op, operands, attrs))))
    except IRError as error:
        raise PassError(f"after the cut operands of %{node.name} do not fit: {error.what}", where=repr(node), fix=error.fix) from error
