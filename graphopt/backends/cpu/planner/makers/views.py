"""Views, concatenations, and other ops that only move data."""

from __future__ import annotations

from dataclasses import replace

from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.cpu.planner.makers.table import maker
from graphopt.backends.cpu.storage import Storage
from graphopt.backends.planning.views import VIEW_OPS
from graphopt.ir.graph import Value


@maker(*sorted(VIEW_OPS))
def view(builder: Builder, group: Group) -> None:
    """No data moves."""
    builder.view(group.anchor)


@maker("concat")
def concat(builder: Builder, group: Group) -> None:
    """Parts that were written in place need nothing; the others are copied."""
    node = group.anchor
    axis = builder.shapes.dim(node.attrs["axis"])
    result = node.results[0]
    parts = [builder.storage(operand) for operand in node.operands if isinstance(operand, Value)]
    adjacent = _adjacent(parts, axis)
    if adjacent is not None:
        builder.put(result, adjacent)
        return None
    whole = builder.known(result)  # somebody may have written a part already
    if whole is None:
        whole = builder.allocate(result)
    start = 0
    copies: list[tuple[Storage, Storage]] = []
    for part in parts:
        size = part.shape[axis]
        target = whole.slice(axis, start, start + size)
        if target is None or (target.blocked_axis == axis and target.shape[axis] % 16 and start + size != whole.shape[axis]):
            whole = builder.buffer(_plain_like(whole))
            return _copy_all(builder, parts, whole, axis, result)
        if target != part:
            copies.append((part, target))
        start += size
    for part, target in copies:
        builder.copy(part, target)
    builder.put(result, whole)
    return None


def _copy_all(builder: Builder, parts: list[Storage], whole: Storage, axis: int, result: Value) -> None:
    start = 0
    for part in parts:
        target = whole.slice(axis, start, start + part.shape[axis])
        assert target is not None, "a plain tensor can be sliced anywhere"
        builder.copy(part, target)
        start += part.shape[axis]
    builder.put(result, whole)


def _plain_like(whole: Storage) -> Storage:
    from graphopt.backends.cpu.storage import plain

    return plain("new", whole.dtype, whole.shape)


def _adjacent(parts: list[Storage], axis: int) -> Storage | None:
    """The storage of the whole, where the parts lie one after the other in one buffer."""
    first = parts[0]
    total = first.shape[axis]
    for part in parts[1:]:
        ahead = replace(first, shape=(*first.shape[:axis], total + part.shape[axis], *first.shape[axis + 1 :]))
        if axis == first.blocked_axis and total % 16:
            return None
        expected = ahead.slice(axis, total, total + part.shape[axis])
        if expected is None or replace(expected, halo=part.halo) != part:
            return None
        total += part.shape[axis]
    return replace(first, shape=(*first.shape[:axis], total, *first.shape[axis + 1 :]))
