"""What the report says about a network that was chosen: the goals, and every group that got narrower."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.passes.shrink.budgets.choices import Choice
from graphopt.passes.shrink.budgets.goals import Goal
from graphopt.passes.shrink.budgets.search import Curve

__all__ = ["decisions", "goal_note"]


def goal_note(name: str, fraction: float, limit: float, milliseconds: tuple[float, float] | None, device: str) -> str:
    """`latency: 0.58 of the original remains, 0.6 asked for; fastest run 1.210 -> 0.702 ms on onnxruntime, 1 thread`."""
    text = f"{name}: {fraction:.4g} of the original remains, {limit:g} asked for"
    if milliseconds is None:
        return text
    before, after = milliseconds
    return f"{text}; fastest run {before:.3f} -> {after:.3f} ms on {device}"


def decisions(choices: Sequence[Choice], curves: Sequence[Curve], widths: Sequence[int], goals: Sequence[Goal], what: str) -> list[str]:
    """A line for each group that gets narrower; `goals` are at `widths`, `what` is the unit of the curves' errors."""
    notes: list[str] = []
    for index, (choice, curve, width) in enumerate(zip(choices, curves, widths, strict=True)):
        if width < choice.group.size:
            saved = ", ".join(f"{_given_back(goal, index):.1%} of {goal.name}" for goal in goals)
            kind = choice.group.kind
            notes.append(f"{choice.group.name}: {choice.group.size} -> {width} {kind} units, {what} {curve.at(width):.3g}, saves {saved}")
    return notes


def _given_back(goal: Goal, index: int) -> float:
    """What the original's fraction of a goal would rise by if a group were whole again."""
    width, before = goal.widths[index], goal.fraction()
    goal.move(index, goal.sizes[index])
    after = goal.fraction()
    goal.move(index, width)
    return after - before
