"""Merge slices of slices and take pieces from where they came.

    %a: f32[8] = slice(%x) {axis=0, start=2, step=1, stop=10}
    %b: f32[3] = slice(%a) {axis=0, start=1, step=1, stop=4}
    -> %b = slice(%x) {axis=0, start=3, step=1, stop=6}

    select(slice(%x))                          -> select(%x) at the summed index
    slice or select inside one piece of concat -> slice or select of that piece, or the piece itself
    slice of one result of split               -> slice of the split's input
    split(concat(%a, %b)) at the same places   -> %a, %b

Numeric class: exact. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Operand, Value
from graphopt.passes.remove.common import Forward, LocalRule, Remake, dim_of, dims_of, int_of, producer_of
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

__all__ = ["MergeSlices"]


def _window(node: Node) -> tuple[Dim, Dim, int]:
    """First position, position after the last, and step of a slice or select."""
    if node.op == "select":
        index = dim_of(node.attrs["index"])
        return index, index + 1, 1
    return dim_of(node.attrs["start"]), dim_of(node.attrs["stop"]), int_of(node.attrs["step"])


def _moved(node: Node, x: Value, start: Dim, stop: Dim, step: int) -> Remake:
    """The slice or select `node`, taken from `x` at other positions."""
    attrs: dict[str, Attribute] = {"axis": node.attrs["axis"]}
    attrs |= {"index": start} if node.op == "select" else {"start": start, "stop": stop, "step": step}
    return Remake(node, node.op, (x,), attrs)


class SliceOfSlice(LocalRule):
    """Add up the offsets."""

    ops = frozenset({"slice", "select"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The producer is a slice of the same axis."""
        inner = producer_of(node.operands[0], "slice")
        if inner is None or inner.attrs["axis"] != node.attrs["axis"]:
            return UNRELATED
        base, _, stride = _window(inner)
        start, stop, step = _window(node)
        length: Dim = 1 if node.op == "select" else node.result.shape[int_of(node.attrs["axis"])]
        first = base + start * stride
        # The end is right behind the last element, except that nothing taken ends where it starts.
        last = first + (stop - start) * stride if step == 1 and stride == 1 else first + (length - 1) * (step * stride) + 1
        return _moved(node, inner.value(0), first, first if length == 0 else last, step * stride)


class SliceOfSplit(LocalRule):
    """Slice what was split."""

    ops = frozenset({"slice", "select"})

    def match(self, node: Node) -> Remake | NoMatch:
        """The producer is a split along the same axis."""
        inner = producer_of(node.operands[0], "split")
        if inner is None or inner.attrs["axis"] != node.attrs["axis"]:
            return UNRELATED
        offset: Dim = 0
        for size in dims_of(inner.attrs["sizes"])[: node.value(0).index]:
            offset = offset + size
        start, stop, step = _window(node)
        return _moved(node, inner.value(0), offset + start, offset + stop, step)


class SliceOfConcat(LocalRule):
    """Slice the one piece that holds everything that is taken."""

    ops = frozenset({"slice", "select"})

    def match(self, node: Node) -> Forward | Remake | NoMatch:
        """Start and stop lie in one piece of a concat along the same axis."""
        inner = producer_of(node.operands[0], "concat")
        if inner is None or inner.attrs["axis"] != node.attrs["axis"]:
            return UNRELATED
        axis = int_of(node.attrs["axis"])
        start, stop, step = _window(node)
        offset: Dim = 0
        for piece in (item for item in inner.operands if isinstance(item, Value)):
            if piece.type.rank <= axis:
                continue
            end = offset + piece.shape[axis]
            if piece.type.dtype is node.result.type.dtype and _within(offset, start, stop, end):
                if node.op == "slice" and start == offset and stop == end and step == 1:
                    return Forward(node, piece)
                return _moved(node, piece, start - offset, stop - offset, step)
            offset = end
        return NoMatch(f"takes [{start}, {stop}) of a concat, which is not known to lie in one piece of the same dtype")


def _within(offset: Dim, start: Dim, stop: Dim, end: Dim) -> bool:
    """True when [start, stop) is known to lie in [offset, end)."""
    low, high = start - offset, end - stop
    return isinstance(low, int) and isinstance(high, int) and low >= 0 and high >= 0


@dataclass(frozen=True, slots=True)
class _Pieces:
    split: Node
    pieces: tuple[Operand, ...]


class SplitOfConcat(Rule[_Pieces]):
    """Read the pieces before they were put together."""

    ops = frozenset({"split"})

    def match(self, node: Node) -> _Pieces | NoMatch:
        """A concat along the same axis has pieces of the same sizes."""
        inner = producer_of(node.operands[0], "concat")
        if inner is None or inner.attrs["axis"] != node.attrs["axis"]:
            return UNRELATED
        types = [item.type for item in inner.operands if isinstance(item, Value)]
        if [(t.dtype, t.shape) for t in types] != [(r.type.dtype, r.type.shape) for r in node.results]:
            return NoMatch(f"splits into {node.attrs['sizes']} a concat of {', '.join(t.text for t in types)}, needs the same pieces")
        return _Pieces(node, inner.operands)

    def rewrite(self, site: _Pieces, rewriter: Rewriter) -> None:
        """Forward each piece."""
        concat = site.split.value(0).producer
        rewriter.replace(site.split, *site.pieces)
        rewriter.erase_unused(concat)


@dataclass(frozen=True)
class MergeSlices(RulePass):
    """One slice for a chain of slices, and none around a concat that is taken apart again."""

    name = "merge-slices"
    numeric = NumericClass.EXACT
    rules = (SliceOfSlice(), SliceOfSplit(), SliceOfConcat(), SplitOfConcat())
