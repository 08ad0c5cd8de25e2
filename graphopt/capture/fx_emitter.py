"""The emitter that records a graph as an fx graph. See `graphopt.capture.module`.

Sizes of symbols, the training flag and the device are recorded first, where every later call can read
them; those that nothing reads are dropped at the end.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from graphopt.backends.reference import functions
from graphopt.backends.reference.binding import Solution, solve
from graphopt.backends.reference.emitter import AttributeEmitter, function_named
from graphopt.backends.reference.lowering import lower_node
from graphopt.errors import LoweringError
from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Dim, Expression, Symbol, symbols_of
from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.ir.types import DType

__all__ = ["FxEmitter", "compile_forward"]


def compile_forward(fx_graph: fx.Graph) -> Callable[..., Any]:
    """The function `forward(self, ...)` that fx generates; it works on any `self` with the attributes it reads."""
    carrier = fx.GraphModule(torch.nn.Module(), fx.Graph())
    carrier.graph = fx_graph
    return type(carrier).forward


class FxEmitter(AttributeEmitter):
    """Records calls as fx nodes; handles are fx nodes and plain values.

    `targets` says under which attribute path of the module each state is found. `states`, `training` and
    `sizes` are handles where these come from outside (regions); by default they are read from the module and
    the inputs.
    """

    precise = False

    def __init__(
        self,
        graph: Graph,
        fx_graph: fx.Graph,
        inputs: Sequence[fx.Node],
        targets: Mapping[Value, str],
        *,
        states: Mapping[Value, Any] | None = None,
        training: fx.Node | None = None,
        sizes: Mapping[str, Any] | None = None,
    ) -> None:
        self._graph = graph
        self._fx = fx_graph
        self._targets = targets
        self._values: dict[Value, Any] = dict(zip(graph.inputs, inputs, strict=True))
        self._states: dict[Value, Any] = dict(states or {})
        self._expressions: dict[str, Any] = {}
        self._sizes: dict[str, Any] = dict(sizes or {})
        self._hint: str | None = None
        before = len(fx_graph.nodes)
        self._training = training or fx_graph.get_attr("training")
        self._device = self._read_device()
        for solution in solve(graph.inputs, self._sizes):
            self._sizes[solution.symbol] = self._read_size(solution)
        self._preamble = list(fx_graph.nodes)[before:]

    def run(self) -> list[Any]:
        """Record all nodes; returns one handle per output."""
        for node in self._graph.nodes:
            self._hint = node.name
            results = lower_node(self, node, [self._operand(operand) for operand in node.operands])
            self._values.update(zip(node.results, results, strict=True))
            if any(not isinstance(dim, int) for value in node.results for dim in value.type.shape):
                for solution in solve(node.results, self._sizes):
                    self._sizes[solution.symbol] = self._read_size(solution)
        self._hint = None
        outputs = [self._output(operand) for operand in self._graph.outputs]
        used = {node for output in outputs if isinstance(output, fx.Node) for node in (output,)}
        for node in reversed(self._preamble):
            if not node.users and node not in used:
                self._fx.erase_node(node)
        return outputs

    def call(self, function: str | OpOverload, *args: Any, **kwargs: Any) -> Any:
        """Record a call."""
        hint, self._hint = self._hint, None
        if isinstance(function, str) and function.startswith("."):
            return self._fx.create_node("call_method", function[1:], args, kwargs, name=hint)
        target = function_named(function) if isinstance(function, str) else function
        return self._fx.create_node("call_function", target, args, kwargs, name=hint)

    def unpack(self, value: Any, count: int) -> tuple[Any, ...]:
        """Record one item access per result."""
        return tuple(self.call("operator.getitem", value, index) for index in range(count))

    def dim(self, dim: Dim) -> Any:
        """An integer, or the node that computes the dimension; each expression once."""
        if not isinstance(dim, Expression):
            return dim
        if dim.text not in self._expressions:
            hint, self._hint = self._hint, None
            self._expressions[dim.text] = self._compute(dim)
            self._hint = hint
        return self._expressions[dim.text]

    def dtype(self, dtype: DType) -> Any:
        """The torch dtype."""
        return getattr(torch, dtype.torch_name)

    def training(self, mode: Attribute) -> Any:
        """The module's flag where the op follows it."""
        return self._training if mode == "follow" else mode == "train"

    def device(self) -> Any:
        """Device of the first state that is read, else of the first input."""
        return self._device

    def running(self, value: Any) -> Any:
        """The module's own buffer, which training updates."""
        return value

    def state(self, name: str) -> Any:
        """Access to a state, recorded once."""
        found = self._graph.states.get(name)
        return None if found is None else self._state(found.value)

    def branch(self, node: Node, predicate: Any, operands: Sequence[Any]) -> tuple[Any, ...]:
        """Record a call of a function that holds both regions."""
        names = sorted(name for name in self._sizes if any(name in _symbols_in(region) for region in node.regions))
        states = [value for region in node.regions for value in _states_in(region)]
        then, otherwise = (_region_function(region, names, states) for region in node.regions)

        def run_branch(predicate: Any, training: Any, sizes: Any, states: Any, *operands: Any) -> Any:
            context = types.SimpleNamespace()
            return functions.cond(
                predicate,
                lambda *inner: then(context, training, *sizes, *states, *inner),
                lambda *inner: otherwise(context, training, *sizes, *states, *inner),
                operands,
            )

        outer = (predicate, self._training, tuple(self._sizes[name] for name in names), tuple(self._state(value) for value in states))
        return self.unpack(self._fx.call_function(run_branch, (*outer, *operands)), len(node.results))

    def _state(self, value: Value) -> Any:
        if value not in self._states:
            self._states[value] = self._fx.get_attr(self._targets[value])
        return self._states[value]

    def _operand(self, operand: Operand) -> Any:
        if isinstance(operand, Expression):
            return self.dim(operand)
        if not isinstance(operand, Value):
            return operand
        if self._graph.state_of(operand) is not None:
            return self._state(operand)
        if operand not in self._values:
            raise LoweringError(f"%{operand.name} is read before it is computed", fix="verify the graph with graphopt.ops.verify")
        return self._values[operand]

    def _output(self, operand: Operand) -> Any:
        handle = self._operand(operand)
        return handle if isinstance(operand, Value) else self.call("torch.tensor", handle, device=self._device)

    def _read_size(self, solution: Solution) -> fx.Node:
        length = self._fx.call_method("size", (self._values[solution.value], solution.axis))
        if (solution.factor, solution.offset) == (1, 0):
            return length
        return self._fx.call_function(functions.size, (length, solution.offset, solution.factor))

    def _read_device(self) -> Any:
        anchor = next((self._state(state.value) for state in self._graph.states.values() if state.value.use_count), None)
        if anchor is None:
            anchor = next(iter(self._values.values()), None)
        return None if anchor is None else self._fx.call_function(getattr, (anchor, "device"))

    def _compute(self, dim: Dim) -> Any:
        if not isinstance(dim, Expression):
            return dim
        total: Any = None
        for monomial, coefficient in dim.terms:
            factors = [self._atom(atom) for atom in monomial]
            if coefficient != 1 or not factors:
                factors.insert(0, coefficient)
            term = factors[0]
            for factor in factors[1:]:
                term = self.call("operator.mul", term, factor)
            total = term if total is None else self.call("operator.add", total, term)
        return total

    def _atom(self, atom: Any) -> Any:
        if isinstance(atom, Symbol):
            if atom.name not in self._sizes:
                known = ", ".join(sorted(self._sizes)) or "none"
                raise LoweringError(
                    f"dimension '{atom.name}' follows from no input of graph '{self._graph.name}'; known: {known}",
                    fix="capture with a fixed size there, or with an input that has it as an axis",
                )
            return self._sizes[atom.name]
        function = {"//": "operator.floordiv", "%": "operator.mod", "min": "torch.sym_min", "max": "torch.sym_max"}[atom.operator]
        return self.call(function, self.dim(atom.left), self.dim(atom.right))


def _region_function(region: Graph, names: Sequence[str], states: Sequence[Value]) -> Callable[..., Any]:
    """A region as `function(self, training, *sizes, *states, *inputs) -> tuple`."""
    fx_graph = fx.Graph()
    training = fx_graph.placeholder("training")
    sizes = {name: fx_graph.placeholder(f"size_{index}") for index, name in enumerate(names)}
    given = {value: fx_graph.placeholder(f"state_{index}") for index, value in enumerate(states)}
    inputs = [fx_graph.placeholder(f"input_{index}") for index in range(len(region.inputs))]
    emitter = FxEmitter(region, fx_graph, inputs, {}, states=given, training=training, sizes=sizes)
    # torch.cond takes no branch that hands an input on unchanged
    passed_on = {*inputs, *given.values()}
    outputs = [fx_graph.call_method("clone", (output,)) if output in passed_on else output for output in emitter.run()]
    fx_graph.output(tuple(outputs))
    return compile_forward(fx_graph)


def _states_in(region: Graph) -> list[Value]:
    """The states of a region and of the regions inside it."""
    found: list[Value] = []
    pending = [region]
    while pending:
        current = pending.pop()
        found += [state.value for state in current.states.values()]
        pending.extend(inner for node in current.nodes for inner in node.regions)
    return found


def _symbols_in(region: Graph) -> frozenset[str]:
    found: set[str] = set(region.symbols)
    for value in region.values:
        for dim in value.type.shape:
            found |= symbols_of(dim)
    return frozenset(found)
