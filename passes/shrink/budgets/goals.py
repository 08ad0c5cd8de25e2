"""What a search works towards: an amount that has to come down to a limit, as a function of the widths of groups.

Amounts are fractions of the original. A goal holds the widths that the search is at; `amount_if` asks what one more
change would make of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence, Set

__all__ = ["Goal"]


class Goal(ABC):
    """One goal. `limit` is what `amount()` has to reach; groups are known by their number."""

    def __init__(self, name: str, limit: float, sizes: Sequence[int]) -> None:
        self.name = name
        self.limit = limit
        self.sizes = tuple(sizes)
        self.widths = list(sizes)

    @abstractmethod
    def amount(self) -> float:
        """The amount at the present widths."""

    @abstractmethod
    def amount_if(self, index: int, width: int) -> float:
        """The amount if one group had another width."""

    @abstractmethod
    def related(self, index: int) -> Set[int]:
        """Groups for which a change of this group changes what their own changes bring; itself included."""

    @abstractmethod
    def fraction(self) -> float:
        """What the user asked about, as a fraction of the original."""

    def move(self, index: int, width: int) -> None:
        """Give a group another width."""
        self.widths[index] = width

    def start(self) -> None:
        """Back to the full widths."""
        for index, size in enumerate(self.sizes):
            if self.widths[index] != size:
                self.move(index, size)

    @property
    def met(self) -> bool:
        """True when the limit is reached."""
        return self.amount() <= self.limit + 1e-12
