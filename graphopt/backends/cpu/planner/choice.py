"""Which of several kernels runs a group."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.backends.cpu.kernel import Kernel

__all__ = ["Choice", "first_choice"]

Choice = Callable[[Sequence[Kernel]], tuple[Kernel, str]]
"""Candidates, best guess first -> the one to take and why, for the report."""


def first_choice(candidates: Sequence[Kernel]) -> tuple[Kernel, str]:
    """The best guess, untested."""
    return candidates[0], ""
