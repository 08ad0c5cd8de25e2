"""Runs a graph op by op through torch: the oracle that every other backend and every pass is compared to.

    Interpreter(graph).run(x)                   the model's own dtypes
    Interpreter(graph, precise=True).run(x)     the float64 world: every float dtype is float64

A run never writes to the graph: training ops update copies of their buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from graphopt.backends.reference.binding import bind_dims, bind_results, check_inputs
from graphopt.backends.reference.emitter import AttributeEmitter, function_named
from graphopt.backends.reference.lowering import lower_node
from graphopt.errors import BackendError
from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Dim, Expression, evaluate_dim
from graphopt.ir.graph import Graph, Node, Operand, State, Value
from graphopt.ir.types import DType

if TYPE_CHECKING:
    from torch._ops import OpOverload

__all__ = ["EagerEmitter", "Interpreter", "bind_dims", "last_uses", "precise_dtype", "state_tensor"]

Watcher = Callable[[Value, torch.Tensor], None]


def precise_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in the float64 world: float64 for real floats, complex128 for complex ones, else the same."""
    if dtype.is_floating_point:
        return torch.float64
    return torch.complex128 if dtype.is_complex else dtype


def state_tensor(state: State, *, precise: bool = False) -> torch.Tensor:
    """The numbers of a state.

    Raises:
        BackendError: it has none.
    """
    if state.data is None:
        raise BackendError(
            f"%{state.name} has no numbers, the graph was read from text alone",
            fix="load the graph from its folder, or capture it from the model",
        )
    tensor = state.data.precise() if precise else state.data.tensor()
    tensor = tensor.detach()
    return tensor.to(precise_dtype(tensor.dtype)) if precise else tensor


class EagerEmitter(AttributeEmitter):
    """Runs calls at once; handles are tensors and plain values."""

    def __init__(self, owner: Interpreter, dims: Mapping[str, Dim], device: torch.device | None) -> None:
        self._owner = owner
        self._dims = dims
        self._device = device

    @property
    def precise(self) -> bool:
        """True in the float64 world."""
        return self._owner.precise

    def call(self, function: str | OpOverload, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        if not isinstance(function, str):
            return function(*args, **kwargs)
        if function.startswith("."):
            return getattr(args[0], function[1:])(*args[1:], **kwargs)
        return function_named(function)(*args, **kwargs)

    def unpack(self, value: Any, count: int) -> tuple[Any, ...]:
        """The items of a tuple or list."""
        items = tuple(value) if isinstance(value, (tuple, list)) else () if value is None else (value,)
        if len(items) != count:
            raise BackendError(f"the op returned {len(items)} tensors, its node declares {count}")
        return items

    def dim(self, dim: Dim) -> Any:
        """The size of a dimension.

        Raises:
            SymbolError: a symbol has no size.
        """
        return evaluate_dim(dim, self._dims)

    def dtype(self, dtype: DType) -> Any:
        """The torch dtype, float64 for floats in the float64 world."""
        found: torch.dtype = getattr(torch, dtype.torch_name)
        return precise_dtype(found) if self.precise else found

    def training(self, mode: Attribute) -> Any:
        """The flag of the interpreter where the op follows it."""
        return self._owner.training if mode == "follow" else mode == "train"

    def device(self) -> Any:
        """Device of the first input, else of the first state."""
        return self._device

    def running(self, value: Any) -> Any:
        """A copy of a buffer."""
        return value.clone()

    def state(self, name: str) -> Any:
        """Numbers of a state."""
        state = self._owner.graph.states.get(name)
        return None if state is None else state_tensor(state, precise=self.precise)

    def branch(self, node: Node, predicate: Any, operands: Sequence[Any]) -> tuple[Any, ...]:
        """Run one region."""
        region = node.regions[0 if bool(predicate) else 1]
        inner = Interpreter(region, precise=self.precise, training=self._owner.training)
        return inner.run_within(operands, {name: size for name, size in self._dims.items() if isinstance(size, int)})


class Interpreter:
    """Runs one graph, any number of times, without gradients.

    `precise` turns every floating-point dtype into float64: inputs, states, casts, creation ops, arguments
    of opaque ops. `training` is what ops with mode `follow` do.
    """

    def __init__(self, graph: Graph, *, precise: bool = False, training: bool = False) -> None:
        self.graph = graph
        self.precise = precise
        self.training = training
        self._last_uses = last_uses(graph)

    def run(self, *inputs: torch.Tensor, on_value: Watcher | None = None) -> tuple[torch.Tensor, ...]:
        """The flat outputs for flat inputs. A value is freed after its last use.

        `on_value` is called with every result of a node as soon as it is computed.

        Raises:
            RunInputError: number, dtype or shape of the inputs do not fit.
            SymbolError: a size is outside the range of its symbol.
            BackendError: a state has no numbers, or an op failed; the message names the node.
        """
        check_inputs(self.graph, inputs, precise=self.precise)
        return self.run_within(inputs, {}, on_value=on_value)

    def run_within(self, inputs: Sequence[Any], known: Mapping[str, int], *, on_value: Watcher | None = None) -> tuple[torch.Tensor, ...]:
        """Like `run`, without checks of dtypes and with sizes that are known already: for a region of a node."""
        with _world(self.precise):
            tensors = [self._as_tensor(given) for given in inputs]
            dims = {**known, **bind_dims(self.graph, tensors)}
            emitter = EagerEmitter(self, dims, self._device(tensors))
            values: dict[Value, torch.Tensor] = dict(zip(self.graph.inputs, tensors, strict=True))
            del tensors, inputs
            for node in self.graph.nodes:
                results = self._evaluate(emitter, node, [self._operand(emitter, values, operand) for operand in node.operands])
                bind_results(node.results, results, dims)
                for value, tensor in zip(node.results, results, strict=True):
                    values[value] = tensor
                    if on_value is not None:
                        on_value(value, tensor)
                del results
                for value in self._last_uses.get(node, ()):
                    values.pop(value, None)
            return tuple(self._output(emitter, values, operand) for operand in self.graph.outputs)

    def evaluate(self, node: Node, operands: Sequence[Any], dims: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
        """The results of one node for given operands (tensors, literals or None) and sizes of symbols.

        In the precise world, floating-point operands are converted to float64 first.

        Raises:
            BackendError: the op failed; the message names the node.
        """
        with _world(self.precise):
            handles = [self._as_tensor(operand) if isinstance(operand, torch.Tensor) else operand for operand in operands]
            emitter = EagerEmitter(self, dims, self._device(handles))
            handles = [emitter.dim(handle) if isinstance(handle, Expression) else handle for handle in handles]
            return self._evaluate(emitter, node, handles)

    def _evaluate(self, emitter: EagerEmitter, node: Node, handles: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        try:
            return lower_node(emitter, node, handles)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            shown = ", ".join(_shown(handle) for handle in handles)
            raise BackendError(
                f"{node.op}({shown}) failed: {error}",
                where=repr(node),
                fix="check the inputs (sizes, indices in range), and the graph with graphopt.ops.verify",
            ) from error

    def _as_tensor(self, given: Any) -> Any:
        if not self.precise or not isinstance(given, torch.Tensor):
            return given
        return given.to(precise_dtype(given.dtype))

    def _operand(self, emitter: EagerEmitter, values: dict[Value, torch.Tensor], operand: Operand) -> Any:
        if not isinstance(operand, Value):
            return emitter.dim(operand) if isinstance(operand, Expression) else operand
        if operand not in values:
            state = self.graph.state_of(operand)
            if state is None:
                raise BackendError(f"%{operand.name} is read before it is computed", fix="verify the graph with graphopt.ops.verify")
            values[operand] = state_tensor(state, precise=self.precise)
        return values[operand]

    def _output(self, emitter: EagerEmitter, values: dict[Value, torch.Tensor], operand: Operand) -> torch.Tensor:
        handle = self._operand(emitter, values, operand)
        if handle is None:
            raise BackendError("an output is none, needs a tensor or a number", where=f"return of graph '{self.graph.name}'")
        return handle if isinstance(handle, torch.Tensor) else torch.tensor(handle)

    def _device(self, handles: Sequence[Any]) -> torch.device | None:
        for handle in handles:
            if isinstance(handle, torch.Tensor):
                return handle.device
        for state in self.graph.states.values():
            if state.data is not None:
                return state.data.tensor().device
        return None


def _shown(handle: Any) -> str:
    if not isinstance(handle, torch.Tensor):
        return repr(handle)
    return f"{str(handle.dtype).removeprefix('torch.')}{list(handle.shape)}"


def last_uses(graph: Graph) -> dict[Node, list[Value]]:
    """For each node, the values that nobody reads after it, its own unread results among them."""
    seen: set[Value] = {operand for operand in graph.outputs if isinstance(operand, Value)}
    last: dict[Node, list[Value]] = {}
    for node in graph.reversed_nodes:
        ending: list[Value] = []
        for value in (*node.results, *node.operands):
            if isinstance(value, Value) and value not in seen:
                seen.add(value)
                ending.append(value)
        if ending:
            last[node] = ending
    return last


@contextmanager
def _world(precise: bool) -> Generator[None]:
    """No gradients and no autocast; in the float64 world Python numbers and integer tensors promote to float64."""
    default = torch.get_default_dtype()
    with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        if not precise:
            yield
            return
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)
