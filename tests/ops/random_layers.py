"""Random calls of the ops that are layers: convolutions, pools, products, norms, attention, images, recurrent."""

from __future__ import annotations

import random
from typing import Any

from graphopt.ir.types import DType, TensorType
from tests.ops.drawing import NUMBERS, Drawn, axis, boolean, broadcastable, shape, size, tensor


def _spatial(op: str) -> int:
    return int(op[-2])


def _lead(rng: random.Random, channels: int) -> tuple[int, ...]:
    return (channels,) if rng.random() < 0.2 else (rng.randint(0, 2), channels)


def draw_conv(op: str, rng: random.Random) -> Drawn:
    n, groups = _spatial(op), rng.choice((1, 1, 2, 3))
    transposed = "transpose" in op
    inside, outside = groups * rng.randint(1, 2), groups * rng.randint(1, 2)
    channels = inside if rng.random() < 0.95 else inside + 1
    kernel = tuple(rng.randint(1, 3) for _ in range(n))
    weight = (inside, outside // groups, *kernel) if transposed else (outside, inside // groups, *kernel)
    dtype = rng.choice((DType.f32, DType.f64))
    x = TensorType(dtype, (*_lead(rng, channels), *(rng.randint(1, 7) for _ in range(n))))
    bias = TensorType(dtype, (outside,)) if rng.random() < 0.5 else None
    attrs: dict[str, Any] = {
        name: tuple(rng.randint(low, 3) for _ in range(n)) for name, low in (("stride", 1), ("padding", 0), ("dilation", 1))
    }
    if transposed:
        attrs["output_padding"] = tuple(rng.choice((0, 0, 1)) for _ in range(n))
    return [x, TensorType(dtype if rng.random() < 0.95 else DType.f32, weight), bias], {**attrs, "groups": groups}


def draw_pool(op: str, rng: random.Random) -> Drawn:
    n = _spatial(op)
    x = TensorType(rng.choice((DType.f32, DType.f64)), (*_lead(rng, rng.randint(1, 3)), *(rng.randint(1, 9) for _ in range(n))))
    kernel = tuple(rng.randint(1, 4) for _ in range(n))
    attrs: dict[str, Any] = {
        "kernel": kernel,
        "stride": tuple(rng.randint(1, 4) for _ in range(n)),
        "padding": tuple(rng.randint(0, k // 2 + (rng.random() < 0.05)) for k in kernel),
        "ceil_mode": boolean(rng),
    }
    if op.startswith("max"):
        attrs["dilation"] = tuple(rng.randint(1, 3) for _ in range(n))
    else:
        attrs |= {"count_include_pad": boolean(rng), "divisor_override": rng.choice((None, 3))}
    return [x], attrs


def draw_adaptive(op: str, rng: random.Random) -> Drawn:
    n = _spatial(op)
    x = TensorType(DType.f32, (*_lead(rng, rng.randint(1, 3)), *(rng.randint(1, 9) for _ in range(n))))
    return [x], {"output_size": tuple(rng.randint(1, 6) for _ in range(n))}


def draw_linear(op: str, rng: random.Random) -> Drawn:
    x = tensor(rng, 1, 4, (DType.f32, DType.f64))
    features = x.shape[-1] if rng.random() < 0.9 else 3
    rows = size(rng)
    bias = TensorType(x.dtype, (rows,)) if rng.random() < 0.5 else None
    return [x, TensorType(x.dtype, (rows, features)), bias], {}


def draw_matmul(op: str, rng: random.Random) -> Drawn:
    rows, inner, columns = (size(rng) for _ in range(3))
    batch = shape(rng, rng.randint(0, 2))
    left = rng.choice(((inner,), (rows, inner), (*batch, rows, inner)))
    right = rng.choice(((inner,), (inner, columns), (*broadcastable(rng, batch), inner if rng.random() < 0.95 else 7, columns)))
    dtype = rng.choice((DType.f32, DType.f64, DType.i64))
    return [TensorType(dtype, left), TensorType(dtype if rng.random() < 0.95 else DType.f32, right)], {}


def draw_einsum(op: str, rng: random.Random) -> Drawn:
    equation = rng.choice(
        (
            "ij,jk->ik",
            "bhid,bhjd->bhij",
            "...i,ij->...j",
            "ii",
            "ij->",
            "i,j->ij",
            "ij,jk",
            "...ij,...jk->...ik",
            "a,b,c->abc",
            "bij,bj->bi",
            "ij->zi",
            "ii->i",
        )
    )
    sizes = {letter: rng.choice((1, 2, 3)) for letter in "abcdhijk"}
    extra = shape(rng, rng.randint(0, 2), empty=False)
    operands: list[Any] = []
    for term in equation.partition("->")[0].split(","):
        before, dots, after = term.partition("...")
        shaped = (*(sizes[c] for c in before), *(broadcastable(rng, extra) if dots else ()), *(sizes[c] for c in after))
        operands.append(TensorType(DType.f32, shaped))
    return operands, {"equation": equation}


def draw_batch_norm(op: str, rng: random.Random) -> Drawn:
    x = TensorType(rng.choice((DType.f32, DType.f64)), shape(rng, rng.randint(2 if op == "batch_norm" else 3, 5), empty=False))
    spatial = 2 if op == "batch_norm" else 3
    x = x.with_shape(tuple(dim + 2 if index in (0, spatial) or index >= 2 else dim for index, dim in enumerate(x.shape)))
    channel = TensorType(x.dtype, (x.shape[1] if rng.random() < 0.95 else 7,))
    affine, stored = rng.random() < 0.8, rng.random() < 0.8
    mode = rng.choice(("train", "eval")) if stored else "train"
    return [x, *([channel] * 2 if affine else [None] * 2), *([channel] * 2 if stored else [None] * 2)], {
        "mode": mode,
        "momentum": 0.1,
        "eps": 1e-5,
    }


def draw_layer_norm(op: str, rng: random.Random) -> Drawn:
    x = tensor(rng, 1, 4, (DType.f32, DType.f64), empty=False)
    tail = x.shape[rng.randrange(x.rank) :] if rng.random() < 0.9 else (7,)
    weight = TensorType(x.dtype, tail) if rng.random() < 0.7 else None
    operands = [x, weight] if op == "rms_norm" else [x, weight, TensorType(x.dtype, tail) if rng.random() < 0.5 else None]
    return operands, {"normalized_shape": tail, "eps": 1e-5}


def draw_group_norm(op: str, rng: random.Random) -> Drawn:
    groups = rng.randint(1, 3)
    channels = groups * rng.randint(1, 2) + (rng.random() < 0.1)
    x = TensorType(DType.f32, (2, channels, *shape(rng, rng.randint(1, 3), empty=False)))
    x = x.with_shape((*x.shape[:2], *(dim + 1 for dim in x.shape[2:])))
    channel = TensorType(x.dtype, (channels,))
    return [x, channel if boolean(rng) else None, channel if boolean(rng) else None], {"groups": groups, "eps": 1e-5}


def draw_softmax(op: str, rng: random.Random) -> Drawn:
    x = tensor(rng, 0, 4, NUMBERS)
    return [x], {"axis": axis(rng, x.rank)}


def draw_weight_norm(op: str, rng: random.Random) -> Drawn:
    v = tensor(rng, 2, 4, (DType.f32, DType.f64), empty=False)
    place = rng.choice((0, v.rank - 1))
    g = tuple(dim if index == place else 1 for index, dim in enumerate(v.shape))
    return [v, TensorType(v.dtype, g)], {"axis": place}


def draw_dropout(op: str, rng: random.Random) -> Drawn:
    return [tensor(rng, 2, 4, (DType.f32, DType.f64))], {"p": rng.choice((0.0, 0.5, 1.5)), "mode": rng.choice(("train", "eval"))}


def draw_attention(op: str, rng: random.Random) -> Drawn:
    grouped = rng.random() < 0.3
    queries, keys, features, values = (rng.randint(1, 5) for _ in range(4))
    kv_heads = rng.randint(1, 2)
    heads = kv_heads * rng.randint(1, 3) if grouped else kv_heads
    outer = (2,) if grouped else shape(rng, rng.randint(1, 2), empty=False)[:-1]
    dtype = rng.choice((DType.f32, DType.f64))
    q = (*outer, heads, queries, features)
    k, v = (*outer, kv_heads, keys, features), (*outer, kv_heads, keys, values)
    causal = rng.random() < 0.3
    mask = rng.choice((None, (queries, keys), (1, 1, keys), (heads, 1, keys))) if not causal else None
    mask_type = TensorType(rng.choice((DType.boolean, dtype)), mask) if mask else None
    attrs = {"dropout_p": 0.0, "causal": causal, "scale": rng.choice((None, 0.5)), "grouped": grouped}
    return [TensorType(dtype, q), TensorType(dtype, k), TensorType(dtype, v), mask_type], attrs


def draw_resize(op: str, rng: random.Random) -> Drawn:
    x = TensorType(rng.choice((DType.f32, DType.f64)), shape(rng, rng.randint(3, 5), empty=False))
    mode = rng.choice(("nearest", "nearest_exact", "linear", "cubic"))
    sizes = tuple(rng.randint(1, 6) for _ in x.shape[2:])
    return [x], {"size": sizes, "mode": mode, "align_corners": mode in ("linear", "cubic") and boolean(rng), "scales": None}


def draw_grid_sample(op: str, rng: random.Random) -> Drawn:
    n = rng.choice((2, 3))
    batch = rng.randint(1, 2)
    x = TensorType(DType.f32, (batch, *shape(rng, n + 1, empty=False)))
    grid = TensorType(DType.f32, (batch, *shape(rng, n, empty=False), n))
    mode = rng.choice(("bilinear", "nearest", "bicubic")) if n == 2 else rng.choice(("bilinear", "nearest"))
    return [x, grid], {"mode": mode, "padding_mode": rng.choice(("zeros", "border", "reflection")), "align_corners": boolean(rng)}


def _window(rng: random.Random) -> dict[str, Any]:
    return {
        name: (rng.randint(low, 2), rng.randint(low, 2)) for name, low in (("kernel", 1), ("dilation", 1), ("padding", 0), ("stride", 1))
    }


def draw_im2col(op: str, rng: random.Random) -> Drawn:
    return [TensorType(DType.f32, (*_lead(rng, rng.randint(1, 3)), rng.randint(1, 6), rng.randint(1, 6)))], _window(rng)


def draw_col2im(op: str, rng: random.Random) -> Drawn:
    attrs = _window(rng)
    output = (rng.randint(3, 6), rng.randint(3, 6))
    counts = [
        (output[i] + 2 * attrs["padding"][i] - attrs["dilation"][i] * (attrs["kernel"][i] - 1) - 1) // attrs["stride"][i] + 1
        for i in range(2)
    ]
    rows = rng.randint(1, 2) * attrs["kernel"][0] * attrs["kernel"][1]
    lead = () if rng.random() < 0.3 else (2,)
    return [TensorType(DType.f32, (*lead, rows, counts[0] * counts[1] + (rng.random() < 0.1)))], {"output_size": output, **attrs}


def draw_recurrent(op: str, rng: random.Random) -> Drawn:
    gates = {"lstm": 4, "gru": 3}.get(op, 1)
    layers, features, hidden, batch, steps = (rng.randint(1, 3) for _ in range(5))
    both, first, biases = boolean(rng), boolean(rng), boolean(rng)
    directions = 2 if both else 1

    def f32(*dims: int) -> TensorType:
        return TensorType(DType.f32, dims)

    state = f32(layers * directions, batch, hidden)
    weights: list[TensorType] = []
    for layer in range(layers):
        width = features if layer == 0 else hidden * directions
        for _ in range(directions):
            weights += [f32(gates * hidden, width), f32(gates * hidden, hidden)]
            weights += [f32(gates * hidden)] * 2 if biases else []
    x = f32(batch, steps, features) if first else f32(steps, batch, features)
    attrs = {"has_biases": biases, "layers": layers, "dropout": 0.0, "mode": "eval", "bidirectional": both, "batch_first": first}
    return [x, state, *([state] if op == "lstm" else []), *weights], attrs
