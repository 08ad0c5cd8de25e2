"""What becomes of the states that a rewrite no longer reads."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.ir.graph import Node, State, Value
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["drop_orphans", "is_mutable", "state_operands"]

_STATISTICS = {"batch_norm": (3, 4), "instance_norm": (3, 4)}
"""Operands that training writes to."""


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


def is_mutable(value: Value) -> bool:
    """True for running statistics: training changes them although they are buffers."""
    return any(use.index in _STATISTICS.get(use.node.op, ()) for use in value.uses)
