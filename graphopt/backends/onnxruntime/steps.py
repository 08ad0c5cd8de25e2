"""What an executable does, step by step: run a session, or a few nodes through the reference interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.backends.onnxruntime.dtypes import numpy_dtype, tensor_to_array
from graphopt.backends.onnxruntime.records import Array
from graphopt.backends.onnxruntime.session import Session
from graphopt.backends.onnxruntime.signature import solve_symbols
from graphopt.ir.dims import evaluate_dim, symbols_of
from graphopt.ir.graph import Graph, Node, Operand, Value

if TYPE_CHECKING:
    from graphopt.backends.reference.interpreter import Interpreter

__all__ = ["Environment", "ForeignStep", "NativeStep", "Step", "array_to_tensor"]


class Environment:
    """Values that are alive, and the sizes of symbols."""

    def __init__(self, graph: Graph, values: dict[Value, Array], dims: dict[str, int]) -> None:
        self.graph = graph
        self.values = values
        self.dims = dims

    def read(self, operand: Operand) -> Array:
        """The numbers of a value, a state or a literal."""
        if isinstance(operand, Value):
            if operand in self.values:
                return self.values[operand]
            state = self.graph.states[operand.name]
            assert state.data is not None, "lowering reads every state that is needed"
            return tensor_to_array(state.data.tensor(), state.type.dtype)
        if operand is None or isinstance(operand, bool | int | float):
            return np.asarray(operand)
        return np.asarray(evaluate_dim(operand, self.dims))


class NativeStep:
    """A session, the values it reads and makes, and the sizes it is given."""

    def __init__(
        self,
        session: Session,
        inputs: Sequence[tuple[Value, str]],
        outputs: Sequence[tuple[Value, str]],
        symbols: Sequence[tuple[str, str]],
    ) -> None:
        self.session = session
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.symbols = tuple(symbols)

    def reads(self) -> tuple[Value, ...]:
        """Values that have to be there."""
        return tuple(value for value, _ in self.inputs)

    def run(self, environment: Environment) -> None:
        """Run and store the results."""
        feed = {name: environment.values[value] for value, name in self.inputs}
        feed |= {name: np.array([environment.dims[symbol]], dtype=np.int64) for symbol, name in self.symbols}
        found = self.session.run(feed, [name for _, name in self.outputs])
        environment.values.update((value, array) for (value, _), array in zip(self.outputs, found, strict=True))


class ForeignStep:
    """Nodes that ONNX Runtime can't run; torch is loaded when the first of them does."""

    def __init__(self, graph: Graph, nodes: Sequence[Node], reasons: Sequence[str]) -> None:
        self.graph = graph
        self.nodes = tuple(nodes)
        self.reasons = tuple(reasons)
        self._interpreter: Interpreter | None = None

    def reads(self) -> tuple[Value, ...]:
        """Values that have to be there, states among them."""
        inner = {result for node in self.nodes for result in node.results}
        return tuple(operand for node in self.nodes for operand in node.operands if isinstance(operand, Value) and operand not in inner)

    def run(self, environment: Environment) -> None:
        """Run and store the results; symbols that only the results carry are bound."""
        import torch

        from graphopt.backends.reference.interpreter import Interpreter

        if self._interpreter is None:
            self._interpreter = Interpreter(self.graph)
        with torch.no_grad():
            for node in self.nodes:
                operands = [_handle(environment, operand) for operand in node.operands]
                results = self._interpreter.evaluate(node, operands, environment.dims)
                arrays = {value: tensor_to_array(tensor, value.type.dtype) for value, tensor in zip(node.results, results, strict=True)}
                _bind(node, arrays, environment.dims)
                environment.values.update(arrays)


Step = NativeStep | ForeignStep


def _handle(environment: Environment, operand: Operand) -> Any:
    if not isinstance(operand, Value):
        return operand
    return array_to_tensor(environment.read(operand))


def array_to_tensor(array: Array) -> Any:
    """A torch tensor on the same memory."""
    import torch

    bits = {2: torch.bfloat16, 1: None}.get(array.dtype.itemsize)
    if array.dtype.kind != "V" and array.dtype.name not in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    if bits is None:
        bits = getattr(torch, array.dtype.name)
    integers = array.view(np.int16 if array.dtype.itemsize == 2 else np.uint8)
    return torch.from_numpy(integers if integers.flags.writeable else integers.copy()).view(bits)


def _bind(node: Node, arrays: Mapping[Value, Array], dims: dict[str, int]) -> None:
    if all(symbols_of(dim) <= dims.keys() for value in node.results for dim in value.shape):
        return
    for name, value, axis, factor, offset in solve_symbols(node.results, dims.keys()):
        dims[name] = (arrays[value].shape[axis] - offset) // factor


def is_exact_dtype(array: Array, value: Value) -> bool:
    """True when the array has the value's dtype."""
    return array.dtype == numpy_dtype(value.type.dtype)
