"""Takes units of axis groups out of a graph: smaller states under the same names, and everything else made to fit.

record = cut(rewriter, groups, {group: mask})     what was taken out, as data
smaller = replay(other_graph, record)             the same on another checkpoint of the model
"""

from __future__ import annotations

from graphopt.analysis.axes.groups import AxisGroups, Removal
from graphopt.errors import PassError
from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Graph, Value
from graphopt.rewrite.cut.apply import Plan, apply_plan, apply_record, make_plan, replay
from graphopt.rewrite.cut.attributes import fitting_attributes
from graphopt.rewrite.cut.parts import take_out
from graphopt.rewrite.cut.positions import KeptPositions
from graphopt.rewrite.cut.record import AxisCut, CutRecord, PartRecord, load_records, save_records
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["AxisCut", "CutRecord", "PartRecord", "apply_record", "cut", "load_records", "replay", "save_records", "take_out"]


def cut(rewriter: Rewriter, groups: AxisGroups, removal: Removal) -> CutRecord:
    """Take units out of the rewriter's graph, which `groups` are of, and say what was taken.

    Linear in nodes. States keep names, kinds, ties and flags, and are sliced when somebody asks for their numbers.
    The signature of the graph does not change. Nothing is edited where an error is raised.

    Raises:
        PassError: the removal does not fit the groups, would leave an axis empty, or leaves what no attributes of
            a node can say.
    """
    kept = KeptPositions(groups, removal)
    stranger = next((value for value in kept.values if not _is_of(rewriter.graph, value)), None)
    if stranger is not None:
        raise PassError(f"the groups are not of this graph: %{stranger.name} is of another one", fix="analyse the graph that is cut")
    record = _record(rewriter.graph, kept, removal)
    plan = make_plan(rewriter.graph, record)
    _compare(rewriter.graph, kept, plan)
    apply_plan(rewriter, plan)
    return record


def _is_of(graph: Graph, value: Value) -> bool:
    return graph.has_value(value.name) and graph.value(value.name) is value


def _record(graph: Graph, kept: KeptPositions, removal: Removal) -> CutRecord:
    states: dict[str, tuple[AxisCut, ...]] = {}
    for name, state in graph.states.items():
        masks = kept.values.get(state.value)
        if masks:
            states[name] = tuple((axis, tuple(masks[axis].nonzero()[0].tolist())) for axis in sorted(masks))
    attributes: dict[str, dict[str, Attribute]] = {}
    for node in graph.nodes:
        changes = fitting_attributes(node, kept)
        if changes:
            attributes[node.name] = changes
    shapes = {name: graph.states[name].type.static_shape for name in states}
    counts = {group.name: (int(gone.sum()), group.size) for group, gone in removal.items() if gone.any()}
    return CutRecord(states, shapes, attributes, counts)


def _compare(graph: Graph, kept: KeptPositions, plan: Plan) -> None:
    """The inferred shapes have to be those that the kept positions say, of every value."""
    for value in graph.values:
        wanted = kept.shape(value) if value in kept else value.shape
        found = plan.types[value].shape if value in plan.types else value.shape
        if wanted != found:
            raise _disagreement(value, wanted, found)


def _disagreement(value: Value, wanted: tuple[object, ...], found: tuple[object, ...]) -> PassError:
    shown = [f"[{','.join(str(dim) for dim in shape)}]" for shape in (wanted, found)]
    return PassError(
        f"internal error: by the axis groups {value!r} becomes {shown[0]}, by the type rules {shown[1]}",
        where=repr(value.producer) if value.producer is not None else f"state or input %{value.name}",
        fix="report the model; until it is mended, exclude the groups that the value belongs to",
    )
