"""Blocks: a few groups in a row that one kernel can run, so that what lies between them never leaves the cache.

    expand:    conv 1x1 -> depthwise conv -> conv 1x1          inverted residuals (MobileNetV2, EfficientNet)
    separable: depthwise conv -> conv 1x1                      MobileNetV1 and first blocks
    widen:     conv 1x1 -> depthwise conv                      the same, where a gate follows
    squeeze:   conv 1x1 -> conv 1x1 on images of one pixel     squeeze-and-excitation
    gated:     mul by a gate per channel -> conv 1x1           what uses the excitation
    pooled:    conv 3x3 -> max pool 2x2                        VGG

Whether a block pays is measured against its groups one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Value

__all__ = ["Block", "find_blocks"]


@dataclass(frozen=True, slots=True)
class Block:
    """`kind` is `expand`, `separable`, `widen`, `squeeze`, `gated` or `pooled`; the groups follow each other."""

    kind: str
    groups: tuple[Group, ...]


def find_blocks(groups: Sequence[Group], shapes: Shapes) -> list[Group | Block]:
    """The groups in order, those of a block together at the place of its last."""
    by_result = {group.result: group for group in groups}
    taken: set[int] = set()
    block_at: dict[int, Block] = {}
    for ending in (_ending_at, _widening, _pooling):
        for group in groups:
            block = ending(group, by_result, shapes)
            if block is not None and not any(id(member) in taken for member in block.groups):
                taken.update(id(member) for member in block.groups)
                block_at[id(group)] = block
    items: list[Group | Block] = []
    for group in groups:
        if id(group) in block_at:
            items.append(block_at[id(group)])
        elif id(group) not in taken:
            items.append(group)
    return items


def _ending_at(last: Group, by_result: dict[Value, Group], shapes: Shapes) -> Block | None:
    if not _is_pointwise(last, shapes):
        return None
    middle = _source(last, by_result)
    if middle is None or middle.path:
        return None
    if _is_one_pixel(last, shapes):
        return Block("squeeze", (middle, last)) if _is_pointwise(middle, shapes) and _is_unary(middle) and _is_unary(last) else None
    if _is_gate(middle, shapes) and not last.path:
        return Block("gated", (middle, last))
    if not _is_depthwise(middle, shapes) or not _is_unary(middle) or last.path:
        return None
    first = _source(middle, by_result)
    if first is not None and _is_pointwise(first, shapes) and _is_unary(first) and not first.path:
        return Block("expand", (first, middle, last))
    return Block("separable", (middle, last))


def _widening(last: Group, by_result: dict[Value, Group], shapes: Shapes) -> Block | None:
    first = _source(last, by_result) if _is_depthwise(last, shapes) else None
    if first is None or first.path or last.path or not _is_pointwise(first, shapes) or not _is_unary(first):
        return None
    return Block("widen", (first, last))


def _pooling(last: Group, by_result: dict[Value, Group], shapes: Shapes) -> Block | None:
    """Only where no row or column is left over or pooled with padding."""
    first = _source(last, by_result) if _is_halving(last, shapes) else None
    if first is None or first.path or first.anchor.op != "conv2d" or first.anchor.attrs["groups"] != 1:
        return None
    is_small = shapes.of(first.anchor.value(1))[2:] == (3, 3) and shapes.dims(first.anchor.attrs["stride"]) == (1, 1)
    return Block("pooled", (first, last)) if is_small else None


def _is_halving(group: Group, shapes: Shapes) -> bool:
    """max_pool2d of 2x2 pixels each that no chain rides on."""
    node = group.anchor
    if node.op != "max_pool2d" or group.chain:
        return False
    wanted = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)}
    sizes = zip(shapes.of(node.value(0))[2:], shapes.of(node.results[0])[2:], strict=True)
    return all(shapes.dims(node.attrs[name]) == value for name, value in wanted.items()) and all(half == size // 2 for size, half in sizes)


def _source(group: Group, by_result: dict[Value, Group]) -> Group | None:
    """The group that makes the anchor's operand, where nobody else reads it."""
    x = group.anchor.operands[0]
    return by_result.get(x) if isinstance(x, Value) and x.use_count == 1 else None


def _is_pointwise(group: Group, shapes: Shapes) -> bool:
    node = group.anchor
    if node.op != "conv2d" or node.attrs["groups"] != 1 or shapes.dims(node.attrs["stride"]) != (1, 1):
        return False
    return shapes.of(node.value(1))[2:] == (1, 1) and shapes.dims(node.attrs["padding"]) == (0, 0)


def _is_depthwise(group: Group, shapes: Shapes) -> bool:
    node = group.anchor
    if node.op != "conv2d":
        return False
    channels = shapes.of(node.value(0))[1]
    return channels > 1 and node.attrs["groups"] == channels and shapes.of(node.value(1))[0] == channels


def _is_one_pixel(group: Group, shapes: Shapes) -> bool:
    return shapes.of(group.anchor.value(0))[2:] == (1, 1)


def _is_gate(group: Group, shapes: Shapes) -> bool:
    """x [N, C, H, W] times [N, C, 1, 1]."""
    node = group.anchor
    if node.op != "mul" or group.chain or not all(isinstance(operand, Value) for operand in node.operands):
        return False
    sizes = sorted((shapes.of(node.value(index)) for index in (0, 1)), key=lambda shape: shape[2:] != (1, 1))
    return all(len(shape) == 4 for shape in sizes) and sizes[0][2:] == (1, 1) != sizes[1][2:] and sizes[0][:2] == sizes[1][:2]


def _is_unary(group: Group) -> bool:
    """True when the chain reads nothing else."""
    return all(sum(isinstance(operand, Value) for operand in link.node.operands) == 1 for link in group.chain)
