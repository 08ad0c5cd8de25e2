"""Pools, and means over the pixels of an image."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import image_frame
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.pool import adaptive_candidates, pool_candidates
from graphopt.backends.cpu.kernels.windows import Window
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.planner.makers.table import maker
from graphopt.backends.cpu.storage import Storage
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Node
from graphopt.ir.types import DType


def _refuse(node: Node, shapes: Shapes) -> str | None:
    if node.results[0].type.dtype is not DType.f32:
        return f"{node.results[0].type.dtype.text} has no kernel"
    if node.value(0).type.rank != (3 if node.op.endswith("1d") else 4):
        return "an image without a batch axis has no kernel"
    return "it has no elements" if 0 in shapes.of(node.value(0)) + shapes.of(node.results[0]) else None


def _pair(values: Sequence[int], missing: int) -> tuple[int, int]:
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])


@maker("max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", unless=_refuse)
def window_pool(builder: Builder, group: Group) -> None:
    """Sliding windows."""
    builder.add(window_candidates(builder, group))


def window_candidates(builder: Builder, group: Group) -> list[Kernel]:
    """Kernels for the pool of a group."""
    node = group.anchor
    dims, attrs = builder.shapes.dims, node.attrs
    maximum = node.op.startswith("max")
    window = Window(
        _pair(dims(attrs["kernel"]), 1),
        _pair(dims(attrs["stride"]), 1),
        _pair(dims(attrs["padding"]), 0),
        _pair(dims(attrs["dilation"]), 1) if maximum else (1, 1),
    )
    counts = True if maximum else bool(attrs["count_include_pad"])
    divisor = None if maximum or attrs["divisor_override"] is None else builder.shapes.dim(attrs["divisor_override"])
    x, y, chain = _operands(builder, group)
    frame = image_frame(x.rank)
    return list[Kernel](pool_candidates(x, y, window, frame, maximum, counts, divisor, chain))


@maker("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", unless=_refuse)
def adaptive_pool(builder: Builder, group: Group) -> None:
    """Pieces that the image is cut into."""
    x, y, chain = _operands(builder, group)
    builder.add(adaptive_candidates(x, y, image_frame(x.rank), "max" in group.anchor.op, chain))


def _operands(builder: Builder, group: Group) -> tuple[Storage, Storage, Chain]:
    value = group.anchor.value(0)
    x = builder.image(builder.storage(value), layout=builder.layouts.wish(group.anchor.results[0]) if value.producer is None else None)
    frame = image_frame(x.rank)
    y = builder.result(
        group,
        lambda storage: frame.strides(storage) is not None and storage.lanes(1) is not None,
        lambda shape: make_storage("blocked" if len(shape) == 4 else "last", "new", x.dtype, shape),
    )
    return x, y, builder.fit(builder.chain(group), frame, y)
