"""Reductions."""

from __future__ import annotations

from graphopt.backends.cpu.frame import Frame, image_frame
from graphopt.backends.cpu.kernels.pool import global_candidates
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.planner.makers.table import maker
from graphopt.backends.cpu.planner.shapes import Shapes
from graphopt.backends.cpu.storage import Storage
from graphopt.ir.graph import Node
from graphopt.ir.types import DType


def is_image_mean(node: Node, shapes: Shapes) -> bool:
    """True for a mean over all pixels of [N, C, H, W]."""
    x = node.value(0)
    return (
        node.op == "mean"
        and x.type.rank == 4
        and node.results[0].type.dtype is DType.f32
        and shapes.dims(node.attrs["axes"]) == (2, 3)
        and 0 not in shapes.of(x)
    )


def _refuse(node: Node, shapes: Shapes) -> str | None:
    return None if is_image_mean(node, shapes) else "the op has no kernel"


@maker("mean", unless=_refuse)
def mean(builder: Builder, group: Group) -> None:
    """Means; over the pixels of an image by a kernel of its own."""
    x = builder.image(builder.storage(group.anchor.value(0)))
    keep = bool(group.anchor.attrs["keepdims"])
    frame = image_frame() if keep else Frame((0,), 1, (), ())

    def accept(storage: Storage) -> bool:
        return frame.strides(storage) is not None and storage.lanes(1) is not None

    y = builder.result(group, accept, lambda shape: make_storage("plain", "new", x.dtype, shape))
    chain = builder.fit(builder.chain(group), frame, y)
    builder.add(global_candidates(x, y, image_frame(), frame, maximum=False, chain=chain))
