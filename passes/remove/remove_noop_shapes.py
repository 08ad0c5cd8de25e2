"""Remove shape operations that do not change anything.

    reshape to the same shape       permute in the same order      expand to the same shape
    slice of everything             concat of one piece            concat with empty pieces (they are left out)
    pad by nothing                  tile once                      roll by a multiple of the size
    flip of axes of size 1          split into one piece           amax/amin over axes of size 1 (-> reshape)

    %y: f32[2,8] = reshape(%x) {shape=(2, 8)}          where %x: f32[2,8]
    -> every use of %y becomes %x

Sums and means over axes of size 1 stay: they turn -0.0 into 0.0.

Numeric class: exact. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node, Value
from graphopt.passes.remove.common import Forward, LocalRule, Remake, forward, int_of, ints_of, tuple_of
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rule import UNRELATED, NoMatch

__all__ = ["RemoveNoopShapes"]


def _is_multiple(shift: object, size: object) -> bool:
    """True when rolling by `shift` brings an axis of this size back to where it was."""
    if shift == 0 or size == 1:
        return True
    return isinstance(shift, int) and isinstance(size, int) and size > 0 and shift % size == 0


def _changes_nothing(node: Node, x: Value) -> bool:
    """True when a node with one tensor operand returns it as it is."""
    attrs = node.attrs
    match node.op:
        case "reshape" | "expand":
            return x.shape == node.result.shape
        case "permute":
            return ints_of(attrs["axes"]) == tuple(range(x.type.rank))
        case "slice":
            return attrs["start"] == 0 and attrs["step"] == 1 and attrs["stop"] == x.shape[int_of(attrs["axis"])]
        case "pad":
            return all(side == 0 for pair in tuple_of(attrs["pads"]) for side in tuple_of(pair))
        case "tile":
            return all(repeat == 1 for repeat in tuple_of(attrs["repeats"]))
        case "roll":
            axes = ints_of(attrs["axes"])
            sizes = [x.shape[axis] for axis in axes] if axes else [x.type.elements]
            return all(_is_multiple(shift, size) for shift, size in zip(tuple_of(attrs["shifts"]), sizes, strict=True))
        case "flip":
            return all(x.shape[axis] == 1 for axis in ints_of(attrs["axes"]))
        case "split":
            return len(node.results) == 1
        case _:
            return False


class NoopToInput(LocalRule):
    """Forward the input of a shape operation that returns it unchanged."""

    ops = frozenset({"reshape", "expand", "permute", "slice", "pad", "tile", "roll", "flip", "split"})

    def match(self, node: Node) -> Forward | NoMatch:
        """The attributes say that every element stays where it is."""
        x = node.operands[0]
        if not isinstance(x, Value) or not _changes_nothing(node, x):
            return UNRELATED
        return forward(node, x)


class ConcatWithoutEmptyPieces(LocalRule):
    """Leave pieces of size zero out of a concat, and forward its piece when only one is left."""

    ops = frozenset({"concat"})

    def match(self, node: Node) -> Forward | Remake | NoMatch:
        """Some piece is empty, or there is only one."""
        axis = int_of(node.attrs["axis"])
        pieces = [piece for piece in node.operands if isinstance(piece, Value)]
        kept = [piece for piece in pieces if piece.shape != (0,) and (piece.type.rank <= axis or piece.shape[axis] != 0)] or pieces[:1]
        if len(kept) == 1:
            return forward(node, kept[0])
        if len(kept) == len(node.operands):
            return UNRELATED
        if any(piece.type.dtype != node.result.type.dtype for piece in kept):
            return NoMatch(f"pieces have several dtypes, and an empty one takes part in choosing {node.result.type.dtype.text}")
        return Remake(node, "concat", tuple(kept), node.attrs)


class ExtremumOfOneToReshape(LocalRule):
    """The largest of one element is that element."""

    ops = frozenset({"amax", "amin"})

    def match(self, node: Node) -> Remake | NoMatch:
        """Every reduced axis has size 1."""
        x = node.value(0)
        axes = ints_of(node.attrs["axes"])
        if not all(x.shape[axis] == 1 for axis in axes):
            return UNRELATED
        return Remake(node, "reshape", (x,), {"shape": node.result.shape})


@dataclass(frozen=True)
class RemoveNoopShapes(RulePass):
    """Drop reshapes, permutes, slices, concats, pads, ... that move no element."""

    name = "remove-noop-shapes"
    numeric = NumericClass.EXACT
    rules = (NoopToInput(), ConcatWithoutEmptyPieces(), ExtremumOfOneToReshape())
