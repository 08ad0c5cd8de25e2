"""Run a graph over calibration batches and look at chosen values as they are computed; nothing is kept."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch

from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.graph import Graph, Value
from graphopt.pipeline.calibration import Calibration

__all__ = ["observe"]


def observe(graph: Graph, calibration: Calibration, values: Collection[Value], see: Callable[[Value, torch.Tensor], None]) -> None:
    """Call `see` with each of `values` for each batch, in execution order, in the dtypes of the graph.

    Raises:
        RunInputError: a batch does not fit the graph.
    """
    interpreter = Interpreter(graph)

    def on_value(value: Value, tensor: torch.Tensor) -> None:
        if value in values:
            see(value, tensor)

    with torch.random.fork_rng(devices=[]):
        for batch in calibration:
            torch.manual_seed(0)  # graphs that draw random numbers draw the same ones in every run
            for value, tensor in zip(graph.inputs, batch.inputs, strict=True):
                on_value(value, tensor)
            interpreter.run(*batch.inputs, on_value=on_value)
