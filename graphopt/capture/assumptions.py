"""What a trace assumed about sizes whose range torch was left to find, tried at a number of sizes.

    Ne(s27 - 1, 1)          fails at 2 only          the range of s27 begins at 3
    Eq(Mod(s27, 2), 1)      fails at every other     refused: the graph would be wrong there

torch.export checks declared ranges itself, and gives up where its algebra does not suffice; with an open
range it records its assumptions and checks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import sympy
from torch.export import ExportedProgram

__all__ = ["Ranges", "settle_ranges"]

Ranges: TypeAlias = "dict[str, tuple[int, int | None]]"
"""Smallest and largest size by torch's symbol; None is unbounded."""

LARGEST_MINIMUM = 64
"""An assumption that fails at larger sizes is no matter of a smallest size."""


def settle_ranges(program: ExportedProgram, ranges: Ranges, names: Mapping[str, str]) -> str | None:
    """Raise smallest sizes in `ranges` until all assumptions hold; returns one that can't be met that way, as text.

    `names` are the user's names by torch's symbol: symbols of one name have one size. A smallest size of 2,
    with which torch always traces, becomes 1 where the assumptions hold at 1 too.
    """
    guards = _assumptions(program)
    position = 0
    while position < len(guards):
        sizes = _counterexample(guards[position], ranges, names)
        if sizes is None:
            position += 1
            continue
        if len(set(sizes.values())) != 1 or max(sizes.values()) > LARGEST_MINIMUM:
            return f"{guards[position]} does not hold at {', '.join(f'{name} = {size}' for name, size in sizes.items())}"
        for name, size in sizes.items():
            ranges[name] = (size + 1, ranges[name][1])
        position = 0
    for name, (minimum, maximum) in list(ranges.items()):
        at_one = {**ranges, name: (1, 1)}
        if minimum == 2 and all(_counterexample(guard, at_one, names) is None for guard in guards if name in _symbols(guard)):
            ranges[name] = (1, maximum)
    return None


def _assumptions(program: ExportedProgram) -> list[Any]:
    for node in program.graph.nodes:
        fake_mode: Any = getattr(node.meta.get("val"), "fake_mode", None)
        if fake_mode is not None and fake_mode.shape_env is not None:
            return list(dict.fromkeys(guard.expr for guard in fake_mode.shape_env.guards))
    return []


def _symbols(guard: Any) -> list[str]:
    return sorted(str(symbol) for symbol in guard.free_symbols)


def _counterexample(guard: Any, ranges: Ranges, names: Mapping[str, str]) -> dict[str, int] | None:
    """Sizes in the ranges at which an assumption fails."""
    groups: dict[str, list[str]] = {}
    for symbol in _symbols(guard):
        groups.setdefault(names.get(symbol, symbol), []).append(symbol)
    choices: list[dict[str, int]] = [{}]
    for symbols in groups.values():
        sizes = _sizes([ranges.get(symbol, (0, None)) for symbol in symbols])
        choices = [{**choice, **dict.fromkeys(symbols, size)} for choice in choices for size in sizes][:4096]
    return next((sizes for sizes in choices if not _holds(guard, sizes)), None)


def _sizes(ranges: Sequence[tuple[int, int | None]]) -> list[int]:
    """Small sizes, odd and even ones, and large ones."""
    minimum = max(low for low, _ in ranges)
    wanted = {minimum + step for step in (0, 1, 2, 3, 5)} | {16, 17, 97, 224, 1031}
    return sorted(size for size in wanted if all(low <= size and (high is None or size <= high) for low, high in ranges))


def _holds(guard: Any, sizes: Mapping[str, int]) -> bool:
    return bool(guard.xreplace({symbol: sympy.Integer(sizes[str(symbol)]) for symbol in guard.free_symbols}) == sympy.true)
