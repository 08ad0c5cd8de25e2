"""How a graph is called: the sizes its dimensions may take, and how flat inputs and outputs are nested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.ir.attributes import Attribute, Ref

__all__ = ["CallStructure", "Range"]


@dataclass(frozen=True, slots=True)
class Range:
    """Sizes that a symbolic dimension may take, both ends included; `maximum` None is unbounded."""

    minimum: int = 0
    maximum: int | None = None

    def __contains__(self, size: int) -> bool:
        return self.minimum <= size and (self.maximum is None or size <= self.maximum)

    def __str__(self) -> str:
        return f"[{self.minimum}, {'inf' if self.maximum is None else self.maximum}]"


@dataclass(frozen=True, slots=True)
class CallStructure:
    """How the flat inputs are handed to `forward` and how the flat outputs come back.

    `args` and `kwargs` hold `Ref(i)` for input i, or literals that were fixed at capture; `returns`
    holds `Ref(i)` for output i. `python` is what capture knows beyond that in this process, the
    classes of the original inputs and outputs (`graphopt.capture.structure`); neither compared nor saved.
    """

    args: tuple[Attribute, ...]
    kwargs: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])
    returns: Attribute = field(default=Ref(0))
    python: object | None = field(default=None, compare=False, repr=False)

    @staticmethod
    def default(inputs: int, outputs: int) -> CallStructure:
        """All inputs positional; one output as itself, several as a tuple."""
        returns: Attribute = Ref(0) if outputs == 1 else tuple(Ref(i) for i in range(outputs))
        return CallStructure(tuple(Ref(i) for i in range(inputs)), {}, returns)
