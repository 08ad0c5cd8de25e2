"""Reductions."""

from __future__ import annotations

from graphopt.backends.cpu.frame import Frame, image_frame
from graphopt.backends.cpu.kernels.pool import global_candidates
from graphopt.backends.cpu.kernels.reduce import REDUCTIONS, Reduce, reduce_fits
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.groups import Group, is_image_mean
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.planner.makers.table import maker
from graphopt.backends.cpu.storage import Storage
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Node


def _refuse(node: Node, shapes: Shapes) -> str | None:
    if 0 in shapes.of(node.value(0)):
        return "it has no elements"
    dtypes = (node.value(0).type.dtype, node.results[0].type.dtype)
    return "complex numbers have no kernel" if any(dtype.kind == "complex" for dtype in dtypes) else None


@maker(*sorted(REDUCTIONS), unless=_refuse)
def reduce(builder: Builder, group: Group) -> None:
    """Reductions over any axes; means over the pixels of an image by a kernel of their own."""
    node = group.anchor
    if is_image_mean(node, builder.shapes):
        _image_mean(builder, group)
        return
    x = builder.storage(node.value(0))
    axes = _axes(node, builder.shapes, x.rank)
    if not reduce_fits(x, axes) or 0 in x.strides:
        x = builder.plain(x)
    y = builder.result(
        group, lambda storage: storage.blocked_axis is None, lambda shape: make_storage("plain", "new", node.results[0].type.dtype, shape)
    )
    parameter = node.attrs.get("correction", node.attrs.get("ord", 1.0))
    assert isinstance(parameter, (int, float)), "both are numbers"
    builder.add([Reduce(node.op, x, y, axes, float(parameter))])


def _axes(node: Node, shapes: Shapes, rank: int) -> tuple[int, ...]:
    """The reduced axes; all where none is named."""
    if "axes" in node.attrs:
        return shapes.dims(node.attrs["axes"])
    axis = node.attrs["axis"]
    return tuple(range(rank)) if axis is None else (shapes.dim(axis),)


def _image_mean(builder: Builder, group: Group) -> None:
    x = builder.image(builder.storage(group.anchor.value(0)))
    keep = bool(group.anchor.attrs["keepdims"])
    frame = image_frame() if keep else Frame((0,), 1, (), ())

    def accept(storage: Storage) -> bool:
        return frame.strides(storage) is not None and storage.lanes(1) is not None

    y = builder.result(group, accept, lambda shape: make_storage("plain", "new", x.dtype, shape))
    chain = builder.fit(builder.chain(group), frame, y)
    builder.add(global_candidates(x, y, image_frame(), frame, maximum=False, chain=chain))
