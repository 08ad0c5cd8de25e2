"""Interpolation, and norms over groups of channels."""

from __future__ import annotations

from graphopt.backends.cpu.kernels.group_norm import group_norm_candidates
from graphopt.backends.cpu.kernels.resize import resize_candidates
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.planner.makers.convolution import state_name
from graphopt.backends.cpu.planner.makers.table import maker
from graphopt.backends.cpu.storage import Storage
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType


def _refuse_resize(node: Node, shapes: Shapes) -> str | None:
    x = node.value(0)
    if x.type.dtype is not DType.f32 or x.type.rank not in (3, 4):
        return "only images of f32 have a kernel"
    return "it has no elements" if 0 in shapes.of(x) + shapes.of(node.results[0]) else None


@maker("resize", unless=_refuse_resize)
def resize(builder: Builder, group: Group) -> None:
    """Interpolation to another size."""
    node = group.anchor
    mode, scales = str(node.attrs["mode"]), node.attrs["scales"]
    corners = bool(node.attrs["align_corners"])
    numbers = None if not isinstance(scales, tuple) else tuple(None if scale is None else float(scale) for scale in scales)  # pyright: ignore[reportArgumentType]
    x = builder.storage(node.value(0))

    def fits(source: Storage, target: Storage) -> bool:
        return bool(resize_candidates(source, target, mode, corners, numbers))

    layout = builder.layouts.wish(node.results[0])
    if not fits(x, make_storage(layout, "new", x.dtype, builder.shapes.of(node.results[0]))):
        x = builder.plain(x)
        layout = "plain"
    y = builder.result(group, lambda storage: fits(x, storage), lambda shape: make_storage(layout, "new", x.dtype, shape))
    builder.add(resize_candidates(x, y, mode, corners, numbers))


def _refuse_norm(node: Node, shapes: Shapes) -> str | None:
    graph = node.graph
    if node.results[0].type.dtype is not DType.f32:
        return f"{node.results[0].type.dtype.text} has no kernel"
    parameters = [operand for operand in node.operands[1:3] if isinstance(operand, Value)]
    if any(graph is None or graph.state_of(operand) is None for operand in parameters):
        return "its parameters are computed"
    if node.op == "instance_norm" and any(isinstance(operand, Value) for operand in node.operands[3:]):
        return "stored statistics of an instance norm have no kernel"
    return "it has no elements" if 0 in shapes.of(node.value(0)) or node.value(0).type.rank < 3 else None


@maker("group_norm", "instance_norm", unless=_refuse_norm)
def group_norm(builder: Builder, group: Group) -> None:
    """Over groups of channels, or each channel."""
    node = group.anchor
    x = builder.storage(node.value(0))
    groups = x.shape[1] if node.op == "instance_norm" else builder.shapes.dim(node.attrs["groups"])
    eps = node.attrs["eps"]
    assert isinstance(eps, (int, float)), "eps is a number"
    weight, bias = state_name(node, 1), state_name(node, 2)

    def fits(source: Storage, target: Storage) -> bool:
        return bool(group_norm_candidates(source, target, groups, weight, bias, eps))

    layout = builder.layouts.wish(node.results[0])
    if not fits(x, make_storage(layout, "new", x.dtype, x.shape)):
        x = builder.plain(x)
        layout = "plain"
    y = builder.result(group, lambda storage: fits(x, storage), lambda shape: make_storage(layout, "new", x.dtype, shape))
    builder.add(group_norm_candidates(x, y, groups, weight, bias, eps))
