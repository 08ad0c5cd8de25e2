"""Blocks of groups: one kernel for all of it, where there is one and it pays, else group by group."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.backends.cpu.frame import image_frame
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.chain_code import chain_fits
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.inverted_residual import MobileBlock, inverted_residual_candidates, widen_depthwise_candidates
from graphopt.backends.cpu.kernels.layers import Layer
from graphopt.backends.cpu.kernels.squeeze_excite import SqueezeExcite, gated_candidates
from graphopt.backends.cpu.planner.blocks import Block
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.choice import Alternative, Stage
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.cpu.planner.makers.convolution import convolution_candidates, state_name
from graphopt.backends.cpu.planner.makers.dense import pooled_candidates
from graphopt.backends.cpu.planner.makers.elementwise import elementwise_candidates
from graphopt.backends.cpu.planner.makers.pool import window_candidates
from graphopt.backends.cpu.planner.makers.table import block_maker
from graphopt.backends.cpu.storage import Storage
from graphopt.ir.types import DType

_CANDIDATES: dict[str, Callable[[Builder, Group], Sequence[Kernel]]] = {"mul": elementwise_candidates, "max_pool2d": window_candidates}


def _layer(builder: Builder, group: Group) -> Layer:
    node = group.anchor
    with builder.working_on(group):
        chain = builder.chain(group)
    return Layer(node.value(1).name, state_name(node, 2), builder.shapes.of(node.results[0])[1], chain)


def _one_by_one(builder: Builder, block: Block) -> list[Stage] | None:
    """A stage for each group. Where a group in the middle wants its operand in another layout, the steps are added here,
    with the copy in its place, and there is nothing left to choose: None."""
    stages: list[Stage] = []
    is_added = False
    for group in block.groups:
        before = len(builder.steps)
        with builder.working_on(group):
            candidates = _CANDIDATES.get(group.anchor.op, convolution_candidates)(builder, group)
        if stages and len(builder.steps) > before:
            copies = builder.steps[before:]
            del builder.steps[before:]
            builder.add_alternatives([stages])
            builder.steps += copies
            stages = []
            is_added = True
        stages.append(Stage(tuple(candidates), (group,)))
    if is_added:
        builder.add_alternatives([stages])
        return None
    return stages


def _is_native(block: Block) -> bool:
    return all(group.anchor.results[0].type.dtype is DType.f32 for group in block.groups)


@block_maker("squeeze")
def squeeze(builder: Builder, block: Block) -> None:
    """Two small products with the means of the channels."""
    first, last = block.groups
    stages = _one_by_one(builder, block)
    if stages is None:
        return
    alternatives: list[Alternative] = [stages]
    frame = image_frame()
    x, y = builder.storage(first.anchor.value(0)), builder.storage(last.result)
    if _is_native(block) and not last.path and all(_has_lanes(storage) for storage in (x, y)):
        squeezed, excited = _layer(builder, first), _layer(builder, last)
        if chain_fits(squeezed.chain, frame) and chain_fits(excited.chain, frame):
            alternatives.insert(0, [Stage((SqueezeExcite(x, y, squeezed, excited, frame),), block.groups)])
    builder.add_alternatives(alternatives)


@block_maker("gated")
def gated(builder: Builder, block: Block) -> None:
    """conv(x * gate), with the gate applied to the weights."""
    product, last = block.groups
    a, b = (product.anchor.value(index) for index in (0, 1))
    gate, x = (a, b) if builder.shapes.of(a)[2:] == (1, 1) else (b, a)
    stages = _one_by_one(builder, block)
    if stages is None:
        return
    alternatives: list[Alternative] = [stages]
    y = builder.storage(last.result)
    storages = builder.storage(x), builder.storage(gate), y
    layer = _layer(builder, last)
    frame = image_frame()
    if all(_has_lanes(storage) for storage in storages) and chain_fits(layer.chain, frame):
        kernels: list[Kernel] = list(gated_candidates(*storages, layer, frame))
        if kernels:
            alternatives.insert(0, [Stage(tuple(kernels), block.groups)])
    builder.add_alternatives(alternatives)


@block_maker("pooled")
def pooled(builder: Builder, block: Block) -> None:
    """A convolution that stores the largest of each 2x2 results."""
    first, last = block.groups
    stages = _one_by_one(builder, block)
    if stages is None:
        return
    alternatives: list[Alternative] = [stages]
    node = first.anchor
    conv = Convolution.of(node.attrs, builder.shapes.of(node.value(1))[2:])
    x, y = builder.image(builder.storage(node.value(0)), conv.padding), builder.storage(last.result)
    layer = _layer(builder, first)
    if _is_native(block) and all(_has_lanes(storage) for storage in (x, y)) and chain_fits(layer.chain, image_frame()):
        kernels = pooled_candidates(x, y, layer.weight, layer.bias, conv, layer.chain, builder.numbers)
        if kernels:
            alternatives.insert(0, [Stage(tuple(kernels), block.groups)])
    builder.add_alternatives(alternatives)


def _has_lanes(storage: Storage) -> bool:
    return storage.lanes(1) is not None and image_frame().strides(storage) is not None


@block_maker("expand")
@block_maker("separable")
@block_maker("widen")
def mobile(builder: Builder, block: Block) -> None:
    """Depthwise convolutions with the products before and after them."""
    stages = _one_by_one(builder, block)
    if stages is None:
        return
    alternatives: list[Alternative] = [stages]
    first, last = block.groups[0], block.groups[-1]
    x, y = builder.image(builder.storage(first.anchor.value(0))), builder.storage(last.result)
    roles = {"expand": (0, 1, 2), "separable": (None, 0, 1), "widen": (0, 1, None)}[block.kind]
    widen, depthwise, narrow = (None if role is None else _layer(builder, block.groups[role]) for role in roles)
    middle = block.groups[roles[1]].anchor
    assert depthwise is not None, "every kind has one"
    conv = Convolution.of(middle.attrs, builder.shapes.of(middle.value(1))[2:])
    mobile_block = MobileBlock(widen, depthwise, narrow, conv)
    frame = image_frame()
    if not _has_lanes(y) or not all(layer is None or chain_fits(layer.chain, frame) for layer in (widen, depthwise, narrow)):
        builder.add_alternatives(alternatives)
        return
    kernels: list[Kernel]
    if narrow is None:
        kernels = list(widen_depthwise_candidates(x, y, None, mobile_block, frame))
    else:
        kernels = list(inverted_residual_candidates(x, y, mobile_block, frame))
    if kernels:
        alternatives.insert(0, [Stage(tuple(kernels), block.groups)])
    builder.add_alternatives(alternatives)
