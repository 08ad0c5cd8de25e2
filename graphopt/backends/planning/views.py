"""Ops that move no data, as views of storages: forwards, and backwards for what rides on a view.

reshape, permute, slice, select, split, expand, and dropout at inference
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, TypeVar

from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Node, Value

__all__ = ["VIEW_OPS", "Viewable", "backward_view", "forward_view", "is_invertible"]


class Viewable(Protocol):
    """A storage of a backend: elements that can be looked at in another way, or None where its strides can't tell it."""

    def reshape(self, shape: Sequence[int]) -> Self | None:
        """The same elements in the same order under another shape."""
        ...

    def permute(self, axes: Sequence[int]) -> Self:
        """Axis i of the view is axis axes[i] of this."""
        ...

    def slice(self, axis: int, start: int, stop: int, step: int = 1) -> Self | None:
        """Every step-th element of start to stop."""
        ...

    def select(self, axis: int, index: int) -> Self | None:
        """One element along an axis, which goes."""
        ...

    def expand(self, shape: Sequence[int]) -> Self | None:
        """Axes of size 1 repeated, new axes first."""
        ...


S = TypeVar("S", bound=Viewable)

VIEW_OPS = frozenset({"reshape", "permute", "slice", "select", "split", "expand", "dropout", "feature_dropout", "alpha_dropout"})
"""Ops that this file can express, where strides allow. Dropouts are the identity: a lowered graph is inference."""

_INVERTIBLE = frozenset({"reshape", "permute", "dropout", "feature_dropout", "alpha_dropout"})


def is_invertible(node: Node) -> bool:
    """True when the result has each element of the operand once."""
    return node.op in _INVERTIBLE


def forward_view(node: Node, result: int, storage: S, shapes: Shapes) -> S | None:
    """Result number `result` of a view node on a storage of its operand; None when it has to be copied."""
    attrs = node.attrs
    match node.op:
        case "reshape":
            return storage.reshape(shapes.of(node.results[0]))
        case "permute":
            return storage.permute(shapes.dims(attrs["axes"]))
        case "slice":
            axis = shapes.dim(attrs["axis"])
            return storage.slice(axis, *(shapes.dim(attrs[key]) for key in ("start", "stop", "step")))
        case "select":
            return storage.select(shapes.dim(attrs["axis"]), shapes.dim(attrs["index"]))
        case "split":
            axis, sizes = shapes.dim(attrs["axis"]), shapes.dims(attrs["sizes"])
            start = sum(sizes[:result])
            return storage.slice(axis, start, start + sizes[result])
        case "expand":
            return storage.expand(shapes.of(node.results[0]))
        case _:
            return storage


def backward_view(node: Node, storage: S, shapes: Shapes) -> S | None:
    """The storage of the operand of an invertible view node, given one of its result."""
    match node.op:
        case "reshape":
            operand = node.operands[0]
            return storage.reshape(shapes.of(operand)) if isinstance(operand, Value) else None
        case "permute":
            axes = shapes.dims(node.attrs["axes"])
            inverse = [axes.index(axis) for axis in range(len(axes))]
            return storage.permute(inverse)
        case _:
            return storage
