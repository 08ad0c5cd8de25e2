"""Attention."""

from __future__ import annotations

from dataclasses import replace

from graphopt.backends.cpu.kernels.attention import attention_candidates
from graphopt.backends.cpu.planner.builder import Builder
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.planner.makers.table import maker
from graphopt.backends.cpu.storage import Storage
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import DType


def _refuse(node: Node, shapes: Shapes) -> str | None:
    if node.results[0].type.dtype is not DType.f32:
        return f"{node.results[0].type.dtype.text} has no kernel"
    if any(0 in shapes.of(operand) for operand in node.operands if isinstance(operand, Value)):
        return "it has no elements"
    if min(node.value(index).type.rank for index in range(3)) < 2:
        return "an operand has fewer than two axes"
    return None


@maker("scaled_dot_product_attention", unless=_refuse)
def attention(builder: Builder, group: Group) -> None:
    """softmax(q @ k.T * scale + mask) @ v, on heads that are views of packed rows."""
    node = group.anchor
    q, k, v = (_strided(builder, node.value(index)) for index in range(3))
    mask = node.operands[3] if len(node.operands) > 3 else None
    masks = [] if not isinstance(mask, Value) or _keeps_all(builder.graph, mask) else [_strided(builder, mask)]
    y = builder.result(
        group,
        lambda storage: storage.blocked_axis is None and storage.strides[-1] == 1,
        lambda shape: make_storage("plain", "new", q.dtype, shape),
    )
    scale = node.attrs["scale"]
    options = (None if scale is None else float(scale), masks, bool(node.attrs["causal"]), bool(node.attrs["grouped"]))  # pyright: ignore[reportArgumentType]
    candidates = attention_candidates(q, k, v, y, *options)
    if not candidates:
        q, k, v = (builder.plain(storage) for storage in (q, k, v))
        candidates = attention_candidates(q, k, v, y, *options)
    builder.add(candidates)


def _strided(builder: Builder, value: Value) -> Storage:
    storage = builder.storage(value)
    if storage.blocked_axis is not None or (storage.strides[-1] != 1 and storage.shape[-1] != 1 and value.type.dtype is DType.f32):
        storage = builder.plain(storage)
    return replace(storage, halo=(0, 0))


def _keeps_all(graph: Graph, mask: Value) -> bool:
    """True for a constant mask that masks nothing."""
    state = graph.state_of(mask)
    if state is None or state.data is None or mask.type.dtype is not DType.boolean:
        return False
    return bool(state.data.tensor().all())
