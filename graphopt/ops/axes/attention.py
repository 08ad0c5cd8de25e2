"""Axis rule of attention: heads are batch axes, features of q and k are summed over, those of v stay."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.ops.axes.links import AxisLink, Choice, Fix, Heads, Place, Product, Sums, Tie, operand, result
from graphopt.ops.registry import Call

__all__ = ["attention_axes"]


def attention_axes(call: Call) -> Iterator[AxisLink]:
    """Keys and values share positions; with `grouped` a head of k and v goes with all heads of q that read it.

    A causal mask compares positions of queries and keys by number.
    """
    ranks = [call.type(index).rank for index in range(3)]
    rank = max(ranks)
    queries, keys, values = (operand(index, ranks[index] - 2) for index in range(3))
    features = operand(0, ranks[0] - 1), operand(1, ranks[1] - 1)
    yield from (Tie(*features), Sums(features[0]), Sums(features[1]))
    yield Tie(operand(2, ranks[2] - 1), result(rank - 1))
    if call.attrs["causal"]:
        yield from (Fix(place, "compares queries and keys by number") for place in (queries, keys, values, result(rank - 2)))
    else:
        yield from (Tie(queries, result(rank - 2)), Tie(keys, values), Sums(keys, renormalises=True), Sums(values))
    mask = call.optional_type(3)
    if mask is not None:
        if mask.rank > 1 and mask.shape[-2] != 1:
            yield Tie(operand(3, mask.rank - 2), queries)
        if mask.rank > 0 and mask.shape[-1] != 1:
            yield from (Tie(operand(3, mask.rank - 1), keys), Sums(operand(3, mask.rank - 1), renormalises=True))
    grouped = call.attrs["grouped"]
    for index in range(3 if mask is None else 4):
        found = call.type(index)
        for axis, dim in enumerate(found.shape[:-2]):
            if dim != 1 and not (grouped and index < 3 and axis == found.rank - 3):
                yield from (Tie(operand(index, axis), result(axis + rank - found.rank)), Heads(operand(index, axis)))
    if grouped:
        yield from _grouped_heads(call, ranks)


def _grouped_heads(call: Call, ranks: list[int]) -> Iterator[AxisLink]:
    """Digits: 0 the head of k and v, 1 the head of q that reads it."""
    heads = [call.type(index).shape[-3] for index in range(3)]
    places: list[Place] = [operand(index, ranks[index] - 3) for index in range(3)]
    whole, shared = heads[0], heads[1]
    if not isinstance(whole, int) or not isinstance(shared, int) or heads[1] != heads[2]:
        yield from (Fix(place, "has other numbers of heads in keys and values") for place in places)
        return
    yield from (Heads(place) for place in places)
    many = ((places[0], (0, 1)), (result(max(ranks) - 3), (0, 1)))
    members = (*many, (places[1], (0,)), (places[2], (0,)))
    yield Choice(((Product((shared, whole // shared), members, 0),),))
