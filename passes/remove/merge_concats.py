"""Merge concats, and forward what is taken apart and put together again.

    concat(concat(%a, %b), %c) along one axis        -> concat(%a, %b, %c)
    concat of all results of one split, in order     -> the split's input
    concat of neighbouring slices of one value       -> one slice, or the value itself

    %l: f32[2] = slice(%x) {axis=0, start=0, step=1, stop=2}
    %r: f32[3] = slice(%x) {axis=0, start=2, step=1, stop=5}
    %y: f32[5] = concat(%l, %r) {axis=0}       where %x: f32[5]
    -> every use of %y becomes %x

Numeric class: exact. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Operand, Value
from graphopt.passes.remove.common import Forward, LocalRule, Remake, dim_of, dims_of, int_of, producer_of, sole_producer
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["MergeConcats"]


class ConcatOfConcat(LocalRule):
    """Put all pieces together at once."""

    ops = frozenset({"concat"})

    def match(self, node: Node) -> Remake | NoMatch:
        """A piece is a concat along the same axis that nobody else reads."""
        pieces: list[Operand] = []
        shared = False
        for operand in node.operands:
            inner = producer_of(operand, "concat")
            if inner is None or inner.attrs["axis"] != node.attrs["axis"]:
                pieces.append(operand)
            elif sole_producer(operand) is None or inner.result.type.dtype is not node.result.type.dtype:
                shared = True
                pieces.append(operand)
            else:
                pieces += inner.operands
        if len(pieces) == len(node.operands):
            return NoMatch("the concat inside has other readers, so both would stay") if shared else UNRELATED
        return Remake(node, "concat", tuple(pieces), node.attrs)


@dataclass(frozen=True, slots=True)
class _Run:
    """Positions [start, stop) of `x` along the concat's axis."""

    x: Value
    start: Dim
    stop: Dim


def _run_of(piece: Operand, axis: int) -> _Run | None:
    """Where a piece was cut from, None when it was not cut from anything along this axis."""
    node = producer_of(piece, "slice", "split")
    if node is None or not isinstance(piece, Value) or node.attrs["axis"] != axis:
        return None
    if node.op == "slice":
        return _Run(node.value(0), dim_of(node.attrs["start"]), dim_of(node.attrs["stop"])) if node.attrs["step"] == 1 else None
    start: Dim = 0
    sizes = dims_of(node.attrs["sizes"])
    for size in sizes[: piece.index]:
        start = start + size
    return _Run(node.value(0), start, start + sizes[piece.index])


class ConcatOfNeighbours(LocalRule):
    """Put neighbouring cuts of one value back together."""

    ops = frozenset({"concat"})

    def match(self, node: Node) -> Forward | Remake | NoMatch:
        """Two or more pieces in a row were cut from one value at places that touch."""
        axis = int_of(node.attrs["axis"])
        runs = [_run_of(piece, axis) for piece in node.operands]
        if len(runs) < 2 or any(run is None for run in runs):
            return UNRELATED
        known = [run for run in runs if run is not None]
        x = known[0].x
        if any(run.x is not x for run in known):
            return UNRELATED
        for before, after in pairwise(known):
            if before.stop != after.start:
                return NoMatch(f"pieces of %{x.name} end at {before.stop} and start at {after.start}, needs the same place")
        start, stop = known[0].start, known[-1].stop
        if start == 0 and stop == x.shape[axis]:
            return Forward(node, x)
        return Remake(node, "slice", (x,), {"axis": axis, "start": start, "stop": stop, "step": 1})


@dataclass(frozen=True)
class MergeConcats(RulePass):
    """One concat for nested ones, none for what was just cut."""

    name = "merge-concats"
    numeric = NumericClass.EXACT
    rules = (ConcatOfNeighbours(), ConcatOfConcat())
