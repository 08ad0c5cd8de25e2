"""Linear layers and products of matrices."""

from __future__ import annotations

from graphopt.backends.cpu.kernels.batched_matmul import batched_matmul_candidates
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.dense_candidates import linear_candidates
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.frames import find_frame
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.planner.makers.convolution import state_name
from graphopt.backends.cpu.planner.makers.sparse import sparse_kernels, with_dense
from graphopt.backends.cpu.planner.makers.table import maker
from graphopt.backends.cpu.storage import Storage
from graphopt.backends.planning.shapes import Shapes
from graphopt.errors import BackendError
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType


def _refuse(node: Node, shapes: Shapes) -> str | None:
    graph = node.graph
    if node.results[0].type.dtype is not DType.f32:
        return f"{node.results[0].type.dtype.text} has no kernel"
    if any(isinstance(operand, Value) and (graph is None or graph.state_of(operand) is None) for operand in node.operands[1:]):
        return "its weight is computed"
    return "it has no elements" if 0 in shapes.of(node.value(0)) + shapes.of(node.results[0]) else None


def _refuse_product(node: Node, shapes: Shapes) -> str | None:
    if node.results[0].type.dtype is not DType.f32:
        return f"{node.results[0].type.dtype.text} has no kernel"
    return "it has no elements" if any(0 in shapes.of(node.value(index)) for index in (0, 1)) else None


@maker("matmul", unless=_refuse_product)
def matmul(builder: Builder, group: Group) -> None:
    """Products of matrices over batch axes."""
    node = group.anchor
    a, b = (builder.storage(node.value(index)) for index in (0, 1))
    a, b = (builder.plain(storage) if storage.blocked_axis is not None else storage for storage in (a, b))
    shape = builder.shapes.of(node.results[0])
    if not batched_matmul_candidates(a, b, make_storage("plain", "new", a.dtype, shape)):
        a, b = builder.plain(a), builder.plain(b)
    y = builder.result(
        group, lambda storage: bool(batched_matmul_candidates(a, b, storage)), lambda shape: make_storage("plain", "new", a.dtype, shape)
    )
    chain = builder.chain(group)
    builder.add(batched_matmul_candidates(a, b, y, chain) or batched_matmul_candidates(a, b, y, builder.laid_out_like(chain, y)))


@maker("linear", unless=_refuse)
def linear(builder: Builder, group: Group) -> None:
    """x @ weight.T + bias with a weight that is a parameter."""
    node = group.anchor
    x = builder.rows(builder.storage(node.value(0)))
    y = _result(builder, group, x)
    chain = builder.chain(group)
    last = x.rank - 1
    frame = find_frame([y, x], last, chain) or find_frame([x, y], last, chain)
    if frame is None:
        frame = find_frame([y, x], last) or find_frame([x, y], last)
        if frame is None:
            x = builder.plain(x)
            frame = find_frame([y, x], last)
        if frame is None:
            raise BackendError("no frame tells both sides of a linear layer", where=repr(node))
        chain = builder.fit(chain, frame, y)
    weight, bias = node.value(1), state_name(node, 2)
    dense = linear_candidates(x, y, weight.name, bias, frame, chain)
    builder.add(with_dense(sparse_kernels(builder, weight, bias, x, y, Convolution((1, 1)), frame, chain), dense, weight))


def _result(builder: Builder, group: Group, x: Storage) -> Storage:
    last = x.rank - 1

    def accept(storage: Storage) -> bool:
        return storage.lanes(last) is not None and (find_frame([storage, x], last) or find_frame([x, storage], last)) is not None

    def fallback(shape: tuple[int, ...]) -> Storage:
        # rows in the order in which x has them
        plain = make_storage("plain", "new", x.dtype, shape)
        order = sorted(range(last), key=lambda axis: (-x.strides[axis], axis))
        strides = [0] * last + [1]
        step = shape[last]
        for axis in reversed(order):
            strides[axis] = step
            step *= shape[axis]
        ordered = Storage("new", x.dtype, shape, tuple(strides))
        return ordered if find_frame([ordered, x], last) is not None else plain

    return builder.result(group, accept, fallback)
