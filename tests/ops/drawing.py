"""Random sizes, types, axes and numbers, from which random calls are made."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from graphopt.ir.types import DType, TensorType

Drawn = tuple[list[Any], dict[str, Any]]
Draw = Callable[[str, random.Random], Drawn]

FLOATS = (DType.f32, DType.f64, DType.bf16, DType.f16)
NUMBERS = (*FLOATS, DType.i64, DType.i32, DType.i16, DType.i8, DType.u8, DType.boolean)


def size(rng: random.Random) -> int:
    """A small size; 0 and 1 come often enough to matter."""
    return rng.choice((0, 1, 1, 2, 2, 3, 3, 4, 5, 6))


def shape(rng: random.Random, rank: int, *, empty: bool = True) -> tuple[int, ...]:
    found = tuple(size(rng) for _ in range(rank))
    return found if empty else tuple(max(dim, 1) for dim in found)


def tensor(rng: random.Random, low: int = 0, high: int = 4, dtypes: tuple[DType, ...] = FLOATS, *, empty: bool = True) -> TensorType:
    return TensorType(rng.choice(dtypes), shape(rng, rng.randint(low, high), empty=empty))


def broadcastable(rng: random.Random, full: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to `full`, or rarely one that does not."""
    cut = rng.randint(0, len(full)) if rng.random() < 0.4 else 0
    kept = tuple(1 if rng.random() < 0.3 else dim for dim in full[cut:])
    return shape(rng, len(kept)) if rng.random() < 0.1 else kept


def number(rng: random.Random) -> Any:
    return rng.choice((True, 2, -1, 0.5, -2.5))


def axis(rng: random.Random, rank: int) -> int:
    return rng.randrange(max(rank, 1))


def boolean(rng: random.Random) -> bool:
    return rng.random() < 0.5
