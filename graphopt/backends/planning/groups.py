"""Fusion groups: a node and the elementwise nodes that ride on its result.

    conv2d + add + relu          the convolution stores what comes out of relu
    linear + reshape + gelu      views in between change nothing for an elementwise op

A node joins the group whose result it alone reads; of two such groups it joins the one that runs later, and
the other's result is an operand that is ready by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from graphopt.backends.planning.shapes import Shapes
from graphopt.backends.planning.views import VIEW_OPS, Viewable, backward_view, forward_view, is_invertible
from graphopt.ir.graph import Node, Value

__all__ = ["Group", "Link", "Rules", "form_groups"]


@dataclass(slots=True)
class Link:
    """An elementwise node of a chain; `path` are the views between what came before and this node's operand."""

    node: Node
    path: tuple[Node, ...] = ()


@dataclass(slots=True)
class Group:
    """An anchor and what rides on it. Views that nothing rides on are groups of their own."""

    anchor: Node
    chain: list[Link] = field(default_factory=list[Link])

    @property
    def result(self) -> Value:
        """What is stored at the end (the first result, where the anchor has several)."""
        return self.chain[-1].node.results[0] if self.chain else self.anchor.results[0]

    @property
    def nodes(self) -> list[Node]:
        """All nodes, views among them, in order."""
        return [self.anchor, *(node for link in self.chain for node in (*link.path, link.node))]

    @property
    def path(self) -> list[Node]:
        """The views between the anchor's result and the group's, in order."""
        return [node for link in self.chain for node in link.path]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a backend's kernels can do: which elementwise nodes ride on a chain, which anchors carry one, which values may
    be handed on in registers, and how a contiguous storage of a shape looks (to find out what can be seen through views)."""

    rides: Callable[[Node], bool]
    carries: Callable[[Node], bool]
    hands_on: Callable[[Value], bool]
    contiguous: Callable[[Sequence[int]], Viewable]


def form_groups(nodes: Iterable[Node], shapes: Shapes, rules: Rules) -> list[Group]:
    """The groups in order of execution."""
    order = list(nodes)
    position = {node: number for number, node in enumerate(order)}
    owner: dict[Node, Group] = {}
    place: dict[int, int] = {}
    groups: list[Group] = []
    for node in order:
        joined = _join(node, owner, position, shapes, rules) if rules.rides(node) else None
        if joined is not None:
            group, link = joined
            for view in link.path:
                groups.remove(owner[view])  # it was a group of its own until something rode on it
                owner[view] = group
            group.chain.append(link)
            owner[node] = group
        else:
            group = Group(node)
            groups.append(group)
            owner[node] = group
        place[id(group)] = position[node]
    return sorted(groups, key=lambda group: place[id(group)])


def _join(node: Node, owner: dict[Node, Group], position: dict[Node, int], shapes: Shapes, rules: Rules) -> tuple[Group, Link] | None:
    best: tuple[Group, Link] | None = None
    operands = [operand for operand in node.operands if isinstance(operand, Value)]
    riders = operands[:1] if node.op in ("batch_norm", "prelu") else operands
    for operand in riders:
        found = _carrier(operand, owner, rules)
        if found is None or operands.count(operand) > 1 or shapes.of(operand) != shapes.of(node.results[0]):
            continue
        group, path = found
        if not _views_fit(group, path, shapes, rules):
            continue
        if best is None or position[group.anchor] > position[best[0].anchor]:
            best = group, Link(node, path)
    return best


def _carrier(value: Value, owner: dict[Node, Group], rules: Rules) -> tuple[Group, tuple[Node, ...]] | None:
    """The group that ends in `value`, which nothing else reads, and the views on the way."""
    path: list[Node] = []
    while True:
        node = value.producer
        if node is None or value.use_count != 1 or not rules.hands_on(value) or node not in owner:
            return None
        group = owner[node]
        if node.op in VIEW_OPS:
            if not is_invertible(node) or group.anchor is not node or group.chain:
                return None
            path.append(node)
            operand = node.operands[0]
            if not isinstance(operand, Value):
                return None
            value = operand
            continue
        if group.result is not value or not rules.carries(group.anchor):
            return None
        return group, tuple(reversed(path))


def _views_fit(group: Group, path: tuple[Node, ...], shapes: Shapes, rules: Rules) -> bool:
    """True when operands that lie plain at the end of the path can be seen from the anchor, and the other way round."""
    views = [*group.path, *path]
    if not views:
        return True
    sizes = [shapes.of(group.anchor.results[0]), *(shapes.of(node.results[0]) for node in views)]
    forwards: Viewable | None = rules.contiguous(sizes[0])
    for node in views:
        forwards = forward_view(node, 0, forwards, shapes) if forwards is not None else None
    backwards: Viewable | None = rules.contiguous(sizes[-1])
    for node in reversed(views):
        backwards = backward_view(node, backwards, shapes) if backwards is not None else None
    return forwards is not None and backwards is not None
