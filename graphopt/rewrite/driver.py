"""Applies rules until none fires: a worklist, about linear in the number of nodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.errors import PassError
from graphopt.ir.graph import Node, Value
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import NoMatch, Rule

__all__ = ["Tally", "drive"]

_FIRINGS_PER_NODE = 20
"""Beyond this many firings per node of the graph, rules undo each other for ever."""

_REACH = 3
"""How many steps below a change a pattern anchored at its last node may reach up to it."""

_FEW_USES = 16
"""Values with more readers than this do not wake all of them."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How often rules fired, and for each node that stayed, why: pairs (node name, reason)."""

    rewritten: int
    skipped: tuple[tuple[str, str], ...]


def drive(rewriter: Rewriter, rules: Sequence[Rule[Any]]) -> Tally:
    """Show every node to the rules in execution order, and again those that a rewrite touched.

    Raises:
        PassError: the rules do not come to an end.
    """
    graph = rewriter.graph
    by_op: dict[str, list[Rule[Any]]] = {}
    everywhere = [rule for rule in rules if not rule.ops]
    for rule in rules:
        for op in rule.ops:
            by_op.setdefault(op, []).append(rule)
    queue: deque[Node] = deque(graph.nodes)
    queued = set(queue)
    limit = _FIRINGS_PER_NODE * (len(queue) + 50)
    fired = 0
    reasons: dict[Node, dict[str, None]] = {}
    while queue:
        node = queue.popleft()
        queued.discard(node)
        if node.graph is not graph:
            continue
        found: dict[str, None] = {}
        for rule in (*by_op.get(node.op, ()), *everywhere):
            site = rule.match(node)
            if isinstance(site, NoMatch):
                if site.reason:
                    found[site.reason] = None
                continue
            rule.rewrite(site, rewriter)
            fired += 1
            if fired > limit:
                raise PassError(
                    f"rule {type(rule).__name__} fired {fired} times on {graph.node_count} nodes and does not come to an end",
                    where=repr(node),
                    fix="make the rule's result no longer match the rule",
                )
            for dirty in _around(rewriter.take_dirty()):
                if dirty not in queued and dirty.graph is graph:
                    queue.append(dirty)
                    queued.add(dirty)
            if node.graph is not graph:
                break
        if found and node.graph is graph:
            reasons[node] = found
        else:
            reasons.pop(node, None)
    skipped = tuple((node.name, reason) for node, found in reasons.items() if node.graph is graph for reason in found)
    return Tally(fired, skipped)


def _around(nodes: list[Node]) -> list[Node]:
    """The nodes, their producers, and their readers up to `_REACH` steps down: where a pattern may now fit.

    Values with many readers are not followed, which keeps the driver linear on wide graphs.
    """
    found: dict[Node, None] = dict.fromkeys(nodes)
    frontier = list(found)
    for _ in range(_REACH):
        following: list[Node] = []
        for node in frontier:
            for result in node.results:
                if result.use_count <= _FEW_USES:
                    following.extend(user for user in result.users if not user.is_return and user not in found)
        found.update(dict.fromkeys(following))
        frontier = following
    for node in nodes:
        for operand in node.operands:
            if isinstance(operand, Value) and operand.producer is not None:
                found[operand.producer] = None
    return list(found)
