"""What was aimed at, and from the records whether it was reached.

Verdicts of comparisons: `met` and `missed` where the 95 % interval leaves no doubt, `no difference` where it holds 0.
Verdicts of limits: `met` or `missed` by the mean over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tools.bench_quality.scores import p_text
from tools.bench_quality.statistics import Difference

__all__ = ["Finding", "Target", "gap_text", "target_lines", "verdict"]

Board = TypeVar("Board")


@dataclass(frozen=True, slots=True)
class Finding:
    """One case of a target: where, the figures, and `met`, `no difference` or `missed`."""

    task: str
    case: str
    figures: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Target(Generic[Board]):
    """A sentence, and how its cases are found on the board of a task."""

    text: str
    find: Callable[[Board], Iterator[Finding]]

    def findings(self, boards: Sequence[Board]) -> list[Finding]:
        """The cases of all tasks."""
        return [finding for shown in boards for finding in self.find(shown)]


def verdict(gap: Difference) -> str:
    """Is the first better, as far as the interval tells?"""
    if gap.lower > 0:
        return "met"
    return "missed" if gap.upper < 0 else "no difference"


def gap_text(gap: Difference) -> str:
    """`+0.43 [+0.10, +0.76], p 0.010`: points more right, 95 % interval, paired bootstrap."""
    return f"{gap.points:+.2f} [{gap.lower:+.2f}, {gap.upper:+.2f}], p {p_text(gap.p)}"


def target_lines(text: str, findings: Sequence[Finding]) -> list[str]:
    """A target and its cases as Markdown."""
    if not findings:
        return [f"**{text}**: not measured.", ""]
    counts = [f"{sum(found.verdict == word for found in findings)} {word}" for word in ("met", "no difference", "missed")]
    lines = [f"**{text}**: {', '.join(part for part in counts if not part.startswith('0 '))}.", ""]
    lines += ["| task | case | points or speed | |", "|---|---|---|---|"]
    lines += [f"| {found.task} | {found.case} | {found.figures} | {found.verdict} |" for found in findings]
    return [*lines, ""]
