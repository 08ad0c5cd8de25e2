"""Numbers for cases: the same whenever they are drawn."""

from __future__ import annotations

import math

import torch

__all__ = ["draw", "integers", "special", "with_holes"]


_HOLES = ((), (math.nan,), (math.inf,), (-math.inf,), (math.inf, -math.inf))


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
    """A contiguous copy whose lines along the last axis take turns: whole, with a NaN, with an infinity, with one below, with both; the
    last one is NaN alone."""
    holed = tensor.clone(memory_format=torch.contiguous_format)
    lines = holed.view(-1, holed.shape[-1])
    for number, line in enumerate(lines):
        for value in _HOLES[number % len(_HOLES)]:
            line[(number * 7 + (value < 0)) % len(line)] = value
    lines[-1] = math.nan
    return holed
