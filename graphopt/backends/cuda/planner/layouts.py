"""Which values are images with channels last.

    conv2d, pools, resizes       their 4-D operands and results are images
    add, relu, concat, ...       what has the same rank as an image that it is computed from, or with, is one too

cuDNN's tensor-core kernels want NHWC; a layout that is the same all along an image's way costs no copies.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Node, Value
from graphopt.ops.families import ELEMENTWISE, POOLS

__all__ = ["Layouts"]

_MAKE_IMAGES = frozenset({"conv2d", "conv_transpose2d", "resize", *(name for name in POOLS if name.endswith("2d"))})
_KEEP = ELEMENTWISE | {
    "batch_norm",
    "instance_norm",
    "group_norm",
    "concat",
    "split",
    "slice",
    "pad",
    "dropout",
    "feature_dropout",
    "softmax",
}


class Layouts:
    """The layout that each value should have, for one set of sizes."""

    def __init__(self, nodes: Iterable[Node], shapes: Shapes) -> None:
        self._shapes = shapes
        self._parents: dict[Value, Value] = {}
        images: list[Value] = []
        for node in nodes:
            values = [value for value in (*node.operands, *node.results) if isinstance(value, Value) and self._can_be(value)]
            if node.op in _MAKE_IMAGES:
                # weights are no images; their layout is that of their state
                images += [value for value in (node.operands[0], *node.results) if isinstance(value, Value) and self._can_be(value)]
            elif node.op in _KEEP:
                for value in values[1:]:
                    self._join(value, values[0])
        self._images = {self._root(value) for value in images}

    def _can_be(self, value: Value) -> bool:
        return value.type.rank == 4

    def _root(self, value: Value) -> Value:
        path: list[Value] = []
        while value in self._parents:
            path.append(value)
            value = self._parents[value]
        for passed in path:
            self._parents[passed] = value
        return value

    def _join(self, value: Value, other: Value) -> None:
        """Both have one layout; a root never is its own parent, also where an op reads a value twice."""
        root, onto = self._root(value), self._root(other)
        if root is not onto:
            self._parents[root] = onto

    def is_image(self, value: Value) -> bool:
        """True where the value should lie with channels last."""
        return self._can_be(value) and self._root(value) in self._images

    def order(self, value: Value) -> tuple[int, ...]:
        """The axes from the outermost to the innermost."""
        rank = value.type.rank
        return (0, 2, 3, 1) if self.is_image(value) else tuple(range(rank))
