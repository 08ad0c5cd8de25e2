"""Takes a part out of a graph: what read its exit reads its entry, and what nobody reads any more goes, parameters included.

%b = relu(%a)   %c = conv2d(%b, %w1, ...)   %d = add(%a, %c)   %y = linear(%d, %w2, none)
-> %y = linear(%a, %w2, none)                                  the part from %a to %d is gone, and %w1 with it
"""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.errors import PassError
from graphopt.ir.graph import Graph, Node, State, Value
from graphopt.rewrite.cut.record import PartRecord
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.states import drop_orphans, state_operands

__all__ = ["take_out"]


def take_out(rewriter: Rewriter, part: PartRecord) -> None:
    """Remove one part.

    Raises:
        PassError: the graph has no such part; nothing was edited.
    """
    entry, end = _ends(rewriter.graph, part)
    inside = _inside(entry, end)
    if inside is None or end.producer is None or (entry.type.dtype, entry.type.shape) != (end.type.dtype, end.type.shape):
        raise PassError(
            f"the part '{part.name}' was between %{part.entry} and %{part.exit}, here {end!r} can't be replaced by {entry!r}",
            fix="replay it on the same model, after the passes that ran before the removal",
        )
    states = state_operands(*inside)
    rewriter.replace_value(end, entry)
    rewriter.erase_unused(end.producer)
    drop_orphans(rewriter, states)
    drop_orphans(rewriter, _beside(rewriter.graph, states))


def _ends(graph: Graph, part: PartRecord) -> tuple[Value, Value]:
    for name in (part.entry, part.exit):
        if not graph.has_value(name):
            raise PassError(
                f"the part '{part.name}' was between %{part.entry} and %{part.exit}, and the graph '{graph.name}' has no %{name}",
                fix="replay it on the same model, after the passes that ran before the removal",
            )
    return graph.value(part.entry), graph.value(part.exit)


def _inside(entry: Value, end: Value) -> tuple[Node, ...] | None:
    """The nodes between entry and end, from the end; None where the end is not computed from the entry."""
    found: dict[Node, None] = {}
    pending = [end]
    reached = False
    while pending:
        value = pending.pop()
        reached = reached or value is entry
        node = value.producer
        if value is not entry and node is not None and node not in found:
            found[node] = None
            pending.extend(operand for operand in node.operands if isinstance(operand, Value))
    return tuple(found) if reached and found else None


def _beside(graph: Graph, states: Iterable[State]) -> list[State]:
    """States of the same modules as those that went, such as num_batches_tracked, which no node reads."""
    modules = {_module(state.name) for state in states if state.name not in graph.states}
    return [state for state in graph.states.values() if _module(state.name) in modules]


def _module(name: str) -> str:
    return name.rpartition(".")[0] or name
