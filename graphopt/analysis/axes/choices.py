"""Decides which digit of each reshape is live, and how grouped ops are cut.

    %r: f32[1,197,12,64] = reshape(%q: f32[1,197,768])      heads="whole": the 12 is live, so the axis of size 64 is fixed

What is fixed elsewhere comes first: a digit that ends in a fixed axis can't be live. Then, in execution order, what
is left open is decided by preference: no copies of one position; heads where heads are to be cut, features where not;
the digit with more positions. Every decision fixes other axes, which may decide other choices.

Preferences look at one choice alone. Where they couple so much that all positions of an axis go together, `decide` is
asked again with the second best alternative of the choices around that axis.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from graphopt.analysis.axes.bundles import Bundles, Open, Reason
from graphopt.ops.axes.links import Product, Sums

__all__ = ["Decisions", "Heads", "decide"]

Heads: TypeAlias = Literal["whole", "inside"]


@dataclass(slots=True)
class Decisions:
    """`kinds`: "head" or "feature", of bundles that are digits of an attention's axis. `preferred`: indices of the
    choices that preference decided, and not by what heads are, with the bundles of their members."""

    kinds: dict[int, str] = field(default_factory=dict[int, str])
    preferred: dict[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])


def decide(bundles: Bundles, heads: Heads, second_best: Collection[int] = ()) -> Decisions:
    """Choose an alternative of every open choice and fix the axes that it rules out.

    Choices with an index in `second_best` get the alternative that is preferred next.
    """
    return _Decision(bundles, heads, frozenset(second_best)).run()


class _Decision:
    def __init__(self, bundles: Bundles, heads: Heads, second_best: frozenset[int]) -> None:
        self._bundles = bundles
        self._heads = heads
        self._second_best = second_best
        self._decisions = Decisions()
        self._choices_of: dict[int, list[int]] = {}
        self._parts_of: dict[int, list[int]] = {}
        self._queue: list[int] = []
        for index, choice in enumerate(bundles.open):
            for number in dict.fromkeys(choice.numbers.values()):
                self._choices_of.setdefault(bundles.find(number), []).append(index)
        for index, (whole, parts) in enumerate(bundles.parts):
            for number in dict.fromkeys((whole, *(part for part, _ in parts))):
                self._parts_of.setdefault(bundles.find(number), []).append(index)
        self._head_roots = {bundles.find(number) for number in bundles.heads}
        self._copy_roots = {bundles.find(number) for number in bundles.copies}

    def run(self) -> Decisions:
        for index in range(len(self._bundles.parts)):
            self._look_at_parts(index)
        for index in range(len(self._bundles.open)):
            self._look_at(index)
        self._settle()
        self._spread_heads()
        order = sorted(range(len(self._bundles.open)), key=lambda index: not self._has_heads(self._bundles.open[index]))
        for index in order:
            choice = self._bundles.open[index]
            if choice.chosen < 0:
                self._choose(choice, self._preferred(index, choice))
                self._settle()
        for choice in self._bundles.open:
            self._name_kinds(choice)
        return self._decisions

    def _settle(self) -> None:
        """Follow what was fixed until nothing more is."""
        while self._queue:
            root = self._queue.pop()
            for index in self._parts_of.get(root, ()):
                self._look_at_parts(index)
            for index in self._choices_of.get(root, ()):
                self._look_at(index)

    def _fix(self, number: int, reason: Reason) -> None:
        root = self._bundles.find(number)
        if self._bundles.reasons[root] is None:
            self._bundles.reasons[root] = reason
            self._queue.append(root)

    def _look_at_parts(self, index: int) -> None:
        """A range of a fixed axis is fixed; an axis is fixed when ranges that cover it are."""
        whole, parts = self._bundles.parts[index]
        reason = self._bundles.reason(whole)
        if reason is not None:
            for part, _ in parts:
                self._fix(part, reason)
            return
        reasons = [self._bundles.reason(part) for part, _ in parts]
        covered = sum(self._bundles.sizes[part] for part, _ in parts)
        if covered == self._bundles.sizes[whole] and all(reason is not None for reason in reasons):
            _, largest = max((self._bundles.sizes[part], -index) for index, (part, _) in enumerate(parts))
            reason = reasons[-largest]
            assert reason is not None, "all parts are fixed"
            self._fix(whole, reason)

    def _look_at(self, index: int) -> None:
        """Decide where only one alternative is possible; carry on what was decided."""
        choice = self._bundles.open[index]
        if choice.chosen >= 0:
            self._apply(choice)
            return
        possible = [number for number in range(len(choice.alternatives)) if self._is_possible(choice, number)]
        if len(possible) < 2:
            self._choose(choice, possible[0] if possible else 0)

    def _blocked(self, choice: Open, product: Product) -> Reason | None:
        """Why a product's live digit can't be cut."""
        if product.digits[product.live] < 2:
            return Reason(f"{choice.node.op} %{choice.node.name} has one position of it in each group", choice.node.name)
        for place, digits in product.members:
            if product.live in digits:
                reason = self._bundles.reason(choice.numbers[place])
                if reason is not None:
                    return reason
        return None

    def _is_possible(self, choice: Open, number: int) -> bool:
        products = (part for part in choice.alternatives[number] if isinstance(part, Product))
        return any(self._blocked(choice, product) is None for product in products)

    def _choose(self, choice: Open, number: int) -> None:
        choice.chosen = number
        for part in choice.alternatives[number]:
            if isinstance(part, Sums) and part.renormalises:
                self._bundles.renormalised.append((choice.numbers[part.place], choice.node))
        self._apply(choice)

    def _apply(self, choice: Open) -> None:
        """Fix the members of a chosen alternative that can't be cut."""
        for part in choice.alternatives[choice.chosen]:
            if not isinstance(part, Product):
                continue
            reason = self._blocked(choice, part)
            text = " x ".join(str(size) for size in part.digits)
            stays = Reason(
                f"{choice.node.op} %{choice.node.name} writes it as {text}, cut along the {part.digits[part.live]}", choice.node.name
            )
            for place, digits in part.members:
                if reason is not None:
                    self._fix(choice.numbers[place], reason)
                elif part.live not in digits:
                    self._fix(choice.numbers[place], stays)

    # Preferences

    def _pure(self, choice: Open, product: Product) -> list[int]:
        """Bundles of the members that are the live digit, alone or beside digits that can't be cut: batch x heads."""
        dead = {
            part.live
            for alternative in choice.alternatives
            for part in alternative
            if len(alternative) == 1 and isinstance(part, Product) and self._blocked(choice, part) is not None
        }
        dead.discard(product.live)
        return [
            self._bundles.find(choice.numbers[place])
            for place, digits in product.members
            if product.live in digits and all(digit == product.live or digit in dead for digit in digits)
        ]

    def _spread_heads(self) -> None:
        """What heads are written in counts heads as well: batch and heads merged for a batched product, and its digits."""
        queue = list(range(len(self._bundles.open)))
        while queue:
            choice = self._bundles.open[queue.pop()]
            for part in (part for alternative in choice.alternatives for part in alternative if isinstance(part, Product)):
                live = (self._bundles.find(choice.numbers[place]) for place, digits in part.members if part.live in digits)
                if not self._head_roots.isdisjoint(live):
                    fresh = set(self._pure(choice, part)) - self._head_roots
                    self._head_roots |= fresh
                    queue += (index for root in fresh for index in self._choices_of[root])

    def _has_heads(self, choice: Open) -> bool:
        return any(
            not self._head_roots.isdisjoint(self._pure(choice, part))
            for alternative in choice.alternatives
            for part in alternative
            if isinstance(part, Product)
        )

    def _preferred(self, index: int, choice: Open) -> int:
        ranked: list[tuple[tuple[bool, bool, int], int]] = []
        for number, alternative in enumerate(choice.alternatives):
            products = [part for part in alternative if isinstance(part, Product) and self._blocked(choice, part) is None]
            if not products:
                continue
            pure = self._pure(choice, products[0])
            is_head = not self._head_roots.isdisjoint(pure)
            copies = not self._copy_roots.isdisjoint(pure)
            wanted = is_head if self._heads == "whole" else not is_head
            key = (not copies, wanted, max(product.digits[product.live] for product in products))
            ranked.append((key, -number))
        ranked.sort(reverse=True)
        if not self._has_heads(choice):
            roots = {self._bundles.find(number) for number in choice.numbers.values()}
            self._decisions.preferred[index] = tuple(roots)
        return -ranked[min(index in self._second_best, len(ranked) - 1)][1]

    def _name_kinds(self, choice: Open) -> None:
        """Remember which bundles are heads, or features inside heads."""
        if not self._has_heads(choice):
            return
        for part in choice.alternatives[choice.chosen]:
            if isinstance(part, Product) and self._blocked(choice, part) is None:
                pure = self._pure(choice, part)
                kind = "feature" if self._head_roots.isdisjoint(pure) else "head"
                for root in pure:
                    self._decisions.kinds.setdefault(root, kind)
