"""Equations of `einsum`: `"bhid,bhjd->bhij"`, `"...i,ij->...j"`, `"ii"`.

One letter names one axis. `...` stands for the axes that are not named; they get the labels `...0`,
`...1`, counted from the last, so that operands of different rank broadcast. Without `->` the result has the
ellipsis and then the letters that occur once, in alphabetical order.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from graphopt.ops.registry import Call

__all__ = ["EinsumEquation", "parse_equation"]


@dataclass(frozen=True, slots=True)
class EinsumEquation:
    """Labels of each operand's axes and of the result's."""

    inputs: tuple[tuple[str, ...], ...]
    output: tuple[str, ...]


def parse_equation(call: Call, equation: str, ranks: tuple[int, ...]) -> EinsumEquation:
    """Read an equation for operands of the given ranks.

    Raises:
        TypeInferenceError: the equation is malformed or does not fit the operands.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise call.fail(f'equation "{equation}" has {len(terms)} operands, got {len(ranks)}')
    inputs = tuple(_labels(call, term, rank) for term, rank in zip(terms, ranks, strict=True))
    counts = Counter(label for labels in inputs for label in labels)
    ellipsis = sorted((label for label in counts if label.startswith("...")), key=lambda label: -int(label[3:]))
    if not arrow:
        once = sorted(label for label, count in counts.items() if count == 1 and not label.startswith("..."))
        return EinsumEquation(inputs, (*ellipsis, *once))
    before, dots, after = right.partition("...")
    output = (*before, *(ellipsis if dots else ()), *after)
    for label in output:
        if label not in counts:
            raise call.fail(f"equation \"{equation}\": result label '{label}' is in no operand")
    if len(set(output)) != len(output):
        raise call.fail(f'equation "{equation}" repeats a label in the result')
    return EinsumEquation(inputs, output)


def _labels(call: Call, term: str, rank: int) -> tuple[str, ...]:
    before, dots, after = term.partition("...")
    letters = before + after
    if not all(letter.isalpha() and letter.isascii() for letter in letters):
        raise call.fail(f"equation term '{term}' holds something that is no letter")
    rest = rank - len(letters)
    if rest < 0 or (rest and not dots):
        raise call.fail(f"equation term '{term}' names {len(letters)} axes, the operand has {rank}")
    return (*before, *(f"...{index}" for index in reversed(range(rest))), *after)
