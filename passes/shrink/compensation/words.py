"""Words of the notes about a compensation."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.analysis.table import counted
from graphopt.ir.graph import Node

__all__ = ["listed", "memory_size", "operand_name"]


def memory_size(size: int) -> str:
    """`2048 MiB`, or bytes where it is less than one."""
    return f"{size >> 20} MiB" if size >= 1 << 20 else counted(size, "byte")


def operand_name(node: Node, index: int) -> str:
    """What people call an operand of a layer or norm, or of the addition of a bias behind it."""
    if node.op == "add":
        return "bias"
    if node.op == "einsum":
        return "weight"
    names = {"batch_norm": ("x", "scale", "shift", "mean", "variance")}.get(node.op, ("x", "weight", "bias"))
    return names[index]


def listed(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    shown = ", ".join(f"%{name}" for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
