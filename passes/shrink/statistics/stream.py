"""Batches that go through one graph side by side, node by node, also while a pass rewrites it.

    stream = Stream(graph, batches)
    stream.advance(node)                   every batch is now before `node`
    stream.operand(0, node.value(0))       what it reads, of batch 0

So what a node computes may depend on all batches: a layer can be fitted to what it really reads, and everything
behind it sees the fitted weights. A pass that puts other nodes in the place of one says itself what is computed:

    stream = Stream.of(graph, calibration)
    for node in list(graph.nodes):
        x = stream.tensors(node.value(0))          one tensor per batch
        made = ...                                 rewrite node, from x
        stream.step(made)

Values go when their last reader has run: memory is that of the busiest node, times batches.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch

from graphopt.analysis.memory import peak_memory
from graphopt.backends.reference.binding import bind_dims, bind_results, check_inputs
from graphopt.backends.reference.interpreter import Interpreter, precise_dtype, state_tensor
from graphopt.ir.dims import Expression, evaluate_dim
from graphopt.ir.graph import Graph, Node, Operand, State, Value
from graphopt.passes.shrink.statistics.observing import evaluate
from graphopt.pipeline.calibration import Calibration

__all__ = ["LIMIT_BYTES", "Stream", "batches_that_fit", "computes_in_double"]

LIMIT_BYTES = 1 << 30
"""Most memory for the values of all batches in one graph (bytes)."""


class Stream:
    """Batches of flat inputs on their way through a graph. States are read when a node needs them, so they may change.

    With `precise`, everything is computed in float64. `notes` says when not all batches are used.

    Raises:
        RunInputError: a batch does not fit the graph.
    """

    def __init__(self, graph: Graph, batches: Sequence[Sequence[torch.Tensor]], *, precise: bool = False) -> None:
        self.graph = graph
        self.notes: tuple[str, ...] = ()
        self._interpreter = Interpreter(graph, precise=precise)
        self._precise = precise
        self._frozen: Mapping[str, State] | None = None
        self._last: Node | None = None
        self._done: set[Node] = set()
        self._dims: list[dict[str, int]] = []
        self._values: list[dict[Value, torch.Tensor]] = []
        for inputs in batches:
            check_inputs(graph, inputs, precise=precise)
            self._dims.append(bind_dims(graph, inputs))
            tensors = [tensor.to(precise_dtype(tensor.dtype)) if precise else tensor for tensor in inputs]
            self._values.append(dict(zip(graph.inputs, tensors, strict=True)))

    @staticmethod
    def of(graph: Graph, calibration: Calibration, limit: int = LIMIT_BYTES, *, streams: int = 1) -> Stream:
        """As many batches of calibration data, from the first, as fit into `limit` bytes, in that many streams side by side."""
        batches = [batch.inputs for batch in calibration]
        count = batches_that_fit([graph] * streams, batches, limit, precise=False)
        stream = Stream(graph, batches[:count])
        if count < len(batches):
            was, their = ("was", "its") if len(batches) - count == 1 else ("were", "their")
            left_out = f"{len(batches) - count} of {len(batches)} calibration batches {was} left out"
            stream.notes = (f"{left_out}: {their} values would need more than {limit >> 20} MiB",)
        return stream

    def __len__(self) -> int:
        return len(self._values)

    def fork(self, *, frozen: bool = False) -> Stream:
        """Another stream that is where this one is, and goes on by itself; a frozen one computes with the states as they are now."""
        other = copy.copy(self)
        if frozen:
            other._frozen = dict(self.graph.states)
        other._done = set(self._done)
        other._dims = [dict(dims) for dims in self._dims]
        other._values = [dict(values) for values in self._values]
        return other

    def put(self, value: Value, tensors: Sequence[torch.Tensor]) -> None:
        """Give a value other numbers, one tensor per batch, for those that read it from now on."""
        for values, tensor in zip(self._values, tensors, strict=True):
            values[value] = tensor

    def has_passed(self, node: Node) -> bool:
        """True once the node's results were computed."""
        return node in self._done

    def knows(self, value: Value) -> bool:
        """True while a value is kept, and for states."""
        return all(value in values for values in self._values) or self.graph.state_of(value) is not None

    @property
    def _next(self) -> Node | None:
        return self.graph.first_node if self._last is None else self._last.next

    def advance(self, node: Node, *, through: bool = False) -> None:
        """Compute everything before `node`, with `through` the node too. Nothing happens where that is done already.

        Raises:
            BackendError: an op failed; the message names the node.
        """
        while node not in self._done and (following := self._next) is not None and (through or following is not node):
            self.step(following)

    def step(self, *nodes: Node) -> None:
        """Compute nodes, in the order given; all before them that they read has to be computed.

        Raises:
            BackendError: an op failed; the message names the node.
        """
        for node in nodes:
            for batch, (values, dims) in enumerate(zip(self._values, self._dims, strict=True)):
                results = self.compute(batch, node)
                bind_results(node.results, results, dims)
                values.update(zip(node.results, results, strict=True))
            self._done.add(node)
            self._last = node
            self._forget(node)

    def finish(self) -> list[tuple[torch.Tensor, ...]]:
        """Compute the rest; the flat outputs of each batch."""
        while (following := self._next) is not None:
            self.step(following)
        outputs: list[tuple[torch.Tensor, ...]] = []
        for batch in range(len(self)):
            found = [self._read(batch, operand) for operand in self.graph.outputs]
            outputs.append(tuple(value if isinstance(value, torch.Tensor) else torch.tensor(value) for value in found))
        return outputs

    def operand(self, batch: int, operand: Operand) -> torch.Tensor:
        """An operand of the next node, or a result of the last one, in one batch.

        Raises:
            KeyError: the value is not computed yet, or no longer needed.
        """
        found = self._read(batch, operand)
        if not isinstance(found, torch.Tensor):
            raise TypeError(f"{operand!r} is no tensor")
        return found

    def tensors(self, operand: Operand) -> list[torch.Tensor]:
        """The same in every batch; a state is the same in all of them.

        Raises:
            KeyError: the value is not computed yet, or no longer needed.
        """
        return [self.operand(batch, operand) for batch in range(len(self))]

    def compute(self, batch: int, node: Node) -> tuple[torch.Tensor, ...]:
        """The results of the next node in one batch, with the states as they are now; nothing is kept."""
        operands = [self._read(batch, operand) for operand in node.operands]
        return evaluate(self._interpreter, node, operands, self._dims[batch])

    def state(self, operand: Operand) -> torch.Tensor | None:
        """The numbers of a state as this stream computes with them; None for what is no state."""
        state = self.graph.state_of(operand)
        if self._frozen is not None and state is not None:
            state = self._frozen[state.name]
        return None if state is None else state_tensor(state, precise=self._precise)

    def _read(self, batch: int, operand: Operand) -> object:
        if not isinstance(operand, Value):
            return evaluate_dim(operand, self._dims[batch]) if isinstance(operand, Expression) else operand
        found = self._values[batch].get(operand)
        if found is None:
            found = self.state(operand)
        if found is None:
            raise KeyError(operand.name)
        return found

    def _forget(self, node: Node) -> None:
        """Drop what nobody is going to read any more; outputs stay, as `return` is never computed."""
        for value in dict.fromkeys((*node.operands, *node.results)):
            if not isinstance(value, Value) or not self._values or value not in self._values[0]:
                continue
            if all(user in self._done for user in value.users):
                for values in self._values:
                    values.pop(value, None)


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
