"""The numbers of a graph's parameters and buffers, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch

from graphopt.backends.reference.interpreter import state_tensor
from graphopt.errors import LoweringError
from graphopt.ir.graph import Graph

__all__ = ["Fill", "ReadState", "state_reader"]

ReadState = Callable[[str], torch.Tensor]
"""The numbers of a state by name, in its own dtype."""
Fill = Callable[[ReadState], torch.Tensor]
"""Makes the numbers of a state buffer, in its shape; dtype and strides are the buffer's."""


def state_reader(graph: Graph) -> ReadState:
    """The numbers of the graph's states by name.

    Raises:
        LoweringError: a state has none.
    """

    def read(name: str) -> torch.Tensor:
        state = graph.states.get(name)
        if state is None or state.data is None:
            raise LoweringError(
                f"%{name} has no numbers, the graph was read from text alone",
                fix="load the graph from its folder, or capture it from the model",
            )
        return state_tensor(state)

    return read
