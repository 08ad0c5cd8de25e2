"""Calibration batches that go through a graph side by side, node by node, while a pass rewrites it.

A pass that fits a layer to data needs what reaches the layer once those before it have been changed. It asks for the
layer's operand, puts another node in the place of the layer, and lets that one compute:

    stream = Stream(graph, calibration)
    for node in list(graph.nodes):
        x = stream.tensors(node.value(0))          one tensor per batch
        made = ...                                 rewrite node, from x
        stream.step(made)

Values go when their last reader has run, so memory is that of the busiest node times the number of batches; of
those as many are taken as fit.
"""

from __future__ import annotations

import torch

from graphopt.backends.reference.binding import bind_dims, bind_results
from graphopt.backends.reference.interpreter import Interpreter, state_tensor
from graphopt.ir.dims import Expression, evaluate_dim
from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.passes.shrink.statistics.observing import evaluate
from graphopt.passes.shrink.statistics.stream import batches_that_fit
from graphopt.pipeline.calibration import Calibration

__all__ = ["Stream"]

_LIMIT = 1 << 30
"""Most memory for values of all batches (bytes)."""


class Stream:
    """The values that each batch has so far, in the graph's own dtypes.

    `notes` says when not all batches are used.
    """

    def __init__(self, graph: Graph, calibration: Calibration, limit: int = _LIMIT) -> None:
        inputs = [batch.inputs for batch in calibration]
        batches = inputs[: batches_that_fit([graph], inputs, limit, precise=False)]
        self._graph = graph
        self._interpreter = Interpreter(graph)
        self._values: list[dict[Value, torch.Tensor]] = [dict(zip(graph.inputs, batch, strict=True)) for batch in batches]
        self._dims = [bind_dims(graph, batch) for batch in batches]
        self._done: set[Node] = set()
        left_out = len(calibration) - len(batches)
        self.notes: tuple[str, ...] = (
            (f"{left_out} of {len(calibration)} calibration batches were left out: their values would need more than {limit >> 20} MiB",)
            if left_out
            else ()
        )

    def __len__(self) -> int:
        return len(self._values)

    def tensors(self, operand: Operand) -> list[torch.Tensor]:
        """The value of an operand in each batch; a state is the same in all of them.

        Raises:
            KeyError: it is not computed yet, or nobody was going to read it any more.
        """
        assert isinstance(operand, Value), "asked about values only"
        state = self._graph.state_of(operand)
        if state is not None:
            return [state_tensor(state)] * len(self._values)
        return [values[operand] for values in self._values]

    def step(self, *nodes: Node) -> None:
        """Compute nodes, in the order given."""
        for node in nodes:
            for values, dims in zip(self._values, self._dims, strict=True):
                results = self._evaluate(node, values, dims)
                bind_results(node.results, results, dims)
                values.update(zip(node.results, results, strict=True))
            self._done.add(node)
            self._forget(node)

    def look_ahead(self, node: Node) -> list[torch.Tensor]:
        """The result that a node would have in each batch; nothing is kept."""
        return [self._evaluate(node, values, dims)[0] for values, dims in zip(self._values, self._dims, strict=True)]

    def _evaluate(self, node: Node, values: dict[Value, torch.Tensor], dims: dict[str, int]) -> tuple[torch.Tensor, ...]:
        return evaluate(self._interpreter, node, [self._handle(operand, values, dims) for operand in node.operands], dims)

    def _handle(self, operand: Operand, values: dict[Value, torch.Tensor], dims: dict[str, int]) -> object:
        if isinstance(operand, Expression):
            return evaluate_dim(operand, dims)
        if not isinstance(operand, Value):
            return operand
        state = self._graph.state_of(operand)
        return state_tensor(state) if state is not None else values[operand]

    def _forget(self, node: Node) -> None:
        for value in (*node.operands, *node.results):
            if isinstance(value, Value) and all(user in self._done for user in value.users):
                for values in self._values:
                    values.pop(value, None)
