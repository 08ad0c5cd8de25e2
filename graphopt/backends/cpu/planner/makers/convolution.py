"""Convolutions: direct, Winograd, grouped, depthwise, transposed, sparse."""

from __future__ import annotations

from dataclasses import replace

from graphopt.backends.cpu.frame import Frame, image_frame
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.planner.makers.table import maker
from graphopt.backends.cpu.planner.shapes import Shapes
from graphopt.backends.cpu.storage import LANES, Storage
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


def state_name(node: Node, index: int) -> str | None:
    """Name of the state behind an operand, None where the operand is missing."""
    operand = node.operands[index] if index < len(node.operands) else None
    return operand.name if isinstance(operand, Value) else None


@maker("conv1d", "conv2d", unless=_weights_are_states)
def convolution(builder: Builder, group: Group) -> None:
    """conv1d and conv2d."""
    node = group.anchor
    x_value = node.value(0)
    weight_shape = builder.shapes.of(node.value(1))
    conv = Convolution.of(node.attrs, weight_shape[2:])
    rank = x_value.type.rank
    channels = builder.shapes.of(x_value)[1]
    halo = conv.padding
    if conv.groups == 1 and channels <= FEW_CHANNELS:
        x = builder.planes(builder.storage(x_value), halo)
    else:
        x = builder.image(builder.storage(x_value), halo, builder.layouts.wish(x_value) if x_value.producer else None)
    frame = image_frame(rank)
    y = builder.result(
        group,
        lambda storage: frame.strides(storage) is not None,
        lambda shape: make_storage("blocked" if rank == 4 else "last", "new", x.dtype, shape),
    )
    chain = builder.chain(group)
    flat = Frame((0,), 1, (), tuple(range(2, rank)))
    if conv.is_pointwise and _tells(flat, x, y):
        from graphopt.backends.cpu.kernels.chain_code import chain_fits

        if chain_fits(chain, flat):
            frame = flat
    chain = builder.fit(chain, frame, y)
    builder.add(_candidates(builder, node, x, y, conv, frame, chain))


def _tells(frame: Frame, *storages: Storage) -> bool:
    return all(frame.strides(storage) is not None for storage in storages)


def _candidates(builder: Builder, node: Node, x: Storage, y: Storage, conv: Convolution, frame: Frame, chain: object) -> list[Kernel]:
    raise NotImplementedError
