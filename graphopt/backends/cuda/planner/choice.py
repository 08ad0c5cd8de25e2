"""Which of several ways to run a group is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from graphopt.backends.cuda.kernel import Work
from graphopt.backends.cuda.storage import Storage

__all__ = ["Choice", "Way", "first_choice"]


@dataclass(frozen=True, slots=True)
class Way:
    """Steps in order, and where the group's result is afterwards, in the shape of the anchor's result.

    `patterns` makes the numbers of state buffers that decide how much work there is, such as where the blocks of a sparse weight lie;
    only who times ways calls it.
    """

    works: tuple[Work, ...]
    result: Storage
    name: str
    patterns: Callable[[], Mapping[str, torch.Tensor]] = field(default=dict[str, torch.Tensor], compare=False)


Choice: TypeAlias = "Callable[[Sequence[Way]], tuple[int, str]]"
"""Ways to run a group, the default first -> which one, and why, for people."""


def first_choice(ways: Sequence[Way]) -> tuple[int, str]:
    """The default, untested."""
    return 0, ""
