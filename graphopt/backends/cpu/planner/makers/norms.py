"""Layer norm, RMS norm and softmax."""

from __future__ import annotations

from graphopt.backends.cpu.kernels.layer_norm import layer_norm_candidates
from graphopt.backends.cpu.kernels.softmax import softmax_candidates
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.planner.makers.convolution import state_name
from graphopt.backends.cpu.planner.makers.table import maker
from graphopt.backends.cpu.storage import Storage
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType


def _refuse(node: Node, shapes: Shapes) -> str | None:
    graph = node.graph
    if node.results[0].type.dtype is not DType.f32 or node.value(0).type.dtype is not DType.f32:
        return f"{node.results[0].type.dtype.text} has no kernel"
    if any(isinstance(operand, Value) and (graph is None or graph.state_of(operand) is None) for operand in node.operands[1:]):
        return "its parameters are computed"
    return "it has no elements" if 0 in shapes.of(node.value(0)) or not node.value(0).type.rank else None


def _ordered(x: Storage, shape: tuple[int, ...]) -> Storage:
    """Memory for a result in the order of axes of x."""
    order = sorted(range(x.rank), key=lambda axis: (-x.strides[axis], axis))
    strides = [0] * x.rank
    step = 1
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return Storage("new", x.dtype, shape, tuple(strides))


@maker("layer_norm", "rms_norm", unless=_refuse)
def layer_norm(builder: Builder, group: Group) -> None:
    """Norms over the last axes."""
    node = group.anchor
    x = builder.storage(node.value(0))
    axes = len(builder.shapes.dims(node.attrs["normalized_shape"]))
    eps = node.attrs["eps"]
    weight, bias = state_name(node, 1), state_name(node, 2)
    is_rms = node.op == "rms_norm"

    def fits(source: Storage, target: Storage) -> bool:
        return bool(layer_norm_candidates(source, target, axes=axes))

    if not fits(x, _ordered(x, x.shape)):
        x = builder.plain(x)
    y = builder.result(group, lambda storage: fits(x, storage), lambda shape: _ordered(x, shape))
    chain = builder.chain(group)
    number = None if eps is None else float(eps)  # pyright: ignore[reportArgumentType]
    found = layer_norm_candidates(x, y, weight, bias, number, axes, is_rms, chain=chain)
    if not found:
        chain = builder.laid_out_like(chain, y)
        found = layer_norm_candidates(x, y, weight, bias, number, axes, is_rms, chain=chain)
    builder.add(found)


@maker("softmax", "log_softmax", unless=_refuse)
def softmax(builder: Builder, group: Group) -> None:
    """Along any axis."""
    node = group.anchor
    axis = builder.shapes.dim(node.attrs["axis"])
    is_log = node.op == "log_softmax"
    x = builder.storage(node.value(0))
    if x.blocked_axis is not None or 0 in x.strides or not softmax_candidates(x, _ordered(x, x.shape), axis, is_log):
        x = builder.plain(x)
    y = builder.result(
        group,
        lambda storage: bool(softmax_candidates(x, storage, axis, is_log)),
        lambda shape: make_storage("plain", "new", x.dtype, shape) if x.is_plain else _ordered(x, shape),
    )
    builder.add(softmax_candidates(x, y, axis, is_log))
