"""Fusion groups: a node and the elementwise nodes that ride on its result.

    conv2d + add + relu          the convolution stores what comes out of relu
    linear + reshape + gelu      views in between change nothing for an elementwise op

A node joins the group whose result it alone reads; of two such groups it joins the one that runs later, and
the other's result is an operand that is ready by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from graphopt.backends.cpu.chain import Operation, TheValue
from graphopt.backends.cpu.kernels.vector_ops import is_vector_operation
from graphopt.backends.cpu.planner.shapes import Shapes
from graphopt.backends.cpu.planner.views import VIEW_OPS, backward_view, forward_view, is_invertible
from graphopt.backends.cpu.storage import plain
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType
from graphopt.ops.families import ELEMENTWISE

__all__ = ["CHAIN_ANCHORS", "Group", "Link", "form_groups", "is_image_mean", "is_vector_node"]

CHAIN_ANCHORS = frozenset(
    {
        "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear", "matmul", "batch_norm", "layer_norm", "rms_norm",
        "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    }
)  # fmt: skip
"""Ops whose kernels take a chain; elementwise nodes on f32 begin a group of their own."""


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


def form_groups(nodes: Iterable[Node], shapes: Shapes, accepts: Callable[[Node], bool]) -> list[Group]:
    """The groups in order of execution. `accepts` tells whether a node may ride on a chain or carry one."""
    order = list(nodes)
    position = {node: number for number, node in enumerate(order)}
    owner: dict[Node, Group] = {}
    place: dict[int, int] = {}
    groups: list[Group] = []
    for node in order:
        joined = _join(node, owner, position, shapes) if accepts(node) and _is_chainable(node) else None
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


def is_vector_node(node: Node) -> bool:
    """True for an elementwise node that makes f32 of f32 (and of truth values, where it selects)."""
    if node.op not in ELEMENTWISE or len(node.results) != 1 or node.results[0].type.dtype is not DType.f32:
        return False
    for index, operand in enumerate(node.operands):
        selects = node.op == "where" and index == 0
        if isinstance(operand, Value) and operand.type.dtype is not (DType.boolean if selects else DType.f32):
            return False
        if not isinstance(operand, (Value, bool, int, float)):
            return False
    return is_vector_operation(Operation(node.op, tuple(TheValue() for _ in node.operands), node.attrs))


def is_image_mean(node: Node, shapes: Shapes) -> bool:
    """True for a mean over all pixels of [N, C, H, W], which has a kernel of its own."""
    if node.op != "mean" or node.results[0].type.dtype is not DType.f32:
        return False
    x = node.value(0)
    return x.type.rank == 4 and shapes.dims(node.attrs["axes"]) == (2, 3) and 0 not in shapes.of(x)


def _carries(node: Node, shapes: Shapes) -> bool:
    return node.op in CHAIN_ANCHORS or _is_chainable(node) or is_image_mean(node, shapes)


def _is_chainable(node: Node) -> bool:
    return is_vector_node(node) or (node.op == "batch_norm" and node.results[0].type.dtype is DType.f32)


def _join(node: Node, owner: dict[Node, Group], position: dict[Node, int], shapes: Shapes) -> tuple[Group, Link] | None:
    best: tuple[Group, Link] | None = None
    operands = [operand for operand in node.operands if isinstance(operand, Value)]
    riders = operands[:1] if node.op in ("batch_norm", "prelu") else operands
    for operand in riders:
        found = _carrier(operand, owner, shapes)
        if found is None or operands.count(operand) > 1 or shapes.of(operand) != shapes.of(node.results[0]):
            continue
        group, path = found
        if not _views_fit(group, path, shapes):
            continue
        if best is None or position[group.anchor] > position[best[0].anchor]:
            best = group, Link(node, path)
    return best


def _carrier(value: Value, owner: dict[Node, Group], shapes: Shapes) -> tuple[Group, tuple[Node, ...]] | None:
    """The group that ends in `value`, which nothing else reads, and the views on the way."""
    path: list[Node] = []
    while True:
        node = value.producer
        if node is None or value.use_count != 1 or value.type.dtype is not DType.f32 or node not in owner:
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
        if group.result is not value or not _carries(group.anchor, shapes):
            return None
        return group, tuple(reversed(path))


def _views_fit(group: Group, path: tuple[Node, ...], shapes: Shapes) -> bool:
    """True when operands that lie plain at the end of the path can be seen from the anchor, and the other way round."""
    views = [*group.path, *path]
    if not views:
        return True
    first = group.anchor.results[0]
    forwards = plain("forwards", DType.f32, shapes.of(first))
    for node in views:
        seen = forward_view(node, 0, forwards, shapes)
        if seen is None:
            return False
        forwards = seen
    backwards = plain("backwards", DType.f32, forwards.shape)
    for node in reversed(views):
        seen = backward_view(node, backwards, shapes)
        if seen is None:
            return False
        backwards = seen
    return True
