"""How weights of 2D convolutions lie in memory while a network is trained, and as before afterwards.

On CPUs torch trains a float32 network with depthwise or grouped convolutions in less time where its weights
lie channels last: everything behind them then does too. In float64 depthwise convolutions take longer
that way. Numbers are the same but for their last bits, as sums are formed in another order.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
from torch import nn

from graphopt.errors import UsageError
from graphopt.ops import registry
from graphopt.train.optimizers import SparseAdamW, SparseSGD
from graphopt.train.recovery.network import Network

__all__ = ["Layout", "MemoryFormat", "chosen_layout", "knows_no_strides", "laid_out"]

MemoryFormat: TypeAlias = Literal["auto", "contiguous", "channels_last"]
Layout: TypeAlias = Literal["contiguous", "channels_last"]

_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def chosen_layout(wanted: MemoryFormat, network: Network, optimizer: torch.optim.Optimizer, device: torch.device) -> Layout | None:
    """Where weights are to lie; None leaves them where they are.

    "auto" is channels last where that is known to be faster and nobody can tell the difference: the network is a graph of ops
    that know of no strides, on a CPU, and its optimizer works element by element (others may flatten weights by `view`).

    Raises:
        UsageError: `wanted` is no such layout.
    """
    if wanted == "contiguous" or wanted == "channels_last":  # pyright narrows this one
        return wanted
    if wanted != "auto":
        raise UsageError(f"memory_format is {wanted!r}, needs 'auto', 'contiguous' or 'channels_last'")
    elementwise = type(optimizer) in (SparseSGD, SparseAdamW, torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
    return "channels_last" if device.type == "cpu" and elementwise and _gains(network) else None


def knows_no_strides(network: Network) -> bool:
    """True for a graph of canonical ops; code of modules and opaque ops may depend on how tensors lie."""
    return network.graph is not None and all(registry.is_canonical(node.op) for node in network.graph.nodes)


def _gains(network: Network) -> bool:
    graph = network.graph
    if graph is None or not knows_no_strides(network):
        return False
    convolutions = [node for node in graph.nodes if node.op == "conv2d"]
    single = all(node.result.type.dtype.name == "f32" for node in convolutions)
    return single and any(node.attrs["groups"] != 1 for node in convolutions)


@contextmanager
def laid_out(network: Network, layout: Layout | None, optimizer: torch.optim.Optimizer | None = None) -> Generator[None]:
    """Weights of the network lie so, with what its optimizer remembers of them; afterwards in the memory in which they lay before.

    Parameters stay the same objects. Meanwhile the numbers are not shared with the graph, and outputs of `network.call` are contiguous.
    Without an optimizer nothing is trained, and that memory is not written to: a teacher's may be the caller's.
    """
    if layout is None:
        yield
        return
    before = [(weight, weight.data) for weight in _weights(network)]
    for weight, _ in before:
        laid = torch.empty_like(weight.data, memory_format=_FORMATS[layout])  # `contiguous` leaves strides of axes of one element
        _lay(weight, laid.copy_(weight.data), optimizer)
    network.contiguous_outputs = True
    try:
        yield
    finally:
        network.contiguous_outputs = False
        for weight, old in before:
            _lay(weight, old if optimizer is None else old.copy_(weight.data), optimizer)


def _weights(network: Network) -> list[nn.Parameter]:
    """The weights of a graph's 2D convolutions; of a module all that have four axes, as `module.to(memory_format=...)` takes them."""
    parameters = dict(network.module.named_parameters())
    if network.graph is None:
        return [parameter for parameter in parameters.values() if parameter.dim() == 4]
    states = (network.graph.state_of(node.operands[1]) for node in network.graph.nodes if node.op == "conv2d")
    names = dict.fromkeys(state.name for state in states if state is not None)
    return [parameters[name] for name in names if name in parameters]


@torch.no_grad()
def _lay(weight: nn.Parameter, data: torch.Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    """Make `data` the numbers of a parameter, and let its gradient and what an optimizer remembers of it lie like that; masks follow."""

    def like(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(data, dtype=tensor.dtype).copy_(tensor)

    weight.data = data
    if weight.grad is not None:
        weight.grad = like(weight.grad)
    if optimizer is not None and weight in optimizer.state:
        remembered = optimizer.state[weight]
        for name, value in remembered.items():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                remembered[name] = like(value)
