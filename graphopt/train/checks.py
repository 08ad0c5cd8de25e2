"""What callers may give to optimizers, schedules and recoveries: kinds of numbers, patterns and parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real

import torch

from graphopt.errors import UsageError

__all__ = ["check_kind", "check_optimised", "is_real", "is_whole", "shown"]


def is_real(number: object) -> bool:
    """True for a finite number, of numpy too."""
    return not isinstance(number, bool) and isinstance(number, Real) and math.isfinite(number)


def is_whole(number: object) -> bool:
    """True for a whole number, of numpy too."""
    return not isinstance(number, bool) and isinstance(number, Integral)


def shown(number: object) -> str:
    """A number for a message, or what is none."""
    return f"{number:g}" if isinstance(number, int | float) else repr(number)


def check_kind(name: str, value: object, *kinds: type, examples: str) -> None:
    """Refuse a pattern of another kind, or a text: it would mean no pattern, or fail at the first step.

    Raises:
        UsageError: with `examples` of what is meant.
    """
    if not isinstance(value, kinds):
        raise UsageError(f"{name} is {value!r}, needs {' or '.join(kind.__name__ for kind in kinds)}", fix=f"{name}={examples}")


def check_optimised(given: Iterable[object], known: Iterable[torch.Tensor]) -> None:
    """Refuse what is none of an optimizer's parameters.

    Raises:
        UsageError: one is another tensor, or no tensor, as a name.
    """
    mine = {id(parameter) for parameter in known}
    for parameter in given:
        if not isinstance(parameter, torch.Tensor):
            raise UsageError(
                f"parameters has a {type(parameter).__name__}, needs the tensors themselves", fix="parameters=[module.layer.weight]"
            )
        if id(parameter) not in mine:
            raise UsageError(
                f"a parameter of shape {list(parameter.shape)} is not optimised by the optimizer of the schedule",
                fix="give the parameters themselves that the optimizer got, no copies",
            )
