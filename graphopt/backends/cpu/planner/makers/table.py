"""The table of makers: which ops run natively, and who plans them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.backends.cpu.kernel import C_TYPES
from graphopt.backends.cpu.planner.blocks import Block
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Node, Value

__all__ = ["BLOCKS", "MAKERS", "Maker", "block_maker", "dtypes_are_native", "maker", "refuse"]

Refuse = Callable[[Node, Shapes], str | None]


@dataclass(frozen=True, slots=True)
class Maker:
    """`make` adds the steps of a group; `refuse` says why a node of this op can't be native, or None."""

    make: Callable[[Builder, Group], None]
    refuse: Refuse


MAKERS: dict[str, Maker] = {}
BLOCKS: dict[str, Callable[[Builder, Block], None]] = {}


def block_maker(kind: str) -> Callable[[Callable[[Builder, Block], None]], Callable[[Builder, Block], None]]:
    """Register the function for blocks of that kind."""

    def register(make: Callable[[Builder, Block], None]) -> Callable[[Builder, Block], None]:
        BLOCKS[kind] = make
        return make

    return register


def _never(node: Node, shapes: Shapes) -> str | None:
    return None


def maker(*ops: str, unless: Refuse = _never) -> Callable[[Callable[[Builder, Group], None]], Callable[[Builder, Group], None]]:
    """Register the function for those ops."""

    def register(make: Callable[[Builder, Group], None]) -> Callable[[Builder, Group], None]:
        for op in ops:
            MAKERS[op] = Maker(make, unless)
        return make

    return register


def dtypes_are_native(node: Node) -> str | None:
    """Why the dtypes of a node's values are not ours, or None."""
    for value in (*node.operands, *node.results):
        if isinstance(value, Value) and value.type.dtype.text not in C_TYPES:
            return f"{value.type.dtype.text} is not computed natively"
    return None


def refuse(node: Node, shapes: Shapes) -> str | None:
    """Why a node can't be native, or None."""
    found = MAKERS.get(node.op)
    if found is None:
        return "the op has no kernel"
    if not shapes.is_known(node):
        return "a size is known only when it runs"
    return dtypes_are_native(node) or found.refuse(node, shapes)
