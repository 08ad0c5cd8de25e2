"""A rule: where it applies (`match`, pure) and what it does there (`rewrite`).

class UnitPoolToInput(Rule[Site]):
    ops = frozenset({"max_pool2d"})

    def match(self, node: Node) -> Site | NoMatch: ...
    def rewrite(self, site: Site, rewriter: Rewriter) -> None: ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from graphopt.ir.graph import Node
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["UNRELATED", "NoMatch", "Rule"]

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class NoMatch:
    """Why a rule leaves a node alone: `NoMatch("stride is (2, 2), needs (1, 1)")`.

    The reason goes into the report, so it states what was found and what is needed.
    """

    reason: str


UNRELATED = NoMatch("")
"""The node has the right op but is not what the rule is about (a multiplication that is not by 1); not reported."""


class Rule(ABC, Generic[S]):
    """One local rewrite. Holds no state: what `match` finds travels to `rewrite` in the site."""

    ops: ClassVar[frozenset[str]]
    """Ops of the nodes that `match` is shown; empty means every node."""

    @abstractmethod
    def match(self, node: Node) -> S | NoMatch:
        """Decide, without changing anything, whether the rule applies at `node`."""

    @abstractmethod
    def rewrite(self, site: S, rewriter: Rewriter) -> None:
        """Apply the rule at a site that `match` returned."""
