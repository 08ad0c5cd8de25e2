"""Attention: family `attention`.

    %y: f32[b,8,64,32] = scaled_dot_product_attention(%q, %k, %v, none) {causal=true, dropout_p=0.0, grouped=false, scale=none}

`q` is `[..., queries, features]`, `k` `[..., keys, features]`, `v` `[..., keys, values]`; batch axes broadcast.
With `grouped` the heads (axis -3) of q are a multiple of those of k and v.
"""

from __future__ import annotations

from graphopt.ir.dims import Dim, product
from graphopt.ir.types import DType, TensorType
from graphopt.ops.axes.attention import attention_axes
from graphopt.ops.broadcasting import broadcast_shapes, is_expandable
from graphopt.ops.checks import known_different, require_float
from graphopt.ops.kinds import BOOL, NUMBER, optional
from graphopt.ops.registry import Call, OpDef, register

__all__: list[str] = []


def _attention(call: Call) -> tuple[TensorType, ...]:
    query, key, value = (require_float(call, index) for index in range(3))
    for name, found in (("k", key), ("v", value)):
        if found.dtype is not query.dtype:
            raise call.fail(f"q is {query.dtype.text}, {name} is {found.dtype.text}, needs the same")
    if min(query.rank, key.rank, value.rank) < 2:
        raise call.fail(f"operands have {query.rank}, {key.rank} and {value.rank} axes, needs at least 2")
    if known_different(query.shape[-1], key.shape[-1]):
        raise call.fail(f"q has {query.shape[-1]} features, k has {key.shape[-1]}, needs the same")
    if known_different(key.shape[-2], value.shape[-2]):
        raise call.fail(f"k has {key.shape[-2]} positions, v has {value.shape[-2]}, needs the same")
    batch = _batch(call, query, key, value)
    _check_mask(call, (*batch, query.shape[-2], key.shape[-2]))
    return (query.with_shape((*batch, query.shape[-2], value.shape[-1])),)


def _batch(call: Call, query: TensorType, key: TensorType, value: TensorType) -> tuple[Dim, ...]:
    if not call.attrs["grouped"]:
        return broadcast_shapes(call, [query.shape[:-2], key.shape[:-2], value.shape[:-2]])
    if min(query.rank, key.rank, value.rank) < 3:
        raise call.fail(f"grouped attention needs a heads axis, q has {query.rank} axes, k has {key.rank}, v has {value.rank}")
    for name, found in (("k", key), ("v", value)):
        heads = found.shape[-3]
        if isinstance(heads, int) and isinstance(query.shape[-3], int) and (heads < 1 or query.shape[-3] % heads):
            raise call.fail(f"q has {query.shape[-3]} heads, {name} has {heads}, which do not divide them")
    outer = broadcast_shapes(call, [query.shape[:-3], key.shape[:-3], value.shape[:-3]])
    return (*outer, query.shape[-3])


def _check_mask(call: Call, scores: tuple[Dim, ...]) -> None:
    mask = call.optional_type(3)
    if mask is None:
        return
    if mask.dtype is not DType.boolean and mask.dtype is not call.type(0).dtype:
        raise call.fail(f"mask is {mask.dtype.text}, needs bool or {call.type(0).dtype.text}")
    if not is_expandable(mask.shape, scores):
        raise call.fail(f"mask {mask.text} does not broadcast to the scores [{','.join(str(dim) for dim in scores)}]")
    if call.attrs["causal"]:
        raise call.fail("has a mask and is causal, needs one of them")


def _attention_flops(call: Call, results: tuple[TensorType, ...]) -> Dim:
    """Both matrix products, and 6 per score: scale 1, softmax 5, the mask 1 more. A causal one is not halved."""
    query, key = call.type(0), call.type(1)
    scores = product((*results[0].shape[:-1], key.shape[-2]))
    return scores * (2 * query.shape[-1] + 2 * results[0].shape[-1] + 6 + (call.optional_type(3) is not None))


register(
    OpDef(
        "scaled_dot_product_attention",
        "attention",
        ("q", "k", "v", "mask?"),
        _attention,
        _attention_flops,
        "softmax(q @ k.T * scale + mask) @ v; scale none is 1 / sqrt(features); a bool mask keeps where true",
        kinds={"dropout_p": NUMBER, "causal": BOOL, "scale": optional(NUMBER), "grouped": BOOL},
        axes=attention_axes,
    )
)
