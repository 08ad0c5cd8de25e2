"""The numbers of a graph's parameters and buffers: by name, and as tensors on a device that all plans of the graph share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from graphopt.backends.cuda.storage import Storage
from graphopt.backends.reference.interpreter import state_tensor
from graphopt.errors import LoweringError
from graphopt.ir.graph import Graph

__all__ = ["Fill", "Identity", "ReadState", "Weights", "state_reader"]

ReadState = Callable[[str], torch.Tensor]
"""The numbers of a state by name, in its own dtype."""
Fill = Callable[[ReadState], torch.Tensor]
"""Makes the numbers of a state buffer, in its shape; dtype and strides are the buffer's."""
Identity: TypeAlias = "tuple[object, ...]"
"""What numbers a state buffer has and how they lie: equal for buffers of different plans of one graph that could be one."""


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


class Weights:
    """The state buffers of a graph on one device. Each is there once, however many plans read it; no step writes to them."""

    def __init__(self, graph: Graph, device: torch.device) -> None:
        self._read = state_reader(graph)
        self._device = device
        self._tensors: dict[Identity, torch.Tensor] = {}

    def tensor(self, storage: Storage, identity: Identity, fill: Fill) -> torch.Tensor:
        """The buffer that `storage` covers, filled where it is new.

        Raises:
            LoweringError: a state has no numbers.
        """
        found = self._tensors.get(identity)
        if found is None:
            made = torch.empty_strided(storage.shape, storage.strides, dtype=getattr(torch, storage.dtype.torch_name), device=self._device)
            found = self._tensors[identity] = made.copy_(fill(self._read).reshape(storage.shape))
        return found
