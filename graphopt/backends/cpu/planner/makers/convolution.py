"""Convolutions: direct, Winograd, grouped, depthwise, transposed, sparse."""

from __future__ import annotations

from graphopt.backends.cpu.frame import Frame, image_frame
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.chain_code import chain_fits
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.depthwise import depthwise_candidates
from graphopt.backends.cpu.kernels.transposed import transposed_candidates, transposed_halo
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.planner.makers.dense import dense_candidates
from graphopt.backends.cpu.planner.makers.sparse import sparse_kernels, with_dense
from graphopt.backends.cpu.planner.makers.table import maker
from graphopt.backends.cpu.storage import LANES
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Node, Value

FEW_CHANNELS = 8
"""A first convolution with at most so many channels reads planes; 16 lanes would be mostly padding."""


def _weights_are_states(node: Node, shapes: Shapes) -> str | None:
    graph = node.graph
    for operand in node.operands[1:]:
        if isinstance(operand, Value) and (graph is None or graph.state_of(operand) is None):
            return f"%{operand.name} is computed, a convolution's weights have to be parameters"
    x = node.operands[0]
    if isinstance(x, Value) and 0 in shapes.of(x) + shapes.of(node.results[0]):
        return "it has no elements"
    return None


def _transposed_refused(node: Node, shapes: Shapes) -> str | None:
    refused = _weights_are_states(node, shapes)
    if refused is None and node.attrs["groups"] != 1:
        inputs, outputs = shapes.of(node.value(0))[1], shapes.of(node.results[0])[1]
        if any(count // int(node.attrs["groups"]) % LANES for count in (inputs, outputs)):  # pyright: ignore[reportArgumentType]
            return "narrow groups of a transposed convolution have no kernel"
    return refused


def state_name(node: Node, index: int) -> str | None:
    """Name of the state behind an operand, None where the operand is missing."""
    operand = node.operands[index] if index < len(node.operands) else None
    return operand.name if isinstance(operand, Value) else None


@maker("conv_transpose1d", "conv_transpose2d", unless=_transposed_refused)
def transposed(builder: Builder, group: Group) -> None:
    """Transposed convolutions, as convolutions of each phase of the result."""
    node = group.anchor
    value = node.value(0)
    conv = Convolution.of(node.attrs, builder.shapes.of(node.value(1))[2:])
    rank = value.type.rank
    sizes = (builder.shapes.of(value)[2:], builder.shapes.of(node.results[0])[2:])
    x = builder.image(builder.storage(value), transposed_halo(conv, *sizes))
    frame = image_frame(rank)
    y = builder.result(
        group,
        lambda storage: frame.strides(storage) is not None and storage.lanes(1) is not None,
        lambda shape: make_storage("blocked" if rank == 4 else "last", "new", x.dtype, shape),
    )
    chain = builder.fit(builder.chain(group), frame, y)
    builder.add(transposed_candidates(x, y, node.value(1).name, state_name(node, 2), conv, chain))


@maker("conv1d", "conv2d", unless=_weights_are_states)
def convolution(builder: Builder, group: Group) -> None:
    """conv1d and conv2d."""
    builder.add(convolution_candidates(builder, group))


def convolution_candidates(builder: Builder, group: Group) -> list[Kernel]:
    """Kernels for the convolution of a group; operands are copied where their layout does not do."""
    node = group.anchor
    value = node.value(0)
    source = builder.storage(value)
    conv = Convolution.of(node.attrs, builder.shapes.of(node.value(1))[2:])
    channels = source.shape[1]
    rank = source.rank
    frame = image_frame(rank)
    is_depthwise = conv.groups == channels and channels > 1
    halo = (0, 0) if is_depthwise else conv.padding
    if conv.groups == 1 and channels <= FEW_CHANNELS:
        x = builder.planes(source, halo)
    else:
        x = builder.image(source, halo, builder.layouts.wish(value) if value.producer is not None else None)
    y = builder.result(
        group,
        lambda storage: frame.strides(storage) is not None and storage.lanes(1) is not None,
        lambda shape: make_storage("blocked" if rank == 4 else "last", "new", x.dtype, shape),
    )
    chain = builder.chain(group)
    flat = Frame((0,), 1, (), tuple(range(2, rank)))
    if conv.is_pointwise and flat.strides(x) is not None and flat.strides(y) is not None and chain_fits(chain, flat):
        frame = flat
    chain = builder.fit(chain, frame, y)
    weight, bias = node.value(1).name, state_name(node, 2)
    if is_depthwise:
        return list[Kernel](depthwise_candidates(x, y, weight, bias, conv, frame, chain))
    dense = dense_candidates(x, y, weight, bias, conv, frame, chain, builder.numbers)
    return with_dense(sparse_kernels(builder, node.value(1), bias, x, y, conv, frame, chain), dense, node.value(1))
