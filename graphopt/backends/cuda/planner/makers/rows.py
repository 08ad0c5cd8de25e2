"""Reductions, softmax, layer, group and RMS norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphopt.backends.cuda.kernel import Unsupported
from graphopt.backends.cuda.kernels.normalize import Normalize
from graphopt.backends.cuda.kernels.reduce import OPS, Reduce
from graphopt.backends.cuda.kernels.softmax import Softmax
from graphopt.backends.cuda.planner.builder import Builder, Maker
from graphopt.backends.cuda.planner.choice import Way
from graphopt.backends.cuda.storage import Storage
from graphopt.backends.planning.groups import Group
from graphopt.ir.graph import Value

__all__ = ["MAKERS"]


def _reduce(builder: Builder, group: Group) -> Sequence[Way]:
    node = group.anchor
    rank = node.value(0).type.rank
    if "axis" in node.attrs:
        axis = node.attrs["axis"]
        if axis is None:
            raise Unsupported(f"{node.op} over all elements at once has no kernel")
        axes: tuple[int, ...] = (builder.shapes.dim(axis),)
    else:
        found = node.attrs["axes"]
        axes = tuple(range(rank)) if found is None else builder.shapes.dims(found)
        if not axes and rank:
            raise Unsupported(f"{node.op} over no axes has no kernel")
    parameter = node.attrs.get("correction", node.attrs.get("ord", 0))
    if isinstance(parameter, bool) or not isinstance(parameter, (int, float)):
        raise Unsupported(f"{node.op} with {parameter!r} has no kernel")
    y = builder.target(group)
    reduced, chain = tuple(axis % max(rank, 1) for axis in axes), builder.chain(group)
    work = builder.before(node.value(0), lambda x, before: Reduce(node.op, x, y, reduced, float(parameter), before, chain))
    return [Way((work,), y, "reduce")]


def _softmax(builder: Builder, group: Group) -> Sequence[Way]:
    node = group.anchor
    axis = builder.shapes.dim(node.attrs["axis"])
    y = builder.target(group)
    if not node.value(0).type.rank:
        raise Unsupported("softmax of a number has no kernel")
    is_log, chain = node.op == "log_softmax", builder.chain(group)
    work = builder.before(node.value(0), lambda x, before: Softmax(x, y, axis % x.rank, is_log, before, chain))
    return [Way((work,), y, "softmax")]


def _last_axes(builder: Builder, group: Group) -> Sequence[Way]:
    """Layer and RMS norms, over the last axes."""
    node = group.anchor
    shape = builder.shapes.of(node.value(0))
    count = len(builder.shapes.dims(node.attrs["normalized_shape"]))
    axes = tuple(range(len(shape) - count, len(shape)))

    def parameter(index: int) -> Storage | None:
        operand = node.operands[index] if index < len(node.operands) else None
        return builder.storage(operand).expand(shape) if isinstance(operand, Value) else None

    y = builder.target(group)
    centered = node.op == "layer_norm"
    bias = parameter(2) if centered else None
    chain = builder.chain(group)
    weight, eps = parameter(1), _eps(group)
    work = builder.before(node.value(0), lambda x, before: Normalize(node.op, x, y, axes, eps, weight, bias, centered, before, chain))
    return [Way((work,), y, "normalize")]


def _eps(group: Group) -> float:
    eps = group.anchor.attrs["eps"]
    if isinstance(eps, bool) or not isinstance(eps, (int, float)):
        raise Unsupported(f"{group.anchor.op} without a stated eps has no kernel")
    return float(eps)


def _groups(builder: Builder, group: Group) -> Sequence[Way]:
    """Group norm, and instance norm without stored statistics: groups of channels, over the rest."""
    node = group.anchor
    x = builder.storage(node.value(0))
    shape = x.shape
    if node.op == "instance_norm":
        if len(node.operands) > 3 and any(operand is not None for operand in node.operands[3:5]):
            raise Unsupported("instance_norm with stored statistics has no kernel")
        groups = shape[1]
    else:
        groups = builder.shapes.dim(node.attrs["groups"])
    wide = (shape[0], groups, shape[1] // groups, *shape[2:])
    y, chain = builder.target(group), builder.chain(group)

    def split(storage: Storage) -> Storage:
        seen = storage.reshape(wide)
        if seen is None:
            raise Unsupported(f"{node.op} of {storage.type_text} has no kernel")
        return seen

    def parameter(index: int) -> Storage | None:
        operand = node.operands[index] if index < len(node.operands) else None
        if not isinstance(operand, Value):
            return None
        column = builder.storage(operand).reshape((1, groups, shape[1] // groups, *(1,) * (len(shape) - 2)))
        if column is None:
            raise Unsupported(f"a parameter of {node.op} has gaps")
        return column.expand(wide)

    axes = tuple(range(2, len(wide)))
    behind = replace(chain, operands=tuple(split(operand) for operand in chain.operands))
    work = Normalize(node.op, split(x), split(y), axes, _eps(group), parameter(1), parameter(2), chain=behind)
    return [Way((work,), y, "normalize")]


MAKERS: dict[str, Maker] = {
    **dict.fromkeys(sorted(OPS), _reduce),
    "softmax": _softmax,
    "log_softmax": _softmax,
    "layer_norm": _last_axes,
    "rms_norm": _last_axes,
    "group_norm": _groups,
    "instance_norm": _groups,
}
