"""Ops that put pieces together, and ops that make values out of nothing."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.cpu.kernels import pieces
from graphopt.backends.cpu.kernels.copy import Copies, Fill
from graphopt.backends.cpu.kernels.positions import Eye, Sequence1d, Triangle
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.planner.makers.table import maker
from graphopt.backends.cpu.storage import Storage
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Node, Value


def strided(builder: Builder, value: Value) -> Storage:
    """A storage without blocked axis."""
    storage = builder.storage(value)
    return builder.plain(storage) if storage.blocked_axis is not None else storage


def strided_result(builder: Builder, value: Value) -> Storage:
    """Memory for a result, without blocked axis."""
    storage = builder.allocate(value)
    if storage.blocked_axis is not None:
        storage = builder.buffer(make_storage("plain", "new", value.type.dtype, builder.shapes.of(value)))
    builder.put(value, storage)
    return storage


def _moved(builder: Builder, group: Group, make: Callable[[tuple[Storage, ...], Storage], Copies | None]) -> None:
    """Copies in the layouts that the operands have, or without blocked axes where these do not do."""
    node = group.anchor
    result = node.results[0]
    values = [operand for operand in node.operands if isinstance(operand, Value)]
    sources = tuple(builder.storage(value) for value in values)
    y = builder.allocate(result)
    found = make(sources, y)
    if found is None:
        sources = tuple(builder.plain(storage) for storage in sources)
        found = make(sources, y)
    if found is None:
        y = builder.buffer(make_storage("plain", "new", result.type.dtype, builder.shapes.of(result)))
        found = make(sources, y)
    assert found is not None, "plain tensors can be cut anywhere"
    builder.put(result, y)
    builder.add([found])


def _no_elements(node: Node, shapes: Shapes) -> str | None:
    values = [operand for operand in node.operands if isinstance(operand, Value)]
    return "it has no elements" if any(0 in shapes.of(value) for value in (*values, *node.results)) else None


@maker("pad", unless=_no_elements)
def pad(builder: Builder, group: Group) -> None:
    """Elements at the ends of axes."""
    attrs = group.anchor.attrs
    pairs = attrs["pads"]
    assert isinstance(pairs, tuple), "pads are pairs"
    pads = [builder.shapes.dims(pair) for pair in pairs]
    _moved(builder, group, lambda xs, y: pieces.pad(xs[0], y, [(low, high) for low, high in pads], attrs["mode"], attrs["value"]))  # pyright: ignore[reportArgumentType]


@maker("roll", unless=_no_elements)
def roll(builder: Builder, group: Group) -> None:
    """Elements moved along axes."""
    shifts, axes = builder.shapes.dims(group.anchor.attrs["shifts"]), builder.shapes.dims(group.anchor.attrs["axes"])
    _moved(builder, group, lambda xs, y: pieces.roll(xs[0], y, shifts, axes))


@maker("flip", unless=_no_elements)
def flip(builder: Builder, group: Group) -> None:
    """Order reversed."""
    axes = builder.shapes.dims(group.anchor.attrs["axes"])
    _moved(builder, group, lambda xs, y: pieces.flip(xs[0], y, axes))


@maker("tile", unless=_no_elements)
def tile(builder: Builder, group: Group) -> None:
    """The whole repeated."""
    repeats = builder.shapes.dims(group.anchor.attrs["repeats"])
    _moved(builder, group, lambda xs, y: pieces.tile(xs[0], y, repeats))


@maker("slice_scatter", unless=_no_elements)
def slice_scatter(builder: Builder, group: Group) -> None:
    """A slice replaced."""
    axis, start, stop, step = (builder.shapes.dim(group.anchor.attrs[key]) for key in ("axis", "start", "stop", "step"))
    _moved(builder, group, lambda xs, y: pieces.slice_scatter(xs[0], xs[1], y, axis, start, stop, step))


@maker("select_scatter", unless=_no_elements)
def select_scatter(builder: Builder, group: Group) -> None:
    """One element along an axis replaced."""
    axis, index = (builder.shapes.dim(group.anchor.attrs[key]) for key in ("axis", "index"))
    _moved(builder, group, lambda xs, y: pieces.select_scatter(xs[0], xs[1], y, axis, index))


@maker("tril", "triu", unless=_no_elements)
def triangle(builder: Builder, group: Group) -> None:
    """Zeros on one side of a diagonal."""
    node = group.anchor
    x = strided(builder, node.value(0))
    op = "tril" if node.op == "tril" else "triu"
    builder.add([Triangle(op, x, strided_result(builder, node.results[0]), builder.shapes.dim(node.attrs["diagonal"]))])


@maker("full", unless=_no_elements)
def full(builder: Builder, group: Group) -> None:
    """One number everywhere."""
    value = group.anchor.attrs["value"]
    assert isinstance(value, (bool, int, float)), "a number"
    builder.add([Fill(strided_result(builder, group.anchor.results[0]), value)])


def _computed_number(node: Node, shapes: Shapes) -> str | None:
    computed = any(not isinstance(node.attrs.get(key, 0), (bool, int, float)) for key in ("start", "stop", "step"))
    return "a limit is a size that is computed" if computed else _no_elements(node, shapes)


@maker("arange", unless=_computed_number)
def arange(builder: Builder, group: Group) -> None:
    """start, start + step, ..."""
    start, step = (group.anchor.attrs[key] for key in ("start", "step"))
    assert isinstance(start, (int, float)), "others are refused"
    assert isinstance(step, (int, float)), "others are refused"
    builder.add([Sequence1d(strided_result(builder, group.anchor.results[0]), start, step)])


@maker("eye", unless=_no_elements)
def eye(builder: Builder, group: Group) -> None:
    """Ones on the diagonal."""
    builder.add([Eye(strided_result(builder, group.anchor.results[0]))])
