"""What axis rules say: links between positions of axes.

    linear(%x: f32[8,196,768], %w: f32[3072,768], %b: f32[3072])
      Tie(x axis 0, result axis 0)    Tie(x axis 1, result axis 1)
      Tie(x axis 2, w axis 1)         Sums(x axis 2)     Weight(w axis 1, read)
      Tie(w axis 0, result axis 2)    Tie(b axis 0, result axis 2)     Weight(w axis 0, written) ...

A rule gives the links of one call as data and knows nothing of the graph around it. An axis that a rule does not
mention can't be cut, so a rule that forgets one is never wrong. Axes of size 1 and of symbolic size can't be cut
anyway; rules may mention them or not.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

__all__ = ["AxisLink", "Choice", "Fix", "Free", "Heads", "Parts", "Place", "Product", "Sums", "Tie", "Weight", "operand", "result"]


class Place(NamedTuple):
    """An axis of an operand (`slot` 0, 1, ...) or of a result (`slot` -1, -2, ...)."""

    slot: int
    axis: int


def operand(index: int, axis: int) -> Place:
    """Axis of operand `index`."""
    return Place(index, axis)


def result(axis: int, index: int = 0) -> Place:
    """Axis of result `index`."""
    return Place(-1 - index, axis)


class Tie(NamedTuple):
    """Position i of one axis stays or goes with position i of the other; both have the same size."""

    left: Place
    right: Place


class Parts(NamedTuple):
    """Each part is a range of `whole`: position i of the part is position `start + i` of the whole.

    Positions of the whole that no part covers are free.
    """

    whole: Place
    parts: tuple[tuple[Place, int], ...]


class Product(NamedTuple):
    """Axes whose positions are numbers written in digits, one digit of which is `live`.

    `digits` are the sizes; `members` are axes with the digits that make their positions, the most significant
    first. Positions with equal live digit go together, over all members that have it. Members without it can't be cut.
    """

    digits: tuple[int, ...]
    members: tuple[tuple[Place, tuple[int, ...]], ...]
    live: int


class Choice(NamedTuple):
    """Exactly one of the alternatives holds; which one is decided by what the rest of the graph allows.

    The first is preferred among equals.
    """

    alternatives: tuple[tuple[Product | Sums, ...], ...]


class Free(NamedTuple):
    """The axis hangs together with no other: it is made by an attribute, or copies of one position."""

    place: Place
    copies: bool = False


class Fix(NamedTuple):
    """The axis can't be cut; `reason` follows the words "because the op"."""

    place: Place
    reason: str


class Sums(NamedTuple):
    """The op sums over the operand's axis, so that a position of zeros adds nothing.

    With `renormalises` the op also depends on the number of positions or on all of them: a mean, a softmax, a norm.
    """

    place: Place
    renormalises: bool = False


class Weight(NamedTuple):
    """What the axis means when the operand is a state. `role` is a value of `graphopt.analysis.axes.Role`; without
    a link it is "scaled". `word` is what people call it: "rows", "columns", "bias"."""

    place: Place
    role: str
    word: str


class Heads(NamedTuple):
    """The axis counts independent products of activations, such as the heads of an attention."""

    place: Place


AxisLink: TypeAlias = "Tie | Parts | Choice | Free | Fix | Sums | Weight | Heads"
