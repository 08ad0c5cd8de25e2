"""Trees of elementwise nodes: what passes walk that move a layout change through arithmetic.

%p = permute(%x)   %q = permute(%y)
%r = relu(%p)
%s = add(%r, %q)          <- the root; its tree is {add, relu}, its leaves are %p, %q
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.ir.graph import Node, Operand, Value
from graphopt.ops import ELEMENTWISE
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["Tree", "rebuild", "tree_of"]

_ANY_POSITION = ELEMENTWISE - {"prelu"}
"""Ops that treat every position alike; `prelu` looks at the channel axis."""

_LARGEST_TREE = 32
"""Larger trees are not walked, which bounds the cost per root."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Elementwise nodes in execution order that only feed each other and the last of them, and what they read."""

    nodes: tuple[Node, ...]
    leaves: tuple[Value, ...]

    @property
    def root(self) -> Node:
        """The node whose result leaves the tree."""
        return self.nodes[-1]


def tree_of(operand: Operand) -> Tree | None:
    """The largest tree of elementwise nodes that nothing else reads and that ends at `operand`; None when there is none."""
    found: list[Node] = []
    leaves: dict[Value, None] = {}
    pending: list[tuple[Operand, Node | None]] = [(operand, None)]
    members: set[Node] = set()
    while pending:
        current, reader = pending.pop()
        if not isinstance(current, Value):
            continue
        node = current.producer
        alone = reader is None or all(user is reader for user in current.users)
        if node is not None and node.op in _ANY_POSITION and (alone and (reader is not None or current.use_count == 1)):
            if node not in members:
                members.add(node)
                found.append(node)
                pending.extend((item, node) for item in node.operands)
            if len(found) > _LARGEST_TREE:
                return None
        else:
            leaves[current] = None
    # A node is found after its reader, and read by nobody else, so the reverse is an execution order.
    return Tree(tuple(reversed(found)), tuple(leaves)) if found else None


def rebuild(last: Node, tree: Tree, leaf: Callable[[Value], Operand], finish: Callable[[Value], Value], rewriter: Rewriter) -> None:
    """Make the tree again on other leaves, and replace `last`, its reader, by what `finish` makes of the new result.

    The new nodes get the names of the old ones.
    """
    made: dict[Value, Value] = {}
    for node in tree.nodes:
        operands = [(made[item] if item in made else leaf(item)) if isinstance(item, Value) else item for item in node.operands]
        created = rewriter.create(node.op, operands, node.attrs, before=last, source=node.source)
        made[node.result] = created.result
    result = finish(made[tree.root.result])
    rewriter.replace(last, result)
    rewriter.erase_unused(tree.root)
    for old, new in made.items():
        if new is not result and not rewriter.graph.has_value(old.name):
            rewriter.rename(new, old.name)
