"""The choices of a plan, written down, so that the same machine makes the same plan again without measuring.

What is written down names kernels by a hash of their description. Making the plan again lists the candidates
anew and takes the one that has the hash: nothing of a kernel is ever read from a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.plan import Plan
from graphopt.backends.cpu.planner.choice import Alternative

__all__ = ["KEY_DIGITS", "Replay", "ReplayError", "SavedStep", "saved_steps"]

KEY_DIGITS = 16


@dataclass(frozen=True, slots=True)
class SavedStep:
    """The kernel of a step, by hash, and why it was chosen, for people."""

    key: str
    reason: str = ""


class ReplayError(Exception):
    """The candidates are not those of the plan that was written down."""


class Replay:
    """A `Choice` that takes what was chosen before.

    Raises `ReplayError` where no candidates fit: the planner, the kernels or the graph are others.
    """

    def __init__(self, steps: Sequence[SavedStep]) -> None:
        self._steps = tuple(steps)
        self._position = 0

    def __call__(self, alternatives: Sequence[Alternative]) -> tuple[list[tuple[Kernel, str]], int]:
        """The candidates that have the next hashes."""
        for number, alternative in enumerate(alternatives):
            wanted = self._steps[self._position : self._position + len(alternative)]
            if len(wanted) < len(alternative):
                continue
            found: list[tuple[Kernel, str]] = []
            for step, stage in zip(wanted, alternative, strict=True):
                kernel = next((kernel for kernel in stage.candidates if _key(kernel) == step.key), None)
                if kernel is None:
                    break
                found.append((kernel, step.reason))
            else:
                self._position += len(alternative)
                return found, number
        raise ReplayError(f"no candidate for step {self._position}")

    @property
    def finished(self) -> bool:
        """True when every step was taken."""
        return self._position == len(self._steps)


def saved_steps(plans: Sequence[Plan]) -> tuple[SavedStep, ...]:
    """The choices of plans, one after the other."""
    return tuple(SavedStep(_key(step.kernel), step.reason) for plan in plans for step in plan.steps)


def _key(kernel: Kernel) -> str:
    return hashlib.sha256(f"{kernel.algorithm} {kernel!r}".encode()).hexdigest()[:KEY_DIGITS]
