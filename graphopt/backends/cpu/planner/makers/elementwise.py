"""Elementwise ops that no kernel carries, and batch norms, which are a product and a sum at inference."""

from __future__ import annotations

from graphopt.backends.cpu.chain import Argument, Constant, FromOperand, FromOperation, Operation, TheValue
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.elementwise import Elementwise
from graphopt.backends.cpu.kernels.scalar_ops import is_scalar_operation
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.planner.makers.table import maker
from graphopt.backends.cpu.storage import Storage
from graphopt.backends.planning.dtypes import computed_dtype
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType
from graphopt.ops.families import ELEMENTWISE


def _has_no_rule(node: Node, shapes: Shapes) -> str | None:
    operands = tuple(TheValue() if isinstance(operand, Value) else Constant(0.0) for operand in node.operands)
    if not is_scalar_operation(Operation(node.op, operands, node.attrs)):
        return "the op has no kernel"
    if any(not isinstance(operand, (Value, bool, int, float)) for operand in node.operands):
        return "an operand is a size that is computed"
    return None


@maker(*sorted(ELEMENTWISE), unless=_has_no_rule)
def elementwise(builder: Builder, group: Group) -> None:
    """The anchor's op, then the chain, in one loop."""
    builder.add(elementwise_candidates(builder, group))


def elementwise_candidates(builder: Builder, group: Group) -> list[Kernel]:
    """The loop for the elementwise ops of a group."""
    node = group.anchor
    shape = builder.shapes.of(node.results[0])
    operands: list[Storage] = []

    def argument(item: object) -> Argument:
        if isinstance(item, Value):
            storage = _expanded(builder, node, item, shape)
            operands.append(storage)
            return FromOperand(len(operands) - 1)
        assert isinstance(item, (bool, int, float)), "sizes are refused"
        return Constant(item)

    operations = [Operation(node.op, tuple(argument(item) for item in node.operands), node.attrs)]
    chained = node.results[0].type.dtype is DType.f32 and bool(group.chain)
    dtypes = () if chained else (node.results[0].type.dtype,)
    computed = () if chained else (computed_dtype(node),)
    return _finish(builder, group, operations, operands, dtypes, computed)


def _expanded(builder: Builder, node: Node, value: Value, shape: tuple[int, ...]) -> Storage:
    storage = builder.storage(value)
    if node.op == "prelu" and value is node.operands[1] and len(shape) > 1:
        storage = builder.plain(storage)
        step = 1 if storage.shape[0] > 1 else 0
        return Storage(storage.buffer, storage.dtype, shape, tuple(step if axis == 1 else 0 for axis in range(len(shape))), storage.offset)
    seen = storage.expand(shape) or builder.plain(storage).expand(shape)
    assert seen is not None, "shapes were checked by the verifier"
    return seen


def _no_statistics(node: Node, shapes: Shapes) -> str | None:
    graph = node.graph
    if node.attrs["mode"] == "train":
        return "it takes its statistics from the batch"
    if any(not isinstance(operand, Value) for operand in node.operands[3:5]) or len(node.operands) < 5:
        return "it has no stored statistics"
    if any(isinstance(operand, Value) and (graph is None or graph.state_of(operand) is None) for operand in node.operands[1:]):
        return "its parameters are computed"
    if node.results[0].type.dtype is not DType.f32:
        return f"{node.results[0].type.dtype.text} has no kernel"
    return None


@maker("batch_norm", unless=_no_statistics)
def batch_norm(builder: Builder, group: Group) -> None:
    """x * scale + shift, then the chain."""
    scale, shift = builder.batch_norm(group.anchor)
    x = builder.storage(group.anchor.value(0))
    operations = [
        Operation("mul", (FromOperand(0), FromOperand(1))),
        Operation("add", (FromOperation(0), FromOperand(2))),
    ]
    builder.add(_finish(builder, group, operations, [x, scale, shift], (), ()))


def _finish(
    builder: Builder,
    group: Group,
    operations: list[Operation],
    operands: list[Storage],
    dtypes: tuple[DType, ...],
    computed: tuple[DType, ...],
) -> list[Kernel]:
    layout = builder.layouts.wish(group.anchor.results[0])
    dtype = group.anchor.results[0].type.dtype
    y = builder.result(group, lambda storage: True, lambda shape: make_storage(layout, "new", dtype, shape))
    chain = builder.chain(group)
    first = len(operations) - 1

    def shifted(argument: Argument) -> Argument:
        match argument:
            case TheValue():
                return FromOperation(first)
            case FromOperation(index):
                return FromOperation(index + first + 1)
            case FromOperand(index):
                return FromOperand(index + len(operands))
            case _:
                return argument

    rest = [
        Operation(operation.op, tuple(shifted(item) for item in operation.arguments), operation.attrs) for operation in chain.operations
    ]
    return [Elementwise((*operations, *rest), (*operands, *chain.operands), y, dtypes, computed)]
