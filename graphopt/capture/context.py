"""What a handler of a torch op works with: the call it translates, and a context that emits nodes.

    @handles("permute")
    def permute(context: Context, call: TorchCall) -> Value:
        return context.emit("permute", call.value("self"), axes=...)

Handlers are kept in a table by the base name of the op (`aten.conv2d` for `aten.conv2d.default`). An
in-place op is translated by the handler of its functional name, and the importer writes the result back.
A handler that can't express a call exactly raises `NotExpressible`: the call is then carried opaque.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from graphopt.capture.names import Place
from graphopt.errors import CaptureError
from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Dim, Expression
from graphopt.ir.graph import Graph, GraphEditor, Node, Operand, Value
from graphopt.ir.types import DType, TensorType
from graphopt.ops import Effect, definition, infer_types, is_canonical

__all__ = ["HANDLERS", "Context", "Handler", "NotExpressible", "Result", "TorchCall", "handles"]


class NotExpressible(Exception):  # noqa: N818  # a decision, not an error: it never leaves capture
    """The canonical ops can't express this call exactly; it becomes an opaque node."""


Result: TypeAlias = "Operand | tuple[Operand, ...]"


@dataclass(frozen=True, slots=True)
class TorchCall:
    """One call of a torch op, arguments by their names in the op's schema, defaults filled in.

    Tensors are `Value`s, symbolic integers are dimensions, dtypes are `DType`s, lists are tuples.
    `types` are the types of the results that are tensors, as traced; `used` the numbers of the results that
    somebody reads. `momentum_unset` is True when the module that calls has `momentum=None`.
    """

    name: str
    overload: str
    arguments: Mapping[str, object]
    types: tuple[TensorType, ...]
    used: frozenset[int] = frozenset({0})
    momentum_unset: bool = False
    scalars: Mapping[Value, float | int | bool] = field(default_factory=dict[Value, "float | int | bool"])

    @property
    def type(self) -> TensorType:
        """Type of the first result, as traced."""
        if not self.types:
            raise NotExpressible(f"{self.name} returns no tensor")
        return self.types[0]

    def has(self, name: str) -> bool:
        """True when the schema has this argument and it is not None."""
        return self.arguments.get(name) is not None

    def value(self, name: str) -> Value:
        """An argument that is a tensor."""
        argument = self.arguments.get(name)
        if not isinstance(argument, Value):
            raise NotExpressible(f"{self.name}: '{name}' is {argument!r}, needs a tensor")
        return argument

    def optional(self, name: str) -> Value | None:
        """An argument that is a tensor or None."""
        argument = self.arguments.get(name)
        return argument if isinstance(argument, Value) else None

    def operand(self, name: str) -> Operand:
        """An argument that is a tensor, a number or a dimension."""
        argument = self.arguments.get(name)
        if isinstance(argument, Value | bool | int | float | Expression):
            return argument
        raise NotExpressible(f"{self.name}: '{name}' is {argument!r}, needs a tensor or a number")

    def number(self, name: str) -> int | float:
        """An argument that is a number."""
        argument = self.arguments.get(name)
        if isinstance(argument, int | float):
            return argument
        raise NotExpressible(f"{self.name}: '{name}' is {argument!r}, needs a number")

    def integer(self, name: str) -> int:
        """An argument that is an integer."""
        argument = self.arguments.get(name)
        if isinstance(argument, int):
            return int(argument)
        raise NotExpressible(f"{self.name}: '{name}' is {argument!r}, needs an integer")

    def dim(self, name: str) -> Dim:
        """An argument that is an integer or a dimension."""
        return _as_dim(self, name, self.arguments.get(name))

    def dims(self, name: str) -> tuple[Dim, ...]:
        """An argument that is a list of integers or dimensions; a single one counts as a list."""
        argument = self.arguments.get(name)
        items: Sequence[object] = argument if isinstance(argument, tuple) else (argument,)
        return tuple(_as_dim(self, name, item) for item in items)

    def ints(self, name: str) -> tuple[int, ...]:
        """An argument that is a list of integers; a single one counts as a list."""
        found = self.dims(name)
        fixed = tuple(item for item in found if isinstance(item, int))
        if len(fixed) != len(found):
            raise NotExpressible(f"{self.name}: '{name}' is {found!r}, needs integers")
        return fixed

    def flag(self, name: str) -> bool:
        """An argument that is a bool; False where the schema has none of that name."""
        return bool(self.arguments.get(name))

    def text(self, name: str) -> str:
        """An argument that is a string."""
        argument = self.arguments.get(name)
        if isinstance(argument, str):
            return argument
        raise NotExpressible(f"{self.name}: '{name}' is {argument!r}, needs a string")

    def dtype(self, name: str = "dtype") -> DType | None:
        """An argument that is a dtype, or None."""
        argument = self.arguments.get(name)
        return argument if isinstance(argument, DType) else None

    def items(self, name: str) -> tuple[object, ...]:
        """An argument that is a list; a single item counts as a list of it."""
        argument = self.arguments.get(name)
        return argument if isinstance(argument, tuple) else (argument,)

    def values(self, name: str) -> tuple[Value, ...]:
        """An argument that is a list of tensors."""
        items = self.items(name)
        found = tuple(item for item in items if isinstance(item, Value))
        if len(found) != len(items):
            raise NotExpressible(f"{self.name}: '{name}' is {items!r}, needs tensors")
        return found

    def axis(self, name: str, rank: int) -> int:
        """An argument that is an axis of a tensor of this rank, counted from 0."""
        return _normal(self.integer(name), rank)

    def axes(self, name: str, rank: int) -> tuple[int, ...]:
        """An argument that is a list of axes; None and an empty list mean all axes."""
        if not self.has(name) or self.arguments[name] == ():
            return tuple(range(rank))
        return tuple(_normal(axis, rank) for axis in self.ints(name)) if rank else ()

    def full(self, name: str, count: int) -> tuple[int, ...]:
        """An argument with one integer per spatial axis; a single integer stands for all."""
        found = self.ints(name)
        return found * count if len(found) == 1 else found


def _as_dim(call: TorchCall, name: str, item: object) -> Dim:
    if isinstance(item, Expression):
        return item
    if isinstance(item, int):
        return int(item)
    raise NotExpressible(f"{call.name}: '{name}' is {item!r}, needs an integer")


def _normal(axis: int, rank: int) -> int:
    return axis + max(rank, 1) if axis < 0 else axis


class Context:
    """Emits canonical nodes at the end of a graph, named after the place in the model that is translated."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._editor = GraphEditor(graph)
        self._place: Place | None = None

    @property
    def graph(self) -> Graph:
        """The graph that is being built."""
        return self._graph

    @property
    def editor(self) -> GraphEditor:
        """Edits of the graph that is being built."""
        return self._editor

    @property
    def place(self) -> Place | None:
        """The place in the model that is translated now."""
        return self._place

    def enter(self, place: Place) -> None:
        """Name what follows after this place."""
        self._place = place

    def emit(self, op: str, *operands: Operand, **attrs: Attribute) -> Value:
        """Append a canonical node with one result."""
        results = self.emit_many(op, *operands, **attrs)
        if len(results) != 1:
            raise CaptureError(f"{op} has {len(results)} results where capture needs one")
        return results[0]

    def emit_many(self, op: str, *operands: Operand, **attrs: Attribute) -> tuple[Value, ...]:
        """Append a canonical node with any number of results."""
        return self.append(op, operands, attrs, infer_types(op, operands, attrs))

    def append(
        self,
        op: str,
        operands: Sequence[Operand],
        attrs: Mapping[str, Attribute],
        types: Sequence[TensorType],
        regions: Sequence[Graph] = (),
    ) -> tuple[Value, ...]:
        """Append a node with given result types."""
        hint = _short(op)
        if self._place is not None and self._place.module:
            hint = f"{self._place.module}.{hint}"
        names: list[str] = []
        for index in range(len(types)):
            names.append(self._graph.fresh_name(hint if len(types) == 1 else f"{hint}.{index}"))
        source = self._place.source if self._place is not None else None
        node = self._editor.insert(op, operands, attrs, list(zip(names, types, strict=True)), source=source, regions=regions)
        return node.results

    @property
    def last_node(self) -> Node | None:
        """The node that was emitted last."""
        return next(self._graph.reversed_nodes, None)

    def take_back(self, mark: Node | None) -> None:
        """Erase what was emitted after `mark`, last first."""
        while (last := self.last_node) is not mark and last is not None:
            self._editor.erase(last)

    def remove_dead(self) -> None:
        """Erase pure canonical nodes that nobody reads: leftovers of views, and results that the model drops."""
        for node in self._graph.reversed_nodes:
            pure = is_canonical(node.op) and definition(node.op).effect is Effect.PURE and not node.regions
            if pure and not any(result.use_count for result in node.results):
                self._editor.erase(node)

    def cast(self, value: Value, dtype: DType) -> Value:
        """The value in another dtype; itself where it has it already."""
        return value if value.type.dtype is dtype else self.emit("cast", value, dtype=dtype)

    def reshape(self, value: Value, shape: tuple[Dim, ...]) -> Value:
        """The value in another shape; itself where it has it already."""
        return value if value.shape == shape else self.emit("reshape", value, shape=shape)


def _short(op: str) -> str:
    parts = op.split(".")
    return parts[1] if len(parts) >= 3 else parts[-1]


Handler: TypeAlias = Callable[[Context, TorchCall], Result]

HANDLERS: dict[str, Handler] = {}
"""Handlers by base name without namespace, for ops of `torch.ops.aten`."""


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for the aten ops of these base names."""

    def record(handler: Handler) -> Handler:
        for name in names:
            if name in HANDLERS:
                raise CaptureError(f"two handlers for aten.{name}")
            HANDLERS[name] = handler
        return handler

    return record
