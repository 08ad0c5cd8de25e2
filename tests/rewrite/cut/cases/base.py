"""What a case of a cut is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Case"]


@dataclass(frozen=True)
class Case:
    """`text` is cut by taking `gone` of the `size` units of a group; `changed` are the lines that become others.

    `members` are (value, axis) where position i is unit i, or (value, axis, unit of each position). Units whose states
    are zero leave the outputs as they are, but where `renormalised`.
    """

    name: str
    text: str
    size: int
    members: Sequence[tuple[str, int] | tuple[str, int, Sequence[int]]]
    gone: tuple[int, ...]
    changed: str
    renormalised: bool = False
