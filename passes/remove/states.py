"""Which states of a graph a rewrite may change, and what becomes of those that it no longer reads."""

from __future__ import annotations

from graphopt.ir.graph import Value
from graphopt.rewrite.states import drop_orphans, state_operands

__all__ = ["drop_orphans", "is_mutable", "state_operands"]

_STATISTICS = {"batch_norm": (3, 4), "instance_norm": (3, 4)}
"""Operands that training writes to."""


def is_mutable(value: Value) -> bool:
    """True for running statistics: training changes them although they are buffers."""
    return any(use.index in _STATISTICS.get(use.node.op, ()) for use in value.uses)
