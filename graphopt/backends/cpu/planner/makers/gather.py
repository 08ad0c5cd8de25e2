"""Reading and writing at positions given by tensors; running sums; sorting."""

from __future__ import annotations

from graphopt.backends.cpu.kernels.cumulative import Cumulative, Sort
from graphopt.backends.cpu.kernels.gather import Gather, Index
from graphopt.backends.cpu.kernels.scatter import IndexPut, Scatter
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.cpu.planner.makers.moves import strided, strided_result
from graphopt.backends.cpu.planner.makers.table import maker
from graphopt.backends.cpu.storage import Storage
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Node, Operand, Value
from graphopt.ir.types import DType

_INDEX_DTYPES = (DType.i64, DType.i32)


def _refuse(node: Node, shapes: Shapes) -> str | None:
    values = [operand for operand in node.operands if isinstance(operand, Value)]
    if any(0 in shapes.of(value) for value in (*values, *node.results)):
        return "it has no elements"
    dtypes = {value.type.dtype for value in _indices(node)}
    if not dtypes <= set(_INDEX_DTYPES) or len(dtypes) > 1:
        return "its indices are no integers of one dtype"
    if any(not isinstance(operand, (Value, bool, int, float, type(None))) for operand in node.operands):
        return "an operand is a size that is computed"
    return None


def _indices(node: Node) -> list[Value]:
    first = {"embedding": 1, "gather": 1, "index_select": 1, "scatter": 1, "index": 1, "index_put": 2}[node.op]
    last = first + 1 if node.op not in ("index", "index_put") else len(node.operands)
    return [operand for operand in node.operands[first:last] if isinstance(operand, Value)]


def _number_or_storage(builder: Builder, operand: Operand) -> Storage | float | int | bool:
    if isinstance(operand, Value):
        return strided(builder, operand)
    assert isinstance(operand, (bool, int, float)), "others are refused"
    return operand


@maker("embedding", unless=_refuse)
def embedding(builder: Builder, group: Group) -> None:
    """Rows of a table."""
    node = group.anchor
    table, tokens = strided(builder, node.value(0)), strided(builder, node.value(1))
    builder.add([Index(table, (tokens,), strided_result(builder, node.results[0]))])


@maker("index_select", unless=_refuse)
def index_select(builder: Builder, group: Group) -> None:
    """Rows along an axis."""
    node = group.anchor
    axis = builder.shapes.dim(node.attrs["axis"])
    x, index = strided(builder, node.value(0)), strided(builder, node.value(1))
    builder.add([Index(x, (*(None,) * axis, index), strided_result(builder, node.results[0]))])


@maker("index", unless=_refuse)
def index(builder: Builder, group: Group) -> None:
    """Numpy's advanced indexing."""
    node = group.anchor
    places = tuple(strided(builder, operand) if isinstance(operand, Value) else None for operand in node.operands[1:])
    x = strided(builder, node.value(0))
    builder.add([Index(x, places, strided_result(builder, node.results[0]), from_end=True)])


@maker("gather", unless=_refuse)
def gather(builder: Builder, group: Group) -> None:
    """Position by position along an axis."""
    node = group.anchor
    x, places = strided(builder, node.value(0)), strided(builder, node.value(1))
    builder.add([Gather(x, places, strided_result(builder, node.results[0]), builder.shapes.dim(node.attrs["axis"]))])


@maker("scatter", unless=_refuse)
def scatter(builder: Builder, group: Group) -> None:
    """Written position by position along an axis."""
    node = group.anchor
    x, places = strided(builder, node.value(0)), strided(builder, node.value(1))
    source = _number_or_storage(builder, node.operands[2])
    reduce = node.attrs["reduce"]
    step = None if reduce is None else "add" if reduce == "add" else "multiply"
    builder.add([Scatter(x, places, source, strided_result(builder, node.results[0]), builder.shapes.dim(node.attrs["axis"]), step)])


@maker("index_put", unless=_refuse)
def index_put(builder: Builder, group: Group) -> None:
    """Written where advanced indexing points."""
    node = group.anchor
    x = strided(builder, node.value(0))
    values = _number_or_storage(builder, node.operands[1])
    places = tuple(strided(builder, operand) if isinstance(operand, Value) else None for operand in node.operands[2:])
    builder.add([IndexPut(x, values, places, strided_result(builder, node.results[0]), bool(node.attrs["accumulate"]))])


def _empty(node: Node, shapes: Shapes) -> str | None:
    if not node.value(0).type.rank:
        return "a number without axes has no kernel"
    return "it has no elements" if any(0 in shapes.of(value) for value in (node.value(0), *node.results)) else None


@maker("cumsum", "cumprod", unless=_empty)
def cumulative(builder: Builder, group: Group) -> None:
    """Running sums and products."""
    node = group.anchor
    x = strided(builder, node.value(0))
    op = "cumsum" if node.op == "cumsum" else "cumprod"
    builder.add([Cumulative(op, x, strided_result(builder, node.results[0]), builder.shapes.dim(node.attrs["axis"]))])


@maker("sort", "topk", unless=_empty)
def sort(builder: Builder, group: Group) -> None:
    """Along one axis, all or the first of them."""
    node = group.anchor
    x = strided(builder, node.value(0))
    values, places = (strided_result(builder, result) for result in node.results)
    descending = bool(node.attrs["descending"] if node.op == "sort" else node.attrs["largest"])
    builder.add([Sort(x, values, places, builder.shapes.dim(node.attrs["axis"]), descending)])
