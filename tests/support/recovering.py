"""A small network and data to train on with `recover`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import graphopt

__all__ = ["ROWS", "batches", "bits", "capture", "distance", "network", "sparse"]

ROWS = 8
"""Of a batch."""


def network(seed: int = 0) -> nn.Sequential:
    """A small convolutional network with a batch norm and dropout, in eval mode."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 3)]
    return nn.Sequential(*layers).eval()


def capture(module: nn.Module) -> graphopt.Graph:
    """Its graph, for batches of any size."""
    return graphopt.capture(module, (torch.randn(ROWS, 1, 4, 4),), dynamic={"input": {0: "batch"}})


def sparse(seed: int = 0, ratio: float = 0.6) -> nn.Sequential:
    """The network with zeros in its last layer."""
    module = network(seed)
    with torch.no_grad():
        weight = module.get_parameter("5.weight")
        weight[weight.abs() < weight.abs().flatten().quantile(ratio)] = 0.0
    return module


def batches(count: int = 4, labels: bool = False, rows: int = ROWS) -> list[Any]:
    """The same batches every time, with labels if they are wanted."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(rows, 1, 4, 4, generator=generator) for _ in range(count)]
    return [(x, (x.sum((1, 2, 3)) > 0).long()) for x in made] if labels else made


def distance(first: nn.Module, second: nn.Module) -> float:
    """The mean squared difference of the outputs."""
    x = torch.cat(batches())
    with torch.no_grad():
        return float((first(x) - second(x)).square().mean())


def bits(module: nn.Module) -> list[bytes]:
    """The bits of parameters and buffers."""
    return [tensor.detach().numpy().tobytes() for tensor in module.state_dict().values()]
