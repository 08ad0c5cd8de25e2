"""Gathers, pads and concatenations, and views of values that have to be copied first."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.cuda.kernel import Unsupported
from graphopt.backends.cuda.kernels.gather import Gather, Take
from graphopt.backends.cuda.kernels.layout import Concat, Pad
from graphopt.backends.cuda.planner.builder import Builder, Maker
from graphopt.backends.cuda.planner.choice import Way
from graphopt.backends.planning.groups import Group
from graphopt.ir.graph import Value

__all__ = ["MAKERS"]


def _embedding(builder: Builder, group: Group) -> Sequence[Way]:
    node = group.anchor
    y = builder.target(group)
    return [Way((Take(builder.storage(node.value(0)), builder.storage(node.value(1)), y, 0),), y, "take")]


def _index_select(builder: Builder, group: Group) -> Sequence[Way]:
    node = group.anchor
    x, indices = builder.storage(node.value(0)), builder.storage(node.value(1))
    if not x.rank or indices.rank != 1:
        raise Unsupported("index_select with a number has no kernel")
    y = builder.target(group)
    return [Way((Take(x, indices, y, builder.shapes.dim(node.attrs["axis"]) % x.rank),), y, "take")]


def _gather(builder: Builder, group: Group) -> Sequence[Way]:
    node = group.anchor
    x, indices = builder.storage(node.value(0)), builder.storage(node.value(1))
    if not x.rank or indices.rank != x.rank:
        raise Unsupported("gather with a number has no kernel")
    y = builder.target(group)
    return [Way((Gather(x, indices, y, builder.shapes.dim(node.attrs["axis"]) % x.rank),), y, "gather")]


def _pad(builder: Builder, group: Group) -> Sequence[Way]:
    node = group.anchor
    pairs, mode, value = node.attrs["pads"], node.attrs["mode"], node.attrs["value"]
    if mode != "constant":
        raise Unsupported(f"pad with mode {mode} has no kernel")
    assert isinstance(pairs, tuple), "pads are pairs"
    pads: list[tuple[int, int]] = []
    for pair in pairs:
        low, high = builder.shapes.dims(pair)
        pads.append((low, high))
    y = builder.target(group)
    number = value if isinstance(value, (bool, int, float)) else 0
    return [Way((Pad(builder.storage(node.value(0)), y, tuple(pads), number),), y, "pad")]


def _concat(builder: Builder, group: Group) -> Sequence[Way]:
    node = group.anchor
    y = builder.target(group)
    axis = builder.shapes.dim(node.attrs["axis"])
    dtype = node.results[0].type.dtype
    operands = [operand for operand in node.operands if isinstance(operand, Value)]
    if any(operand.type.dtype is not dtype for operand in operands):
        raise Unsupported("concat of several dtypes has no kernel")
    parts = tuple(builder.storage(operand) for operand in operands)
    return [Way((Concat(parts, y, axis % y.rank),), y, "concat")]


MAKERS: dict[str, Maker] = {
    "embedding": _embedding,
    "index_select": _index_select,
    "gather": _gather,
    "pad": _pad,
    "concat": _concat,
}
