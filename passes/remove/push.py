"""Moves a per-channel affine map up to the layer that made a value, or down to the layers that read it.

    up      affine(reshape(conv(x)))   ->  reshape(conv'(x))
    down    conv(avg_pool(affine(x)))  ->  conv'(avg_pool(x))

In between may stand ops that the map commutes with; each says where a channel goes through it. Up, every
value on the way must have one reader, since it changes; down, every reader must lead to a layer. A plan
says whether it can be done and why not, and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Value
from graphopt.passes.remove.absorb import Derivation, absorb_after, absorb_before, rebuild
from graphopt.passes.remove.channel_affine import ChannelAffine, map_axis
from graphopt.passes.remove.common import int_of, ints_of, tuple_of
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import NoMatch

__all__ = ["Plan", "build_down", "build_up", "plan_down", "plan_up"]

_AVERAGES = frozenset(f"{kind}avg_pool{rank}d" for kind in ("", "adaptive_") for rank in (1, 2, 3))
_SAME_AXES = frozenset({"dropout", "feature_dropout", "resize", "flip", "roll", "pad"}) | _AVERAGES
_RECTIFIERS = frozenset({"relu", "leaky_relu"})
_COMMUTING = _SAME_AXES | _RECTIFIERS | {"reshape", "permute", "mean", "select", "slice"}


@dataclass(frozen=True, slots=True)
class Step:
    """One node to make again; a layer has derivations, an op on the way has none."""

    node: Node
    derivations: tuple[Derivation, ...] | None = None
    spectators: tuple[Node, ...] = ()
    """Readers of other channels, which read the new node too and see no change."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Nodes to make again, each after those that it reads from."""

    steps: tuple[Step, ...]


def plan_up(value: Value, affine: ChannelAffine, *, copy_bytes: int | None = None) -> Plan | NoMatch:
    """How to make `affine(value)` by changing the layers that `value` comes from, or why that can't be."""
    first = _plan_up(value, affine, copy_bytes, factor=0)
    if isinstance(first, NoMatch) and affine.axis is None:
        second = _plan_up(value, affine, copy_bytes, factor=1)
        return first if isinstance(second, NoMatch) else second
    return first


def _plan_up(value: Value, affine: ChannelAffine, copy_bytes: int | None, factor: int) -> Plan | NoMatch:
    steps: list[Step] = []
    pending = [(value, affine)]
    spectators: tuple[Node, ...] = ()
    while pending:
        current, local = pending.pop()
        if current.use_count != 1 + len(spectators):
            return NoMatch(f"%{current.name} has {current.use_count} readers, needs 1")
        node, others = current.producer, spectators
        spectators = ()
        if node is None:
            return NoMatch(f"%{current.name} is not made by a layer")
        shared = _into_part(node, local)
        if shared is not None:
            spectators = shared[1]
            branches: list[tuple[Value, ChannelAffine]] | NoMatch = [(node.value(0), shared[0])]
        elif node.op == "concat":
            branches = _into_concat(node, local)
        elif node.op == "matmul" and local.axis is None and not local.has_shift:
            branches = [(node.value(factor), local)]
        elif node.op in _COMMUTING:
            moved = _through(node, local, upwards=True)
            branches = moved if isinstance(moved, NoMatch) else [(node.value(0), moved)]
        else:
            derivations = absorb_after(node, local, copy_bytes=copy_bytes)
            if isinstance(derivations, NoMatch):
                return derivations
            steps.append(Step(node, derivations, others))
            continue
        if isinstance(branches, NoMatch):
            return branches
        steps.append(Step(node, None, others))
        pending.extend(branches)
    return _checked(steps[::-1])


def plan_down(value: Value, affine: ChannelAffine, *, copy_bytes: int | None = None) -> Plan | NoMatch:
    """How every reader of `value`, which is `affine(x)`, can read x instead, or why that can't be."""
    steps: list[Step] = []
    pending = [(value, affine)]
    while pending:
        current, local = pending.pop()
        uses = current.uses
        if not uses:
            return NoMatch(f"%{current.name} has no reader")
        if len({use.node for use in uses}) != len(uses):
            return NoMatch(f"%{current.name} is read twice by one node")
        for use in uses:
            node = use.node
            if node.is_return:
                return NoMatch(f"%{current.name} is an output")
            if use.index != 0:
                return NoMatch(f"%{node.name} reads %{current.name} as operand {use.index}, needs operand 0")
            if node.op in _COMMUTING:
                moved = _through(node, local, upwards=False)
                if isinstance(moved, NoMatch):
                    return moved
                steps.append(Step(node))
                pending.append((node.result, moved))
                continue
            derivations = absorb_before(node, local, copy_bytes=copy_bytes)
            if isinstance(derivations, NoMatch):
                return derivations
            steps.append(Step(node, derivations))
    return _checked(steps)


def build_up(rewriter: Rewriter, plan: Plan, root: Node) -> None:
    """Make the nodes of a plan again, each before its old one, and put the last in the place of `root`'s result."""
    swap: dict[Value, Value] = {}
    made: Node | None = None
    for step in plan.steps:
        name = None if step is plan.steps[-1] else step.node.name
        made = rebuild(rewriter, step.node, step.derivations or (), swap, before=step.node, name=name)
        swap[step.node.result] = made.result
        for reader in step.spectators:
            rewriter.set_operand(reader, 0, made.result)
    assert made is not None, "a plan has a layer"
    fed = [operand.producer for operand in root.operands if isinstance(operand, Value)]
    rewriter.replace(root, made.result)
    rewriter.erase_unused(*fed)


def build_down(rewriter: Rewriter, plan: Plan, root: Node, x: Value) -> None:
    """Make the readers of `root`'s result, which is the affine map of `x`, read `x` as the plan says."""
    swap: dict[Value, Value] = {root.result: x}
    passed: list[Node] = []
    for step in plan.steps:
        name = step.node.name if step.derivations is None else None
        made = rebuild(rewriter, step.node, step.derivations or (), swap, before=step.node, name=name)
        if step.derivations is None:
            swap[step.node.result] = made.result
            passed.append(step.node)
        else:
            rewriter.replace(step.node, made.result)
    rewriter.erase_unused(root, *passed)


def _checked(steps: list[Step]) -> Plan | NoMatch:
    """The plan, unless a new weight overflows its dtype."""
    for step in steps:
        for derivation in step.derivations or ():
            graph = step.node.graph
            assert graph is not None, "plans are about nodes in a graph"
            reason = derivation.overflow(graph)
            if reason is not None:
                return reason
    return Plan(tuple(steps))


def _into_concat(node: Node, affine: ChannelAffine) -> list[tuple[Value, ChannelAffine]] | NoMatch:
    """The map of each branch of a concat."""
    branches = [operand for operand in node.operands if isinstance(operand, Value)]
    axis = affine.axis
    if axis is None or axis != node.attrs["axis"]:
        return [(branch, affine) for branch in branches]
    parts: list[tuple[Value, ChannelAffine]] = []
    start = 0
    for branch in branches:
        size = branch.shape[axis]
        if not isinstance(size, int):
            return NoMatch(f"%{branch.name} has {size} channels, needs an integer")
        parts.append((branch, affine.part(start, start + size)))
        start += size
    return parts


def _into_part(node: Node, affine: ChannelAffine) -> tuple[ChannelAffine, tuple[Node, ...]] | None:
    """A uniform map of a part of x, as one of the whole x, where the other readers of x take other parts.

    So the scale of the queries goes into a layer that makes queries, keys and values. Returns the map of x and
    the other readers.
    """
    here = _span(node)
    if here is None or affine.axis is not None or node.value(0).use_count == 1:
        return None
    axis, start, stop = here
    size = node.value(0).shape[axis]
    others = tuple(user for user in node.value(0).users if user is not node)
    spans = [_span(user) for user in others]
    if not isinstance(size, int) or len(others) + 1 != node.value(0).use_count:
        return None
    if any(span is None or span[0] != axis or (span[1] < stop and start < span[2]) for span in spans):
        return None
    return affine.within(axis, size, start, stop), others


def _span(node: Node) -> tuple[int, int, int] | None:
    """(axis, start, stop) of what a `select` or `slice` takes; None for other ops and symbolic bounds."""
    if node.op == "select":
        index = int_of(node.attrs["index"])
        return int_of(node.attrs["axis"]), index, index + 1
    if node.op == "slice" and isinstance(node.attrs["start"], int) and isinstance(node.attrs["stop"], int):
        return int_of(node.attrs["axis"]), node.attrs["start"], node.attrs["stop"]
    return None


def _through(node: Node, affine: ChannelAffine, *, upwards: bool) -> ChannelAffine | NoMatch:
    """The map on the other side of an op that it commutes with."""
    graph = node.graph
    assert graph is not None, "rules see nodes that are in a graph"
    if affine.has_shift and (reason := _shift_changes(node)) and not affine.has_zero_shift(graph):
        return NoMatch(reason)
    if node.op in _RECTIFIERS and not affine.has_positive_scale(graph):
        return NoMatch(f"%{node.name} is a {node.op}, needs scales known to be positive")
    if affine.axis is None:
        return affine
    outer, inner = (node.result.shape, node.value(0).shape) if upwards else (node.value(0).shape, node.result.shape)
    found = _new_axis(node, affine, outer, inner, upwards=upwards)
    if found is None:
        return NoMatch(f"%{node.name} ({node.op}) takes axis {affine.axis} of {_shape(outer)} to {_shape(inner)}, needs whole channels")
    return found


def _shape(shape: tuple[Dim, ...]) -> str:
    return f"[{','.join(str(dim) for dim in shape)}]"


def _shift_changes(node: Node) -> str:
    """Why adding a constant before the op is not adding it behind; empty when it is."""
    attrs = node.attrs
    match node.op:
        case "avg_pool1d" | "avg_pool2d" | "avg_pool3d":
            padded = any(pad != 0 for pad in tuple_of(attrs["padding"])) and attrs["count_include_pad"]
            if padded or attrs["divisor_override"] is not None:
                return f"%{node.name} averages zeros of the padding {attrs['padding']} in, needs none for a shift"
        case "pad":
            if attrs["mode"] == "constant":
                return f"%{node.name} pads with {attrs['value']}, needs a shift of zero"
        case "relu" | "leaky_relu":
            return f"%{node.name} is a {node.op}, needs a shift of zero"
        case _:
            return ""
    return ""


def _new_axis(node: Node, affine: ChannelAffine, outer: tuple[Dim, ...], inner: tuple[Dim, ...], *, upwards: bool) -> ChannelAffine | None:
    """The map on the `inner` side of the op, when it stands on the `outer` side; None where channels mix."""
    axis = affine.axis
    assert axis is not None, "uniform maps need no axis"
    match node.op:
        case "reshape":
            place = map_axis(outer, inner, axis)
            return None if place is None else affine.along(*place)
        case "permute":
            axes = ints_of(node.attrs["axes"])
            return affine.along(axes[axis] if upwards else axes.index(axis))
        case "mean":
            axes = ints_of(node.attrs["axes"])
            return _past_removed(affine, axis, () if node.attrs["keepdims"] else axes, axes, upwards=upwards)
        case "select":
            removed = (int_of(node.attrs["axis"]),)
            return _past_removed(affine, axis, removed, removed, upwards=upwards)
        case "slice" if node.attrs["axis"] == axis:
            bounds = [node.attrs[name] for name in ("start", "stop", "step")]
            known = [bound for bound in bounds if isinstance(bound, int)]
            return affine.part(known[0], known[1], known[2]) if len(known) == 3 and not upwards else None
        case "slice":
            return affine
        case _:
            return affine if outer[axis] == inner[axis] and _leaves_axis(node, axis, len(outer)) else None


def _past_removed(
    affine: ChannelAffine, axis: int, removed: tuple[int, ...], mixed: tuple[int, ...], upwards: bool
) -> ChannelAffine | None:
    """The axis behind (or before, upwards) an op that removes axes."""
    if upwards:
        for gone in sorted(removed):
            axis += gone <= axis
        return None if axis in mixed else affine.along(axis)
    return None if axis in mixed else affine.along(axis - sum(gone < axis for gone in removed))


def _leaves_axis(node: Node, axis: int, rank: int) -> bool:
    """True when an op that keeps shapes or sizes does not mix the channels along `axis`."""
    match node.op:
        case "flip":
            return axis not in ints_of(node.attrs["axes"])
        case "roll":
            return axis not in tuple_of(node.attrs["axes"])
        case "pad":
            return all(end == 0 for end in tuple_of(tuple_of(node.attrs["pads"])[axis]))
        case "resize":
            return axis < 2
        case op if op in _AVERAGES:
            return axis < rank - int(op[-2])
        case _:
            return True
