"""Which of several kernels, or of several ways to run a few groups, is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.planner.groups import Group

__all__ = ["Alternative", "Choice", "Stage", "first_choice"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Candidates for one step, best guess first, and the groups that the step runs."""

    candidates: tuple[Kernel, ...]
    groups: tuple[Group, ...] = ()


Alternative: TypeAlias = "Sequence[Stage]"
"""One way to run some groups: a step from each stage, in order."""

Choice: TypeAlias = "Callable[[Sequence[Alternative]], tuple[list[tuple[Kernel, str]], int]]"
"""Alternatives, best guess first -> for each stage of the one taken its kernel and why, and which one that is."""


def first_choice(alternatives: Sequence[Alternative]) -> tuple[list[tuple[Kernel, str]], int]:
    """The best guess, untested."""
    return [(stage.candidates[0], "") for stage in alternatives[0]], 0
