"""Random calls of the ops that compute on elements, make, move, pick and reduce them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from graphopt import ops
from graphopt.ir.types import DType, TensorType
from graphopt.ops import BINARY
from tests.ops.drawing import FLOATS, NUMBERS, Drawn, axis, boolean, broadcastable, number, shape, size, tensor


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
