"""Numbers for cases: the same whenever they are drawn."""

from __future__ import annotations

import math

import torch

__all__ = ["draw", "integers", "special", "with_holes"]


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, channels_last: bool = False) -> torch.Tensor:
    """Numbers of a normal distribution."""
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)
    return made.contiguous(memory_format=torch.channels_last) if channels_last else made


def integers(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64, seed: int = 0) -> torch.Tensor:
    """Integers from low to high - 1."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def special(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Numbers at which functions go wrong, 27 of them."""
    positive = [0.0, 1e-30, 1e-8, 1e-4, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 3.0, 20.5, 88.0, math.inf]
    return torch.tensor([*positive, *(-number for number in positive[1:]), math.nan], dtype=torch.float64).to(dtype)


def with_holes(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with NaN and infinities here and there, some rows without, and one of NaN alone."""
    holed = tensor.clone()
    flat = holed.view(-1)
    flat[3::17] = math.nan
    flat[5::13] = math.inf
    flat[7::11] = -math.inf
    holed[-1] = math.nan
    return holed
