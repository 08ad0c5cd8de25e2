"""From the elementwise nodes of a group to a `Chain`: operations in order, and operands as they look from the anchor.

conv2d -> batch_norm -> flatten -> add %r       v0 = mul(value, scale);  v1 = add(v0, shift);  v2 = add(v1, %r seen through flatten)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from graphopt.backends.cuda.chain import Argument, Chain, Constant, FromOperand, FromOperation, Operation, TheValue
from graphopt.backends.cuda.planner.rules import number_of, operation_of
from graphopt.backends.cuda.states import Fill, ReadState
from graphopt.backends.cuda.storage import Storage
from graphopt.backends.planning.groups import Group
from graphopt.backends.planning.shapes import Shapes
from graphopt.backends.planning.views import backward_view
from graphopt.errors import BackendError
from graphopt.ir.graph import Node, Operand, Value
from graphopt.ir.types import DType

__all__ = ["Chains", "Memory"]


class Memory(Protocol):
    """Where values are."""

    def storage(self, value: Value) -> Storage:
        """Where a value is."""
        ...

    def contiguous(self, storage: Storage) -> Storage:
        """The same value, contiguous."""
        ...

    def numbers(
        self,
        key: tuple[object, ...],
        dtype: DType,
        shape: Sequence[int],
        fill: Fill,
        order: Sequence[int] | None = None,
        *,
        exact: bool = False,
    ) -> Storage:
        """A state buffer with numbers made of the graph's; one for each key, dtype and order."""
        ...


class Chains:
    """Makes the chains of a plan."""

    def __init__(self, memory: Memory, shapes: Shapes) -> None:
        self._memory = memory
        self._shapes = shapes

    def behind(self, group: Group) -> Chain:
        """The group's elementwise ops, on the anchor's result, with operands seen in its shape."""
        return self._chain(group, [], [], {group.anchor.results[0]: TheValue()}, group.anchor.results[0].type.dtype)

    def elementwise(self, group: Group) -> tuple[Storage, Chain]:
        """A group whose anchor is elementwise: its first operand of full size, if it has one, and the chain of all of its ops on that."""
        node = group.anchor
        operations: list[Operation] = []
        operands: list[Storage] = []
        values = [operand for operand in node.operands if isinstance(operand, Value)]
        shape = self._shapes.of(node.results[0])
        start = next((value for value in values if self._shapes.of(value) == shape), values[0])
        carried: dict[Value, Argument] = {start: TheValue()}
        x = self._expanded(self._aligned(node, start), node.results[0])
        self._append(node, operations, operands, carried, [])
        return x, self._chain(group, operations, operands, carried, start.type.dtype)

    def _chain(
        self, group: Group, operations: list[Operation], operands: list[Storage], carried: dict[Value, Argument], value: DType
    ) -> Chain:
        path: list[Node] = []
        for link in group.chain:
            for node in link.path:
                path.append(node)
                source = node.operands[0]
                if isinstance(source, Value):
                    carried[node.results[0]] = carried[source]
            self._append(link.node, operations, operands, carried, path)
        return Chain(tuple(operations), tuple(operands), value)

    def _append(
        self, node: Node, operations: list[Operation], operands: list[Storage], carried: dict[Value, Argument], path: Sequence[Node]
    ) -> None:
        if node.op == "batch_norm":
            operations += self._norm(node, operands, carried, path, len(operations))
        else:
            arguments = tuple(self._argument(node, item, operands, carried, path) for item in node.operands)
            operations.append(operation_of(node, arguments))
        carried[node.results[0]] = FromOperation(len(operations) - 1)

    def _argument(
        self, node: Node, item: Operand, operands: list[Storage], carried: Mapping[Value, Argument], path: Sequence[Node]
    ) -> Argument:
        if not isinstance(item, Value):
            return Constant(number_of(item, self._shapes))
        if item in carried:
            return carried[item]
        operands.append(self._seen_backwards(self._aligned(node, item), node.results[0], path))
        return FromOperand(len(operands) - 1)

    def _aligned(self, node: Node, item: Value) -> Storage:
        """An operand so that it broadcasts from the right; prelu's weight counts the channels, which are axis 1."""
        storage = self._memory.storage(item)
        if node.op != "prelu" or item is node.operands[0]:
            return storage
        wide = storage.reshape(() if storage.elements == 1 else (storage.elements, *(1,) * (node.results[0].type.rank - 2)))
        assert wide is not None, "a vector can be seen as a column"
        return wide

    def _seen_backwards(self, storage: Storage, result: Value, path: Sequence[Node]) -> Storage:
        """An operand broadcast to the shape at the end of `path`, as it looks from the anchor."""
        wide = self._expanded(storage, result)
        for whole in (
            lambda: wide,
            lambda: self._expanded(self._memory.contiguous(storage), result),
            lambda: self._memory.contiguous(wide),
        ):
            seen: Storage | None = whole()
            for node in reversed(path):
                seen = backward_view(node, seen, self._shapes) if seen is not None else None
            if seen is not None:
                return seen
        raise BackendError("an operand can't be seen through a view", where=repr(path[-1]))

    def _expanded(self, storage: Storage, result: Value) -> Storage:
        return storage.expand(self._shapes.of(result))

    def _norm(
        self, node: Node, operands: list[Storage], carried: Mapping[Value, Argument], path: Sequence[Node], count: int
    ) -> list[Operation]:
        """A batch norm with its stored statistics: times scale, plus shift, of each channel."""
        x = node.operands[0]
        assert isinstance(x, Value), "a batch norm has a tensor"
        if x not in carried:
            operands.append(self._seen_backwards(self._memory.storage(x), node.results[0], path))
        argument = carried[x] if x in carried else FromOperand(len(operands) - 1)
        for vector in self._scale_and_shift(node):
            column = vector.reshape((vector.elements, *(1,) * (x.type.rank - 2)))
            assert column is not None, "a vector can be seen as a column"
            operands.append(self._seen_backwards(column, node.results[0], path))
        return [
            Operation("mul", (argument, FromOperand(len(operands) - 2))),
            Operation("add", (FromOperation(count), FromOperand(len(operands) - 1))),
        ]

    def _scale_and_shift(self, node: Node) -> tuple[Storage, Storage]:
        names = [operand.name if isinstance(operand, Value) else None for operand in node.operands[1:5]]
        eps = node.attrs["eps"]
        channels = self._shapes.of(node.value(0))[1]
        weight, bias, mean, variance = names
        assert isinstance(eps, (int, float)), "eps is a number"
        assert mean is not None, "there are statistics"
        assert variance is not None, "there are statistics"

        def scale(read: ReadState) -> torch.Tensor:
            factor = torch.rsqrt(read(variance).double() + eps)
            return factor if weight is None else factor * read(weight).double()

        def shift(read: ReadState) -> torch.Tensor:
            moved = -read(mean).double() * scale(read)
            return moved if bias is None else moved + read(bias).double()

        key = ("batch norm", *names, eps)
        return (
            self._memory.numbers((*key, "scale"), DType.f32, (channels,), scale, exact=True),
            self._memory.numbers((*key, "shift"), DType.f32, (channels,), shift, exact=True),
        )
