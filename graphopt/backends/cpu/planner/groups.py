"""Which elementwise nodes ride on which kernels of the CPU backend; `graphopt.backends.planning.groups` forms the groups."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.backends.cpu.chain import Operation, TheValue
from graphopt.backends.cpu.kernels.vector_ops import is_vector_operation
from graphopt.backends.cpu.storage import plain
from graphopt.backends.planning import groups as planning
from graphopt.backends.planning.groups import Group, Link, Rules
from graphopt.backends.planning.shapes import Shapes
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


def form_groups(nodes: Iterable[Node], shapes: Shapes) -> list[Group]:
    """The groups in order of execution, by what the CPU's kernels can do."""
    return planning.form_groups(
        nodes,
        shapes,
        Rules(
            rides=_is_chainable,
            carries=lambda node: _carries(node, shapes),
            hands_on=lambda value: value.type.dtype is DType.f32,
            contiguous=lambda shape: plain("seen", DType.f32, shape),
        ),
    )


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
