"""Small functions that lowerings call where torch has no single one.

Each stands alone on torch, so that `to_python` can copy its text into the file it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the usual name, also in the files that to_python writes

__all__ = ["batch_norm", "cond", "dropout_probability", "fixed", "item", "size"]


def batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    tracked: torch.Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
) -> torch.Tensor:
    """As torch.nn.BatchNorm2d: training updates mean, variance and the number of batches tracked in place.

    `momentum` None averages over all batches so far.
    """
    if training and tracked is not None:
        tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(tracked)
    return F.batch_norm(x, mean, variance, weight, bias, training or mean is None, 0.0 if momentum is None else momentum, eps)


def cond(predicate: torch.Tensor, then: Callable[..., Any], otherwise: Callable[..., Any], operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """Run one of two functions; stays one op under torch.export and torch.compile."""
    if torch.compiler.is_compiling():
        return torch.cond(predicate, then, otherwise, operands)
    return then(*operands) if bool(predicate) else otherwise(*operands)


def dropout_probability(p: float, training: bool) -> float:
    """`p` when training, else 0."""
    return p if training else 0.0


def fixed(name: str, given: Any, value: Any) -> None:
    """Check an argument whose value was fixed when the model was captured."""
    if type(given) is not type(value) or (given != value and given == given):
        raise ValueError(f"argument {name!r} is {given!r}, was fixed to {value!r} at capture")


def item(container: Any, key: Any) -> Any:
    """Part of a structured argument: an item of a sequence or mapping, or an attribute."""
    return getattr(container, key) if isinstance(key, str) and not isinstance(container, Mapping) else container[key]


def size(length: int, offset: int, factor: int) -> int:
    """The dimension n of an axis whose length is factor*n + offset."""
    return (length - offset) // factor
