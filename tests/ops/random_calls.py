"""Random calls of each canonical op: most of them right, some wrong on purpose.

`draw(op, rng)` gives operands (types or numbers) and attributes. Sizes are small, 0 and 1 among them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from graphopt import ops
from graphopt.ir.types import DType, TensorType
from graphopt.ops import BINARY, ELEMENTWISE, UNARY

Drawn = tuple[list[Any], dict[str, Any]]
Draw = Callable[[str, random.Random], Drawn]

FLOATS = (DType.f32, DType.f64, DType.bf16, DType.f16)
NUMBERS = (*FLOATS, DType.i64, DType.i32, DType.i16, DType.i8, DType.u8, DType.boolean)


def size(rng: random.Random) -> int:
    """A small size; 0 and 1 come often enough to matter."""
    return rng.choice((0, 1, 1, 2, 2, 3, 3, 4, 5, 6))


def shape(rng: random.Random, rank: int, *, empty: bool = True) -> tuple[int, ...]:
    found = tuple(size(rng) for _ in range(rank))
    return found if empty else tuple(max(dim, 1) for dim in found)


def tensor(rng: random.Random, low: int = 0, high: int = 4, dtypes: tuple[DType, ...] = FLOATS, *, empty: bool = True) -> TensorType:
    return TensorType(rng.choice(dtypes), shape(rng, rng.randint(low, high), empty=empty))


def broadcastable(rng: random.Random, full: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to `full`, or rarely one that does not."""
    cut = rng.randint(0, len(full)) if rng.random() < 0.4 else 0
    kept = tuple(1 if rng.random() < 0.3 else dim for dim in full[cut:])
    return shape(rng, len(kept)) if rng.random() < 0.1 else kept


def number(rng: random.Random) -> Any:
    return rng.choice((True, 2, -1, 0.5, -2.5))


def axis(rng: random.Random, rank: int) -> int:
    return rng.randrange(max(rank, 1))


def boolean(rng: random.Random) -> bool:
    return rng.random() < 0.5


def draw_unary(op: str, rng: random.Random) -> Drawn:
    values: Mapping[str, Any] = {
        "approximate": rng.choice(("none", "tanh")),
        "minimum": rng.choice((None, 0, -1, 0.5)),
        "maximum": rng.choice((None, 3, 6.0)),
        "dtype": rng.choice(NUMBERS),
    }
    attrs = {name: values.get(name, rng.choice((0.5, 1.0, 2))) for name in ops.definition(op).attributes}
    return [tensor(rng, dtypes=NUMBERS)], attrs


def draw_prelu(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 1, 4, (DType.f32, DType.f64))
    channels = found.shape[1] if found.rank > 1 else 1
    wanted = rng.choice(((1,), (channels,), (), (3,)))
    return [found, TensorType(found.dtype if rng.random() < 0.9 else DType.f32, wanted)], {}


_NUMBER_FIRST = BINARY - {"div", "fmod", "atan2", "maximum", "minimum", "logical_and", "logical_or", "logical_xor"}
_NUMBER_SECOND = frozenset((*_NUMBER_FIRST, "fmod", "div"))


def draw_binary(op: str, rng: random.Random) -> Drawn:
    full = shape(rng, rng.randint(0, 4))
    integers = (DType.i64, DType.i32, DType.u8, DType.i8, DType.boolean, DType.f32)
    dtypes = integers if op.startswith("bitwise") else NUMBERS
    a: Any = TensorType(rng.choice(dtypes), broadcastable(rng, full))
    b: Any = TensorType(rng.choice(dtypes), broadcastable(rng, full))
    chance = rng.random()
    if chance < 0.3 and op in _NUMBER_SECOND:
        b = number(rng)
    elif chance < 0.5 and op in _NUMBER_FIRST:
        a = number(rng)
    attrs = {"rounding": rng.choice((None, "floor", "trunc"))} if op == "div" else {}
    return [a, b], attrs


def draw_where(op: str, rng: random.Random) -> Drawn:
    full = shape(rng, rng.randint(0, 4))
    a, b = (number(rng) if rng.random() < 0.3 else TensorType(rng.choice(NUMBERS), broadcastable(rng, full)) for _ in range(2))
    return [TensorType(DType.boolean, broadcastable(rng, full)), a, b], {}


def draw_full(op: str, rng: random.Random) -> Drawn:
    return [], {"shape": shape(rng, rng.randint(0, 4)), "value": rng.choice((True, 2, 0.5)), "dtype": rng.choice(NUMBERS)}


def draw_arange(op: str, rng: random.Random) -> Drawn:
    start, stop, step = rng.choice(
        ((0, 5, 1), (0, 7, 2), (3, 3, 1), (5, 0, -2), (0.0, 1.0, 0.3), (0.5, 4, 1), (0, -3, 1), (1, 5, -1), (2, 9, 3))
    )
    return [], {"start": start, "stop": stop, "step": step, "dtype": rng.choice((DType.i64, DType.f32, DType.f64, DType.i32))}


def draw_eye(op: str, rng: random.Random) -> Drawn:
    return [], {"rows": size(rng), "columns": size(rng), "dtype": rng.choice((DType.f32, DType.i64, DType.boolean))}


def draw_linspace(op: str, rng: random.Random) -> Drawn:
    return [], {"start": 0, "stop": rng.choice((1.0, 5)), "steps": size(rng), "dtype": rng.choice(FLOATS)}


def draw_reshape(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, dtypes=NUMBERS)
    total = found.elements
    assert isinstance(total, int)
    shapes = [(total,), (1, total), (total, 1, 1), found.shape[::-1], (2, total // 2), (total + 1,)]
    return [found], {"shape": rng.choice(shapes)}


def draw_permute(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, dtypes=NUMBERS)
    axes = list(range(found.rank))
    rng.shuffle(axes)
    if axes and rng.random() < 0.1:
        axes[0] = axes[-1]
    return [found], {"axes": tuple(axes)}


def draw_expand(op: str, rng: random.Random) -> Drawn:
    full = shape(rng, rng.randint(0, 4))
    return [TensorType(rng.choice(NUMBERS), broadcastable(rng, full))], {"shape": full}


def draw_slice(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 1, 4, NUMBERS)
    place = axis(rng, found.rank)
    stop = rng.randint(0, int(str(found.shape[place])))
    return [found], {"axis": place, "start": rng.randint(0, stop), "stop": stop, "step": rng.randint(1, 3)}


def draw_select(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 1, 4, NUMBERS)
    return [found], {"axis": axis(rng, found.rank), "index": rng.randint(0, 4)}


def draw_split(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 1, 4, NUMBERS)
    place = axis(rng, found.rank)
    total = int(str(found.shape[place]))
    first = rng.randint(0, total)
    rest = total - first if rng.random() < 0.9 else total
    return [found], {"axis": place, "sizes": rng.choice(((first, rest), (total,), (0, first, rest)))}


def draw_concat(op: str, rng: random.Random) -> Drawn:
    first = tensor(rng, 1, 4, NUMBERS)
    place = axis(rng, first.rank)
    types = [first]
    for _ in range(rng.randint(0, 3)):
        other = tuple(size(rng) if index == place or rng.random() < 0.05 else dim for index, dim in enumerate(first.shape))
        types.append(TensorType(rng.choice(NUMBERS), other))
    return list(types), {"axis": place}


def draw_tile(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, dtypes=NUMBERS)
    return [found], {"repeats": tuple(rng.randint(0, 3) for _ in range(max(0, found.rank + rng.choice((0, 0, 1, -1)))))}


def draw_roll(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 1, 4)
    axes = tuple(rng.sample(range(found.rank), rng.randint(1, found.rank)))
    return [found], {"axes": axes, "shifts": tuple(rng.randint(-3, 3) for _ in axes)}


def draw_flip(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 0, 4)
    return [found], {"axes": tuple(rng.sample(range(found.rank), rng.randint(0, found.rank)))}


def draw_pad(op: str, rng: random.Random) -> Drawn:
    mode = rng.choice(("constant", "constant", "reflect", "replicate", "circular"))
    if mode == "constant":
        found = tensor(rng, 1, 4)
        pads = tuple((rng.randint(-1, 2), rng.randint(-1, 2)) for _ in range(found.rank))
    else:
        found = TensorType(DType.f32, shape(rng, rng.randint(3, 5), empty=False))
        pads = ((0, 0), (0, 0), *((rng.randint(0, 3), rng.randint(0, 3)) for _ in range(found.rank - 2)))
    return [found], {"mode": mode, "pads": pads, "value": 0}


def draw_triangle(op: str, rng: random.Random) -> Drawn:
    return [tensor(rng, 1, 4)], {"diagonal": rng.randint(-2, 2)}


def draw_gather(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 0, 4, NUMBERS)
    place = axis(rng, found.rank)
    limits = found.shape if rng.random() < 0.9 else shape(rng, found.rank)
    index = tuple(size(rng) if i == place else min(size(rng), int(str(dim))) for i, dim in enumerate(limits))
    return [found, TensorType(DType.i64, index)], {"axis": place}


def draw_index_select(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 0, 4, NUMBERS)
    return [found, TensorType(rng.choice((DType.i64, DType.i32)), shape(rng, rng.choice((0, 1, 1, 1, 2))))], {"axis": axis(rng, found.rank)}


def _indices(rng: random.Random, count: int) -> list[TensorType | None]:
    full = shape(rng, rng.randint(0, 2))
    return [None if rng.random() < 0.4 else TensorType(DType.i64, broadcastable(rng, full)) for _ in range(count)]


def draw_index(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 1, 4, NUMBERS, empty=False)
    return [found, *_indices(rng, rng.randint(1, found.rank))], {}


def draw_index_put(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 1, 4, (DType.f32, DType.i64), empty=False)
    if rng.random() < 0.2:
        return [found, 0.0 if found.dtype is DType.f32 else 1, TensorType(DType.boolean, found.shape[: rng.randint(1, found.rank)])], {
            "accumulate": False
        }
    indices = _indices(rng, rng.randint(1, found.rank))
    values: Any = TensorType(found.dtype, ()) if rng.random() < 0.5 else TensorType(found.dtype, shape(rng, 1))
    return [found, values, *indices], {"accumulate": boolean(rng)}


def draw_embedding(op: str, rng: random.Random) -> Drawn:
    weight = TensorType(rng.choice(FLOATS), shape(rng, 2, empty=False))
    return [weight, tensor(rng, 0, 3, (DType.i64, DType.i32))], {"padding_idx": rng.choice((None, 0))}


def draw_scatter(op: str, rng: random.Random) -> Drawn:
    (found, index), attrs = draw_gather(op, rng)
    found = TensorType(rng.choice((DType.f32, DType.i64)), found.shape)
    chance = rng.random()
    reduce = rng.choice((None, None, "add", "multiply"))
    if chance < 0.3:
        source: Any = 1
    else:
        source = TensorType(found.dtype, tuple(dim + rng.randint(0, 1) for dim in index.shape))
    return [found, index, source], {**attrs, "reduce": reduce}


def draw_slice_scatter(op: str, rng: random.Random) -> Drawn:
    (found,), attrs = draw_slice(op, rng)
    count = len(range(attrs["start"], attrs["stop"], attrs["step"])) + (rng.random() < 0.1)
    source = tuple(count if index == attrs["axis"] else dim for index, dim in enumerate(found.shape))
    return [found, TensorType(found.dtype, source)], attrs


def draw_select_scatter(op: str, rng: random.Random) -> Drawn:
    (found,), attrs = draw_select(op, rng)
    source = tuple(dim for index, dim in enumerate(found.shape) if index != attrs["axis"])
    return [found, TensorType(found.dtype, source)], attrs


def draw_reduce(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 0, 4, NUMBERS)
    axes = tuple(sorted(rng.sample(range(found.rank), rng.randint(1, found.rank)))) if found.rank else ()
    extra = (
        {"correction": rng.choice((0, 1))}
        if op in ("var", "std")
        else {"ord": rng.choice((1, 2, 2.0, float("inf")))}
        if op == "vector_norm"
        else {}
    )
    return [found], {"axes": axes, "keepdims": boolean(rng), **extra}


def draw_argument(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 0, 4, NUMBERS)
    return [found], {"axis": rng.choice((None, axis(rng, found.rank))), "keepdims": boolean(rng)}


def draw_scan(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 0, 4, NUMBERS)
    return [found], {"axis": axis(rng, found.rank)}


def draw_topk(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 0, 3, (DType.f32, DType.i64))
    return [found], {"axis": axis(rng, found.rank), "k": rng.randint(0, 4), "largest": boolean(rng), "sorted": boolean(rng)}


def draw_sort(op: str, rng: random.Random) -> Drawn:
    found = tensor(rng, 0, 3, NUMBERS)
    return [found], {"axis": axis(rng, found.rank), "descending": boolean(rng), "stable": boolean(rng)}


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


def _table() -> dict[str, Draw]:
    special: dict[str, Draw] = {
        name.removeprefix("draw_"): found
        for name, found in globals().items()
        if name.startswith("draw_") and ops.is_canonical(name.removeprefix("draw_"))
    }
    families: dict[str, Draw] = {"binary": draw_binary, "conv": draw_conv, "dropout": draw_dropout, "recurrent": draw_recurrent}
    table = {found.name: families[found.family] for found in ops.definitions() if found.family in families}
    table |= dict.fromkeys(UNARY, draw_unary) | dict.fromkeys(ops.REDUCTIONS, draw_reduce)
    table |= dict.fromkeys(ops.MAX_POOLS | ops.AVERAGE_POOLS, draw_pool) | dict.fromkeys(ops.ADAPTIVE_POOLS, draw_adaptive)
    table |= dict.fromkeys(("argmax", "argmin"), draw_argument) | dict.fromkeys(("cumsum", "cumprod"), draw_scan)
    table |= dict.fromkeys(("tril", "triu"), draw_triangle) | dict.fromkeys(("softmax", "log_softmax"), draw_softmax)
    table |= dict.fromkeys(("batch_norm", "instance_norm"), draw_batch_norm) | dict.fromkeys(("layer_norm", "rms_norm"), draw_layer_norm)
    table["scaled_dot_product_attention"] = draw_attention
    return table | special


DRAW = _table()


def draw(op: str, seed: int) -> Drawn:
    """A random call; the same for the same seed."""
    return DRAW[op](op, random.Random(f"{op} {seed}"))


assert DRAW.keys() >= ELEMENTWISE, "every elementwise op needs random calls"
