"""Attributes that hold sizes or positions, and what they become when axes are cut.

    %y: f32[1,8,8] = reshape(%x) {shape=(1, 8, 8)}   axis 1 keeps 5 of 8   ->   {shape=(1, 5, 8)}

One row per op of the table `RULES`; an op without a row has no such attribute. A rule gets a `Site` and gives the
attributes that change. Where no attribute says the same of what is left, it raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy

from graphopt.errors import PassError
from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Value
from graphopt.ops import call_of
from graphopt.ops.shape import pad_pairs
from graphopt.rewrite.cut.positions import KeptPositions, Mask

__all__ = ["RULES", "Changes", "Rule", "Site", "fitting_attributes"]

Changes: TypeAlias = "dict[str, Attribute]"
"""New values of those attributes that change."""


@dataclass(frozen=True, slots=True)
class Site:
    """A node whose operands or results lose positions."""

    node: Node
    kept: KeptPositions

    @property
    def attrs(self) -> Mapping[str, Attribute]:
        """The attributes as they are."""
        return self.node.attrs

    def mask(self, axis: int, operand: int = 0) -> Mask | None:
        """What stays of an axis of an operand."""
        value = self.node.operands[operand]
        return self.kept.mask(value, axis) if isinstance(value, Value) else None

    def fail(self, what: str) -> PassError:
        """Why the node can't be cut like this."""
        return PassError(what, where=repr(self.node), fix=f"exclude the groups that %{self.node.name} belongs to")


Rule: TypeAlias = Callable[[Site], Changes]


def fitting_attributes(node: Node, kept: KeptPositions) -> Changes:
    """What the attributes of a node have to become; empty where none changes.

    Raises:
        PassError: no attributes fit.
    """
    rule = RULES.get(node.op)
    if rule is None or not any(isinstance(value, Value) and value in kept for value in (*node.operands, *node.results)):
        return {}
    found = rule(Site(node, kept))
    return {name: value for name, value in found.items() if value != node.attrs[name]}


# Rules that are the same for many ops


def _result_sizes(name: str) -> Rule:
    """The attribute holds the size of each axis of the result."""
    return lambda site: {name: site.kept.shape(site.node.results[0])}


def _last_sizes(name: str) -> Rule:
    """The attribute holds the sizes of the last axes of operand 0."""

    def rule(site: Site) -> Changes:
        count = len(call_of(site.node).dims(name))
        return {name: site.kept.shape(site.node.value(0))[-count:]}

    return rule


def _groups(axis_of_channels: Callable[[Node], int]) -> Rule:
    """The attribute `groups` counts blocks of channels: blocks that are gone do not count any more."""

    def rule(site: Site) -> Changes:
        groups, axis = call_of(site.node).integer("groups"), axis_of_channels(site.node)
        masks = [mask for mask in (site.mask(axis), site.kept.mask(site.node.results[0], axis)) if mask is not None]
        if groups == 1 or not masks:
            return {}
        for left in (mask.reshape(groups, -1).sum(axis=1) for mask in masks):
            sizes = numpy.unique(left[left > 0])
            if len(sizes) != 1:
                between = f"between {sizes.min()} and {sizes.max()}"
                raise site.fail(f"the {groups} groups of {site.node.op} would keep {between} channels, needs equal numbers")
        return {"groups": int(masks[0].reshape(groups, -1).any(axis=1).sum())}

    return rule


# Rules of one op


def _split(site: Site) -> Changes:
    axis = call_of(site.node).integer("axis")
    return {"sizes": tuple(site.kept.shape(result)[axis] for result in site.node.results)}


def _slice(site: Site) -> Changes:
    """start, stop and step name evenly spaced positions; those that stay have to be so again."""
    call = call_of(site.node)
    mask = site.mask(call.integer("axis"))
    if mask is None:
        return {}
    start, stop, step = call.dim("start"), call.dim("stop"), call.integer("step")
    if not isinstance(start, int) or not isinstance(stop, int):
        raise site.fail(f"the slice goes from {start} to {stop} along an axis that is cut, needs numbers")
    if start == stop:  # empty, and stays so
        return {"start": int(mask[:start].sum()), "stop": int(mask[:start].sum())}
    new = _new_positions(mask)
    picked = new[start:stop:step][mask[start:stop:step]]
    spacing = numpy.unique(numpy.diff(picked)) if len(picked) > 1 else numpy.ones(1, dtype=numpy.int64)
    if not len(picked) or len(spacing) != 1:
        raise site.fail(f"the slice of every {step}. position keeps {len(picked)} positions, which are not evenly spaced any more")
    return {"start": int(picked[0]), "stop": int(picked[-1]) + 1, "step": int(spacing[0])}


def _select(site: Site) -> Changes:
    call = call_of(site.node)
    mask, index = site.mask(call.integer("axis")), call.dim("index")
    if mask is None:
        return {}
    if not isinstance(index, int) or not mask[index]:
        raise site.fail(f"position {index} is selected from an axis that loses it")
    return {"index": int(_new_positions(mask)[index])}


def _tile(site: Site) -> Changes:
    """The result is so many times as large as the operand."""
    repeats = call_of(site.node).dims("repeats")
    value, result = site.node.value(0), site.node.results[0]
    offset = len(repeats) - len(value.shape)
    before, after = (1,) * offset + site.kept.shape(value), site.kept.shape(result)
    found: list[Dim] = list(repeats)
    for axis, (small, large) in enumerate(zip(before, after, strict=True)):
        if site.kept.mask(result, axis) is None:
            continue
        if not isinstance(small, int) or not isinstance(large, int) or large % small:
            raise site.fail(f"axis {axis} of the result would keep {large} positions, the operand {small}, which does not divide them")
        found[axis] = large // small
    return {"repeats": tuple(found)}


def _pad(site: Site) -> Changes:
    """Pads are the ends of the result that the operand does not have, or ends of the operand that the result does not have."""
    value, result = site.node.value(0), site.node.results[0]
    pairs: list[Attribute] = []
    for axis, (low, high) in enumerate(pad_pairs(site.attrs["pads"])):
        outer, inner = site.kept.mask(result, axis), site.kept.mask(value, axis)
        if outer is None and inner is None:
            pairs.append((low, high))
            continue
        if not isinstance(low, int) or not isinstance(high, int):
            raise site.fail(f"axis {axis} is cut and padded by ({low}, {high}), needs numbers")
        pairs.append((_pad_left(low, outer, inner), _pad_left(high, _reversed(outer), _reversed(inner))))
    return {"pads": tuple(pairs)}


def _pad_left(pad: int, outer: Mask | None, inner: Mask | None) -> int:
    mask = outer if pad > 0 else inner
    kept = abs(pad) if mask is None else int(mask[: abs(pad)].sum())
    return kept if pad > 0 else -kept


def _reversed(mask: Mask | None) -> Mask | None:
    return None if mask is None else mask[::-1]


def _attention(site: Site) -> Changes:
    """`scale` none is 1 / sqrt(features): with fewer features it would be another number, so it is written out."""
    query = site.node.value(0)
    features = query.shape[-1]
    if site.attrs["scale"] is not None or site.mask(len(query.shape) - 1) is None or not isinstance(features, int):
        return {}
    return {"scale": 1.0 / math.sqrt(features)}


def _counted(site: Site) -> Changes:
    """The result's elements are computed from their positions: only the last ones can go."""
    mask = site.kept.mask(site.node.results[0], 0)
    if mask is None:
        return {}
    count = int(mask.sum())
    call = call_of(site.node)
    start, step = call.attrs["start"], call.attrs["step"]
    if not mask[:count].all() or not isinstance(start, int) or not isinstance(step, int):
        raise site.fail("numbers that count up can only lose the last ones")
    return {"stop": start + count * step}


def _diagonal(site: Site) -> Changes:
    """A unit matrix stays one when rows and columns lose the same positions."""
    rows, columns = (site.kept.mask(site.node.results[0], axis) for axis in (0, 1))
    if rows is None or columns is None or not numpy.array_equal(rows, columns):
        raise site.fail("a unit matrix has to lose the same rows and columns")
    return {"rows": int(rows.sum()), "columns": int(columns.sum())}


def _fixed(attribute: str) -> Rule:
    """The attribute can't be cut along."""

    def rule(site: Site) -> Changes:
        if site.kept.mask(site.node.results[0], 0) is None:
            return {}
        raise site.fail(f"{site.node.op} computes its elements from {attribute} and can't lose single ones")

    return rule


def _new_positions(mask: Mask) -> numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]:
    """For each position that stays: which one it is afterwards."""
    return (numpy.cumsum(mask) - 1).astype(numpy.int64)


def _behind(spatial: int) -> Callable[[Node], int]:
    return lambda node: len(node.value(0).shape) - spatial - 1


RULES: Mapping[str, Rule] = {
    "reshape": _result_sizes("shape"),
    "expand": _result_sizes("shape"),
    "full": _result_sizes("shape"),
    "layer_norm": _last_sizes("normalized_shape"),
    "rms_norm": _last_sizes("normalized_shape"),
    "group_norm": _groups(lambda node: 1),
    **{f"conv{kind}{rank}d": _groups(_behind(rank)) for kind in ("", "_transpose") for rank in (1, 2, 3)},
    "split": _split,
    "slice": _slice,
    "slice_scatter": _slice,
    "select": _select,
    "select_scatter": _select,
    "tile": _tile,
    "pad": _pad,
    "scaled_dot_product_attention": _attention,
    "arange": _counted,
    "linspace": _fixed("start, stop and steps"),
    "eye": _diagonal,
}
"""For each op with attributes that hold sizes or positions: what they become."""
