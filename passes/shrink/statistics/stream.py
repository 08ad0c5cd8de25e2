"""Calibration batches that go through one graph side by side, node by node.

    stream = Stream(graph, batches)
    stream.advance(node)                   every batch is now before `node`
    stream.operand(0, node.value(0))       what it reads, of batch 0

So what a node computes may depend on all batches: a layer can be fitted to what it really reads, and everything
behind it sees the fitted weights. Only values that are still needed are kept: memory is that of a run, times batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.analysis.memory import peak_memory
from graphopt.backends.reference.binding import bind_dims, bind_results, check_inputs
from graphopt.backends.reference.interpreter import Interpreter, last_uses, precise_dtype, state_tensor
from graphopt.ir.dims import Expression, evaluate_dim
from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.passes.shrink.statistics.observing import evaluate

__all__ = ["Stream", "batches_that_fit", "computes_in_double"]


class Stream:
    """Batches of flat inputs on their way through a graph. States are read when a node needs them, so they may change.

    With `precise`, everything is computed in float64.

    Raises:
        RunInputError: a batch does not fit the graph.
    """

    def __init__(self, graph: Graph, batches: Sequence[Sequence[torch.Tensor]], *, precise: bool = False) -> None:
        self.graph = graph
        self._interpreter = Interpreter(graph, precise=precise)
        self._precise = precise
        self._last_uses = last_uses(graph)
        self._next = graph.first_node
        self._passed: set[Node] = set()
        self._dims: list[dict[str, int]] = []
        self._values: list[dict[Value, torch.Tensor]] = []
        for inputs in batches:
            check_inputs(graph, inputs, precise=precise)
            self._dims.append(bind_dims(graph, inputs))
            tensors = [tensor.to(precise_dtype(tensor.dtype)) if precise else tensor for tensor in inputs]
            self._values.append(dict(zip(graph.inputs, tensors, strict=True)))

    def __len__(self) -> int:
        return len(self._values)

    def has_passed(self, node: Node) -> bool:
        """True once the node's results were computed."""
        return node in self._passed

    def knows(self, value: Value) -> bool:
        """True while a value is kept, and for states."""
        return all(value in values for values in self._values) or self.graph.state_of(value) is not None

    def advance(self, node: Node, *, through: bool = False) -> None:
        """Compute everything before `node`, with `through` the node too. Nothing happens where that is done already.

        Raises:
            BackendError: an op failed; the message names the node.
        """
        while self._next is not None and not (node in self._passed if through else self._next is node or node in self._passed):
            self.step()

    def step(self) -> None:
        """Compute one node."""
        node = self._next
        if node is None:
            return
        for values, dims in zip(self._values, self._dims, strict=True):
            results = self._evaluate(node, [self._read(values, dims, operand) for operand in node.operands], dims)
            bind_results(node.results, results, dims)
            values.update(zip(node.results, results, strict=True))
            for value in self._last_uses.get(node, ()):
                values.pop(value, None)
        self._passed.add(node)
        self._next = node.next

    def finish(self) -> list[tuple[torch.Tensor, ...]]:
        """Compute the rest; the flat outputs of each batch."""
        while self._next is not None:
            self.step()
        outputs: list[tuple[torch.Tensor, ...]] = []
        for values, dims in zip(self._values, self._dims, strict=True):
            found = [self._read(values, dims, operand) for operand in self.graph.outputs]
            outputs.append(tuple(value if isinstance(value, torch.Tensor) else torch.tensor(value) for value in found))
        return outputs

    def operand(self, batch: int, operand: Operand) -> torch.Tensor:
        """An operand of the next node, or a result of the last one, in one batch.

        Raises:
            KeyError: the value is not computed yet, or no longer needed.
        """
        found = self._read(self._values[batch], self._dims[batch], operand)
        if not isinstance(found, torch.Tensor):
            raise TypeError(f"{operand!r} is no tensor")
        return found

    def compute(self, batch: int, node: Node) -> tuple[torch.Tensor, ...]:
        """The results of the next node in one batch, with the states as they are now; nothing is kept."""
        values, dims = self._values[batch], self._dims[batch]
        return self._evaluate(node, [self._read(values, dims, operand) for operand in node.operands], dims)

    def _evaluate(self, node: Node, operands: Sequence[object], dims: dict[str, int]) -> tuple[torch.Tensor, ...]:
        return evaluate(self._interpreter, node, operands, dims)

    def state(self, operand: Operand) -> torch.Tensor | None:
        """The numbers of a state as this stream computes with them; None for what is no state."""
        state = self.graph.state_of(operand)
        return None if state is None else state_tensor(state, precise=self._precise)

    def _read(self, values: dict[Value, torch.Tensor], dims: dict[str, int], operand: Operand) -> object:
        if not isinstance(operand, Value):
            return evaluate_dim(operand, dims) if isinstance(operand, Expression) else operand
        if operand in values:
            return values[operand]
        state = self.graph.state_of(operand)
        if state is None:
            raise KeyError(operand.name)
        return state_tensor(state, precise=self._precise)


def computes_in_double(graph: Graph) -> bool:
    """True for graphs with floats of fewer than 32 bits, whose own rounding would be seen as error to be fitted."""
    types = [value.type for value in graph.inputs] + [state.type for state in graph.states.values()]
    return any(type_.dtype.is_float and type_.dtype.bytes < 4 for type_ in types)


def batches_that_fit(graphs: Sequence[Graph], batches: Sequence[Sequence[torch.Tensor]], limit: int, *, precise: bool) -> int:
    """How many of the batches, from the first, can go through all graphs at once in `limit` bytes; at least one."""
    used = count = 0
    for inputs in batches:
        used += sum(peak_memory(graph, bind_dims(graph, inputs)).known for graph in graphs) * (4 if precise else 1)
        if count and used > limit:
            break
        count += 1
    return count
