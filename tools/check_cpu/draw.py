"""A `Choice` for the planner that gives every candidate its turn, not only the fast ones."""

from __future__ import annotations

import random
from collections.abc import Sequence

from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.planner.choice import Alternative, Choice

__all__ = ["draw"]


def draw(seed: int) -> Choice:
    """Draws an alternative, and a kernel for each of its stages.

    The draw depends on `seed` and on what there is to choose from, not on what was drawn before: a network gets
    the same kernels alone as among others.
    """

    def choose(alternatives: Sequence[Alternative]) -> tuple[list[tuple[Kernel, str]], int]:
        rng = random.Random(f"{seed} {[[_names(stage.candidates) for stage in stages] for stages in alternatives]}")
        index = rng.randrange(len(alternatives))
        return [(rng.choice(stage.candidates), "drawn") for stage in alternatives[index]], index

    return choose


def _names(candidates: Sequence[Kernel]) -> list[str]:
    return [f"{kernel.algorithm} {kernel.describe()}" for kernel in candidates]
