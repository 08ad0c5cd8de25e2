"""Attention: one Attention node for 3 and 4 axes, matrix products and a softmax for any other number.

Rows that a mask hides from every key are 0, as in torch.
"""

from __future__ import annotations

import math

import numpy as np

from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType

__all__ = ["EMITTERS"]


def _attention(context: Context, node: Node) -> str:
    query, key, value = (node.value(index) for index in range(3))
    scale = node.attrs["scale"]
    features = query.shape[-1]
    if scale is None:
        if not isinstance(features, int):
            raise UnsupportedNodeError(f"the number of features {features} is symbolic")
        scale = 1.0 / math.sqrt(features) if features else 1.0
    assert isinstance(scale, int | float), "scale is a number"
    same_batch = query.shape[:-3] == key.shape[:-3] == value.shape[:-3]
    same_heads = key.shape[-3:-2] == value.shape[-3:-2] and (bool(node.attrs["grouped"]) or query.shape[-3:-2] == key.shape[-3:-2])
    ranks = {query.type.rank, key.type.rank, value.type.rank}
    fits = ranks == {4} or (ranks == {3} and not node.attrs["grouped"])
    if fits and same_batch and same_heads and not context.decompose_attention:
        return _fused(context, node, float(scale))
    return _decomposed(context, node, float(scale))


def _fused(context: Context, node: Node, scale: float) -> str:
    operands = [context.read(node.operands[index]) for index in range(3)]
    attributes: dict[str, int | float] = {"scale": scale}
    if node.attrs["causal"]:
        attributes["is_causal"] = 1
    if node.result.type.rank == 3:
        attributes |= {"q_num_heads": 1, "kv_num_heads": 1}
    mask = node.operands[3]
    if isinstance(mask, Value):
        operands.append(_full_mask(context, node, mask))
    return context.add("Attention", *operands, **attributes)


def _full_mask(context: Context, node: Node, mask: Value) -> str:
    """The mask with both of its last axes spelled out, which ONNX Runtime needs."""
    rows: tuple[Dim, Dim] = (node.value(0).shape[-2], node.value(1).shape[-2])
    name = context.read(mask)
    shape = mask.shape
    if len(shape) < 2:
        shape = (*(1 for _ in range(2 - len(shape))), *shape)
        name = context.reshape(name, mask.shape, shape)
    if shape[-2:] != rows:
        # Sizes of 1 keep what is there.
        name = context.add("Expand", name, context.dims((*(1 for _ in shape[:-2]), *rows)))
    if node.result.type.rank == 3 and len(shape) == 3:
        name = context.unsqueeze(name, 1)  # axis 1 is the heads'
    return name


def _decomposed(context: Context, node: Node, scale: float) -> str:
    dtype = context.target(node)
    query = context.add("Mul", context.read(node.operands[0]), context.scalar(scale, dtype))
    key, value = (_repeated(context, node, index) for index in (1, 2))
    rank = node.value(1).type.rank
    flipped = context.add("Transpose", key, perm=(*range(rank - 2), rank - 1, rank - 2))
    scores = context.add("MatMul", query, flipped)
    hidden = _visible(context, node)
    mask = node.operands[3]
    if hidden is not None:
        scores = context.add("Where", hidden, scores, context.scalar(-math.inf, dtype))
    elif isinstance(mask, Value):
        name = context.read(mask, dtype)
        scores = context.add("Add", scores, name)
        hidden = context.add("Greater", name, context.scalar(-math.inf, dtype))
    weights = context.add("Softmax", scores, axis=-1)
    if hidden is not None and not node.attrs["causal"]:
        weights = context.add("Where", hidden, weights, context.scalar(0, dtype))
    return context.add("MatMul", weights, value)


def _visible(context: Context, node: Node) -> str | None:
    """A bool mask that is true where a query sees a key, if there is one."""
    mask = node.operands[3]
    if isinstance(mask, Value):
        return context.read(mask) if mask.type.dtype is DType.boolean else None
    if not node.attrs["causal"]:
        return None
    rows, columns = node.value(0).shape[-2], node.value(1).shape[-2]
    if isinstance(rows, int) and isinstance(columns, int):
        return context.constant(np.tri(rows, columns, dtype=bool), DType.boolean)
    zero, one = context.scalar(0, DType.i64), context.scalar(1, DType.i64)
    down = context.unsqueeze(context.add("Range", zero, context.size(rows), one), 1)
    return context.add("GreaterOrEqual", down, context.add("Range", zero, context.size(columns), one))


def _repeated(context: Context, node: Node, index: int) -> str:
    """Keys or values with each head repeated for its group of queries."""
    found, query = node.value(index), node.value(0)
    name = context.read(found)
    heads, wanted = found.shape[-3:-2], query.shape[-3:-2]
    if not node.attrs["grouped"] or heads == wanted:
        return name
    if not (isinstance(heads[0], int) and isinstance(wanted[0], int)):
        raise UnsupportedNodeError(f"grouped attention with symbolic heads {heads[0]} and {wanted[0]}")
    axis = found.type.rank - 2
    group = wanted[0] // heads[0]
    shape = (*found.shape[:axis], group, *found.shape[axis:])
    spread = context.add("Expand", context.unsqueeze(name, axis), context.dims(tuple(group if i == axis else 1 for i in range(len(shape)))))
    return context.reshape(spread, shape, (*found.shape[: axis - 1], wanted[0], *found.shape[axis:]))


EMITTERS: dict[str, Emitter] = {"scaled_dot_product_attention": _attention}
