"""Run a graph over calibration batches and look at chosen values as they are computed; nothing is kept.

Nodes that draw random numbers draw the same ones in every run and leave the state of torch's generators as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.graph import Graph, Node, Value
from graphopt.pipeline.calibration import Calibration
from graphopt.pipeline.randomness import seeded

__all__ = ["evaluate", "observe"]


def evaluate(interpreter: Interpreter, node: Node, operands: Sequence[object], dims: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
    """The results of one node, the same ones in every graph and run where it draws random numbers.

    Raises:
        BackendError: the op failed; the message names the node.
    """
    with seeded():
        return interpreter.evaluate(node, operands, dims)


def observe(graph: Graph, calibration: Calibration, values: Collection[Value], see: Callable[[Value, torch.Tensor], None]) -> None:
    """Call `see` with each of `values` for each batch, in execution order, in the dtypes of the graph.

    Raises:
        RunInputError: a batch does not fit the graph.
    """
    interpreter = Interpreter(graph)

    def on_value(value: Value, tensor: torch.Tensor) -> None:
        if value in values:
            see(value, tensor)

    for batch in calibration:
        for value, tensor in zip(graph.inputs, batch.inputs, strict=True):
            on_value(value, tensor)
        with seeded():  # graphs that draw random numbers draw the same ones in every run
            interpreter.run(*batch.inputs, on_value=on_value)
