"""The place where emitters write ONNX nodes: names, constants, casts, sizes that are known at run time.

    def emit(context, node):                 one function per canonical op
        x = context.read(node.operands[0])   ONNX name of an operand, a literal becomes a constant
        return context.add("Relu", x)        appends a node, returns the name of its result

An emitter that can't express a node raises `UnsupportedNodeError`; the context then rolls back to where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.backends.onnxruntime.dtypes import numpy_dtype, onnx_dtype, tensor_to_array, widened
from graphopt.backends.onnxruntime.naming import Namer
from graphopt.backends.onnxruntime.records import Array, Initializer, OnnxAttribute, OnnxNode
from graphopt.errors import LoweringError
from graphopt.ir.dims import Call, Dim, Expression, Symbol
from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.ir.types import DType

__all__ = ["Context", "Emitter", "RegionContext", "UnsupportedNodeError"]

_LARGEST = np.iinfo(np.int64).max


class UnsupportedNodeError(LoweringError):
    """An op has no form in ONNX; it is run by the reference interpreter instead."""


class Context:
    """One ONNX graph in the making: a segment of the IR graph.

    `strict_nan` asks for nodes that keep NaN where kernels overlook it, `decompose_attention` for attention
    in basic ops. `symbol_source(name)` says on which graph input and axis a symbol can be read, or None; a symbol that
    has none becomes an input of the segment, `dim.NAME`, of type i64[1].
    """

    def __init__(
        self,
        graph: Graph,
        namer: Namer,
        symbol_source: Callable[[str], tuple[Value, int, int, int] | None],
        *,
        strict_nan: bool = False,
        decompose_attention: bool = False,
    ) -> None:
        self.graph = graph
        self.strict_nan = strict_nan
        self.decompose_attention = decompose_attention
        self.namer = namer
        self.nodes: list[OnnxNode] = []
        self.initializers: dict[str, Initializer] = {}
        self.inputs: dict[Value, str] = {}
        self.symbol_inputs: dict[str, str] = {}
        self.types: dict[str, tuple[DType, int]] = {}
        self.level = 0
        self._symbol_source = symbol_source
        self._names: dict[Value, str] = {}
        self._reserved: dict[Value, str] = {}
        self._cache: dict[object, str] = {}
        self._hint = "value"
        self._journal: list[tuple[dict[Any, Any], object]] = []

    # Bookkeeping

    def mark(self) -> tuple[int, int]:
        """A position to roll back to."""
        return len(self.nodes), len(self._journal)

    def roll_back(self, mark: tuple[int, int]) -> None:
        """Forget everything that was emitted since `mark`."""
        del self.nodes[mark[0] :]
        for table, key in reversed(self._journal[mark[1] :]):
            table.pop(key, None)
        del self._journal[mark[1] :]

    def _set(self, table: dict[Any, Any], key: object, value: object) -> None:
        table[key] = value
        self._journal.append((table, key))

    def begin(self, node: Node, level: int) -> None:
        """Start a node: names of what follows are made from its name, dtypes are widened to `level`."""
        self._hint = node.name
        self.level = level

    def bind(self, value: Value, name: str) -> None:
        """Say which ONNX value holds an IR value."""
        self._set(self._names, value, name)
        self._set(self.types, name, (value.type.dtype, value.type.rank))

    def reserve(self, value: Value) -> None:
        """Keep the best name for a graph input, before anything else may take it."""
        self._reserved[value] = self.namer.name(value.name)

    def bound(self) -> tuple[tuple[Value, str], ...]:
        """All values that have a name here, in order of binding."""
        return tuple(self._names.items())

    def holds(self, value: Value) -> bool:
        """True when the value is computed here or is an input of this segment already."""
        return value in self._names

    # Emission

    def add(self, op: str, *inputs: str, **attributes: OnnxAttribute) -> str:
        """Append a node with one result and return the result's name; "" is a missing optional input."""
        return self.add_many(op, inputs, 1, **attributes)[0]

    def add_many(self, op: str, inputs: Sequence[str], outputs: int, **attributes: OnnxAttribute) -> tuple[str, ...]:
        """Append a node with several results and return their names."""
        names = tuple(self.namer.name(f"{self._hint}.{op}") for _ in range(outputs))
        self.nodes.append(OnnxNode(op, tuple(inputs), names, attributes))
        return names

    def dtype(self, operand: Value) -> DType:
        """The dtype in which an operand is read at this level of widening."""
        return widened(operand.type.dtype, self.level)

    def target(self, node: Node, index: int = 0) -> DType:
        """The dtype in which a result has to be made; the declared one is cast to afterwards."""
        return widened(node.results[index].type.dtype, self.level)

    def name(self, value: Value) -> str:
        """ONNX name of an IR value: a result, an initializer, or an input of the segment."""
        found = self._names.get(value)
        if found is not None:
            return found
        if self.graph.state_of(value) is not None:
            name = self.state(value)
        else:
            onnx_dtype(value.type.dtype)
            name = self._reserved.get(value) or self.namer.name(value.name)
            self._set(self.inputs, value, name)
        self.bind(value, name)
        return name

    def read(self, operand: Operand, dtype: DType | None = None) -> str:
        """Name of an operand in the wanted dtype (default: its own, widened); a literal needs a dtype."""
        if isinstance(operand, Value):
            return self.cast(self.name(operand), operand.type.dtype, dtype or self.dtype(operand))
        if operand is None:
            return ""
        assert dtype is not None, "a literal has no dtype of its own"
        if isinstance(operand, Expression):
            return self.cast(self.size(operand), DType.i64, dtype)
        return self.scalar(operand, dtype)

    def cast(self, name: str, have: DType, want: DType) -> str:
        """The value in another dtype; cast once however often it is read."""
        if have is want:
            return name
        key = ("cast", name, want)
        if key in self._cache:
            return self._cache[key]
        result = self.add("Cast", name, to=onnx_dtype(want))
        if name in self.types:
            self._set(self._cache, key, result)
            self._set(self.types, result, (want, self.types[name][1]))
        return result

    # Constants

    def constant(self, array: Array, dtype: DType, hint: str = "constant") -> str:
        """An initializer with these numbers; small equal ones are shared."""
        held = np.ascontiguousarray(array.astype(numpy_dtype(dtype), copy=False)).reshape(array.shape)
        key = ("constant", dtype, held.shape, held.tobytes()) if held.nbytes <= 4096 else None
        if key is not None and key in self._cache:
            return self._cache[key]
        name = self.namer.name(hint)
        self._initializer(Initializer(name, dtype, held.shape, lambda: held))
        if key is not None:
            self._set(self._cache, key, name)
        return name

    def scalar(self, value: float, dtype: DType) -> str:
        """A constant without axes."""
        return self.constant(_number(value, dtype), dtype)

    def integers(self, values: Sequence[int]) -> str:
        """A constant i64[n]."""
        return self.constant(np.array(values, dtype=np.int64).reshape(-1), DType.i64)

    def ones(self, size: int, dtype: DType) -> str:
        """A constant vector of ones."""
        return self.constant(np.ones(size), dtype)

    def zeros(self, size: int, dtype: DType) -> str:
        """A constant vector of zeros."""
        return self.constant(np.zeros(size), dtype)

    def _initializer(self, made: Initializer) -> None:
        self._set(self.initializers, made.name, made)
        self._set(self.types, made.name, (made.dtype, len(made.shape)))

    # States

    def numbers(self, operand: Operand) -> Array | None:
        """The numbers of an operand that is a state, else None.

        Raises:
            LoweringError: the state has none.
        """
        if self.graph.state_of(operand) is None or not isinstance(operand, Value):
            return None
        return self._array(operand)()

    def _array(self, value: Value) -> Callable[[], Array]:
        state = self.graph.states[value.name]
        data = state.data
        if data is None:
            raise LoweringError(
                f"%{value.name} has no numbers, the graph was read from text alone",
                fix="load the graph from its folder, or capture it from the model",
            )
        return lambda: tensor_to_array(data.tensor(), value.type.dtype)

    def state(self, value: Value, *, permutation: tuple[int, ...] | None = None, shape: tuple[int, ...] | None = None) -> str:
        """An initializer that holds a state, with its axes permuted or in another shape of as many elements."""
        key = ("state", value.name, permutation, shape)
        if key in self._cache:
            return self._cache[key]
        array = self._array(value)
        sizes = value.type.static_shape
        if permutation is not None:
            axes = permutation
            made_shape = tuple(sizes[axis] for axis in axes)
            made: Callable[[], Array] = lambda: np.ascontiguousarray(array().transpose(axes))  # noqa: E731
        else:
            made_shape = shape if shape is not None else sizes
            made = lambda: array().reshape(made_shape)  # noqa: E731
        name = self.namer.name(value.name)
        self._initializer(Initializer(name, value.type.dtype, made_shape, made, value.name, permutation))
        self._set(self._cache, key, name)
        return name

    def shaped(self, operand: Value, shape: tuple[int, ...], dtype: DType | None = None) -> str:
        """An operand in another shape: free of cost for a state, a Reshape node for anything else."""
        want = dtype or self.dtype(operand)
        if operand.type.shape == shape:
            return self.read(operand, want)
        if self.graph.state_of(operand) is not None:
            return self.cast(self.state(operand, shape=shape), operand.type.dtype, want)
        return self.add("Reshape", self.read(operand, want), self.integers(shape))

    # Sizes

    def dims(self, dims: Sequence[Dim]) -> str:
        """An i64[n] tensor of dimensions: a constant where all are integers, else computed."""
        if all(isinstance(dim, int) for dim in dims):
            return self.integers([dim for dim in dims if isinstance(dim, int)])
        key = ("dims", tuple(dims))
        if key in self._cache:
            return self._cache[key]
        parts: list[str] = []
        run: list[int] = []
        for dim in dims:
            if isinstance(dim, int):
                run.append(dim)
                continue
            if run:
                parts.append(self.integers(run))
                run = []
            parts.append(self._vector(dim))
        if run:
            parts.append(self.integers(run))
        return self._remember(key, parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=0))

    def size(self, dim: Dim) -> str:
        """An i64[] tensor of one dimension."""
        if isinstance(dim, int):
            return self.scalar(dim, DType.i64)
        return self._remembered(("size", dim), lambda: self.add("Squeeze", self._vector(dim), self.integers([0])), rank=0)

    def _vector(self, dim: Dim) -> str:
        """An i64[1] tensor of one dimension."""
        if isinstance(dim, int):
            return self.integers([dim])
        return self._remembered(("vector", dim), lambda: self._polynomial(dim))

    def _polynomial(self, dim: Expression) -> str:
        total: str | None = None
        for monomial, coefficient in dim.terms:
            factors = [self._symbol(atom.name) if isinstance(atom, Symbol) else self._call(atom) for atom in monomial]
            if coefficient != 1 or not factors:
                factors.append(self.integers([coefficient]))
            term = factors[0]
            for factor in factors[1:]:
                term = self.add("Mul", term, factor)
            total = term if total is None else self.add("Add", total, term)
        assert total is not None, "an expression has terms"
        return total

    def _call(self, call: Call) -> str:
        left, right = self._vector(call.left), self._vector(call.right)
        if call.operator in ("min", "max"):
            return self.add(call.operator.capitalize(), left, right)
        remainder = self.add("Mod", left, right)
        if call.operator == "%":
            return remainder
        # ONNX divides towards zero; less the remainder, which has the divisor's sign, it is towards minus infinity.
        return self.add("Div", self.add("Sub", left, remainder), right)

    def _symbol(self, name: str) -> str:
        return self._remembered(("symbol", name), lambda: self._read_symbol(name))

    def _read_symbol(self, name: str) -> str:
        found = self._symbol_source(name)
        if found is None:
            given = self.namer.name(f"dim.{name}")
            self._set(self.symbol_inputs, name, given)
            return given
        value, axis, factor, offset = found
        size = self.add("Shape", self.name(value), start=axis, end=axis + 1)
        if offset:
            size = self.add("Sub", size, self.integers([offset]))
        return size if factor == 1 else self.add("Div", size, self.integers([factor]))

    def _remembered(self, key: object, make: Callable[[], str], rank: int = 1) -> str:
        return self._cache[key] if key in self._cache else self._remember(key, make(), rank)

    def _remember(self, key: object, name: str, rank: int = 1) -> str:
        self._set(self._cache, key, name)
        self._set(self.types, name, (DType.i64, rank))
        return name

    # Shapes

    def reshape(self, name: str, have: Sequence[Dim], want: Sequence[Dim]) -> str:
        """The value in another shape. Dimensions that stay in place are copied and one may be inferred, so
        that sizes known only at run time rarely need nodes of their own."""
        if tuple(have) == tuple(want):
            return name
        if any(dim == 0 for dim in want):
            return self.add("Reshape", name, self.dims(want), allowzero=1)
        target = [0 if index < len(have) and have[index] == dim and not isinstance(dim, int) else dim for index, dim in enumerate(want)]
        open_places = [index for index, dim in enumerate(target) if not isinstance(dim, int)]
        if len(open_places) == 1:
            target[open_places[0]] = -1
        elif open_places:
            return self.add("Reshape", name, self.dims(want), allowzero=1)
        return self.add("Reshape", name, self.dims(target))

    def unsqueeze(self, name: str, *axes: int) -> str:
        """Axes of size 1 put in."""
        return self.add("Unsqueeze", name, self.integers(axes))

    def squeeze(self, name: str, *axes: int) -> str:
        """Axes of size 1 taken out."""
        return self.add("Squeeze", name, self.integers(axes))

    def slice(self, name: str, axis: int, start: Dim, stop: Dim | None, step: int = 1) -> str:
        """Part of an axis; `stop` None is the end."""
        end = self.integers([_LARGEST]) if stop is None else self.dims((stop,))
        return self.add("Slice", name, self.dims((start,)), end, self.integers([axis]), self.integers([step]))


class RegionContext(Context):
    """A branch of an If. Constants and sizes of symbols go to the graph around it, which the branch can read."""

    def __init__(self, parent: Context, region: Graph) -> None:
        super().__init__(
            region, parent.namer, lambda name: None, strict_nan=parent.strict_nan, decompose_attention=parent.decompose_attention
        )
        self._parent = parent

    def _initializer(self, made: Initializer) -> None:
        self._parent._initializer(made)
        self._set(self.initializers, made.name, made)
        self._set(self.types, made.name, (made.dtype, len(made.shape)))

    def _read_symbol(self, name: str) -> str:
        return self._parent._symbol(name)

    def name(self, value: Value) -> str:
        """ONNX name of a value of the region.

        Raises:
            UnsupportedNodeError: it is defined nowhere here; a region reads its inputs alone.
        """
        if not self.holds(value) and self.graph.state_of(value) is None:
            raise UnsupportedNodeError(f"a region reads %{value.name} from outside")
        return super().name(value)


def _number(value: float, dtype: DType) -> Array:
    if dtype.kind == "int" and isinstance(value, int):
        # A number outside the range wraps around, as in torch.
        bits = dtype.bytes * 8
        wrapped = value % (1 << bits)
        if not dtype.text.startswith("u") and wrapped >= 1 << (bits - 1):
            wrapped -= 1 << bits
        return np.array(wrapped, dtype=numpy_dtype(dtype))
    return np.array(value).astype(numpy_dtype(dtype))


Emitter = Callable[[Context, Node], "str | Sequence[str]"]
"""Writes one node: returns the names of its results, in the dtypes of `Context.target`."""
