"""Plain text tables and numbers for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphopt.ir.dims import Dim

__all__ = ["counted", "plain", "scaled", "text_table"]

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def counted(number: int, one: str, several: str = "") -> str:
    """`1 cut`, `2 cuts`, `0 cuts`; `several` where that is not `one` with an s."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def scaled(number: Dim | None, unit: str = "") -> str:
    """`4.09 G`, `25.6 MB` (powers of 1000), an expression as it is, `unknown` for None."""
    if number is None:
        return "unknown"
    if not isinstance(number, int):
        return f"{number} {unit}".rstrip()
    for size, prefix in _PREFIXES:
        if number >= size:
            return f"{number / size:.2f} {prefix}{unit}"
    return f"{number} {unit}".rstrip()


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Lines with aligned columns, two spaces between them; columns in `right` are aligned to the right."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def plain(number: Dim | None) -> int | str | None:
    """A number for JSON: an expression as its text."""
    return number if number is None or isinstance(number, int) else str(number)
