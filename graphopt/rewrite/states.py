"""What becomes of the states that a rewrite no longer reads."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.ir.graph import Node, State
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["drop_orphans", "state_operands"]


def state_operands(*nodes: Node) -> tuple[State, ...]:
    """The states that nodes read, each once."""
    found: dict[str, State] = {}
    for node in nodes:
        for operand in node.operands:
            state = node.graph.state_of(operand) if node.graph is not None else None
            if state is not None:
                found[state.name] = state
    return tuple(found.values())


def drop_orphans(rewriter: Rewriter, states: Iterable[State], *, constants_only: bool = False) -> None:
    """Forget those of the states that nobody reads any more.

    With `constants_only`, parameters and buffers stay, so that the model's `state_dict` still loads.
    """
    for state in states:
        present = rewriter.graph.states.get(state.name)
        if present is None or present.value is not state.value or state.value.use_count:
            continue
        if state.kind == "constant" or not constants_only:
            rewriter.remove_state(state.name)
