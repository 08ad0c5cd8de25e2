"""Channels last for networks with depthwise convolutions, which torch then trains and runs faster on CPUs.

For modules and loops of the benchmark's own: `graphopt.train.recover` does it by itself for graphs.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["fast_layout"]


@contextmanager
def fast_layout(module: nn.Module) -> Generator[None]:
    """Weights lie so that they run fast, and as usual again afterwards; their numbers stay the same."""
    if not any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in module.modules()):
        yield
        return
    module.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        module.to(memory_format=torch.contiguous_format)
