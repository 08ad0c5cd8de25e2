"""The torch call that each canonical op stands for: what the type rules are compared with.

`TORCH[op](operands, attrs)` runs it; attributes hold torch dtypes in place of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from graphopt.ops import BINARY, UNARY

Operands = Sequence[Any]
Attrs = Mapping[str, Any]
TorchCall = Callable[[Operands, Attrs], Any]

core: Any = torch
functional: Any = torch.nn.functional
aten: Any = torch.ops.aten


def _same_name(name: str) -> TorchCall:
    found = getattr(core, name, None) or getattr(functional, name)
    return lambda operands, attrs: found(*operands)


def _binary(name: str) -> TorchCall:
    def call(operands: Operands, attrs: Attrs) -> Any:
        a, b = operands
        if not isinstance(a, torch.Tensor):
            return _number_first(name, a, b)
        return getattr(core, name)(a, b)

    return call


def _number_first(name: str, number: Any, tensor: Any) -> Any:
    """Ops whose torch function needs a tensor first take a wrapped number: a Python operator, or `where`."""
    operators: dict[str, Callable[[Any, Any], Any]] = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "pow": lambda a, b: core.pow(a, b),
        "remainder": lambda a, b: core.remainder(a, b),
        "bitwise_and": lambda a, b: core.bitwise_and(a, b),
        "bitwise_or": lambda a, b: core.bitwise_or(a, b),
        "bitwise_xor": lambda a, b: core.bitwise_xor(a, b),
        "bitwise_left_shift": lambda a, b: core.bitwise_left_shift(a, b),
        "bitwise_right_shift": lambda a, b: core.bitwise_right_shift(a, b),
        "eq": lambda a, b: core.eq(b, a),
        "ne": lambda a, b: core.ne(b, a),
        "lt": lambda a, b: core.gt(b, a),
        "le": lambda a, b: core.ge(b, a),
        "gt": lambda a, b: core.lt(b, a),
        "ge": lambda a, b: core.le(b, a),
    }
    return operators[name](number, tensor)


def _attribute_calls() -> dict[str, TorchCall]:
    return {
        "gelu": lambda o, a: functional.gelu(o[0], approximate=a["approximate"]),
        "softplus": lambda o, a: functional.softplus(o[0], a["beta"], a["threshold"]),
        "elu": lambda o, a: aten.elu(o[0], a["alpha"], a["scale"], a["input_scale"]),
        "celu": lambda o, a: functional.celu(o[0], a["alpha"]),
        "leaky_relu": lambda o, a: functional.leaky_relu(o[0], a["negative_slope"]),
        "clamp": lambda o, a: core.clamp(o[0], a["minimum"], a["maximum"]),
        "hardshrink": lambda o, a: functional.hardshrink(o[0], a["lambd"]),
        "softshrink": lambda o, a: functional.softshrink(o[0], a["lambd"]),
        "threshold": lambda o, a: functional.threshold(o[0], a["threshold"], a["value"]),
        "cast": lambda o, a: o[0].to(a["dtype"]),
        "prelu": lambda o, a: core.prelu(o[0], o[1]),
        "log_sigmoid": lambda o, a: functional.logsigmoid(o[0]),
        "div": lambda o, a: core.div(o[0], o[1], rounding_mode=a["rounding"]),
        "where": lambda o, a: core.where(o[0], o[1], o[2]),
    }


def _creation_calls() -> dict[str, TorchCall]:
    return {
        "full": lambda o, a: core.full(a["shape"], a["value"], dtype=a["dtype"]),
        "arange": lambda o, a: core.arange(a["start"], a["stop"], a["step"], dtype=a["dtype"]),
        "eye": lambda o, a: core.eye(a["rows"], a["columns"], dtype=a["dtype"]),
        "linspace": lambda o, a: core.linspace(a["start"], a["stop"], a["steps"], dtype=a["dtype"]),
    }


def _pad(operands: Operands, attrs: Attrs) -> torch.Tensor:
    x, pads, mode = operands[0], attrs["pads"], attrs["mode"]
    if mode == "constant":
        return functional.pad(x, [number for pair in reversed(pads) for number in pair], value=attrs["value"])
    spatial = x.dim() - 2
    assert all(pair == (0, 0) for pair in pads[:2]), "torch pads the last axes alone in this mode"
    return functional.pad(x, [number for pair in reversed(pads[2:]) for number in pair], mode=mode) if spatial else x


def _slice_of(attrs: Attrs, x: torch.Tensor) -> tuple[slice, ...]:
    where = [slice(None)] * x.dim()
    where[attrs["axis"]] = slice(attrs["start"], attrs["stop"], attrs["step"])
    return tuple(where)


def _shape_calls() -> dict[str, TorchCall]:
    return {
        "reshape": lambda o, a: o[0].reshape(a["shape"]),
        "permute": lambda o, a: o[0].permute(a["axes"]),
        "expand": lambda o, a: o[0].expand(a["shape"]),
        "slice": lambda o, a: o[0][_slice_of(a, o[0])],
        "select": lambda o, a: o[0].select(a["axis"], a["index"]),
        "split": lambda o, a: core.split(o[0], list(a["sizes"]), a["axis"]),
        "concat": lambda o, a: core.cat(list(o), a["axis"]),
        "tile": lambda o, a: o[0].repeat(a["repeats"]),
        "roll": lambda o, a: core.roll(o[0], a["shifts"], a["axes"]),
        "flip": lambda o, a: core.flip(o[0], a["axes"]),
        "pad": _pad,
        "tril": lambda o, a: core.tril(o[0], a["diagonal"]),
        "triu": lambda o, a: core.triu(o[0], a["diagonal"]),
    }


def _scatter(operands: Operands, attrs: Attrs) -> torch.Tensor:
    x, index, source = operands
    if attrs["reduce"] is None:
        return core.scatter(x, attrs["axis"], index, source)
    return core.scatter(x, attrs["axis"], index, source, reduce=attrs["reduce"])


def _index_put(operands: Operands, attrs: Attrs) -> torch.Tensor:
    x, values, *indices = operands
    filled = values if isinstance(values, torch.Tensor) else core.tensor(values, dtype=x.dtype)
    return aten.index_put(x, list(indices), filled, attrs["accumulate"])


def _gather_calls() -> dict[str, TorchCall]:
    return {
        "gather": lambda o, a: core.gather(o[0], a["axis"], o[1]),
        "index_select": lambda o, a: core.index_select(o[0], a["axis"], o[1]),
        "index": lambda o, a: aten.index(o[0], list(o[1:])),
        "embedding": lambda o, a: functional.embedding(o[1], o[0], a["padding_idx"]),
        "scatter": _scatter,
        "index_put": _index_put,
        "slice_scatter": lambda o, a: core.slice_scatter(o[0], o[1], a["axis"], a["start"], a["stop"], a["step"]),
        "select_scatter": lambda o, a: core.select_scatter(o[0], o[1], a["axis"], a["index"]),
    }


def _prod(operands: Operands, attrs: Attrs) -> torch.Tensor:
    x = operands[0]
    if not attrs["axes"]:
        return core.prod(x)
    for axis in sorted(attrs["axes"], reverse=True):
        x = core.prod(x, axis, keepdim=attrs["keepdims"])
    return x


def _reduce_calls() -> dict[str, TorchCall]:
    def plain(function: Callable[..., Any]) -> TorchCall:
        return lambda o, a: function(o[0], a["axes"], keepdim=a["keepdims"])

    calls = {name: plain(getattr(core, name)) for name in ("sum", "mean", "amax", "amin", "any", "all", "logsumexp")}
    return {
        **calls,
        "prod": _prod,
        "var": lambda o, a: core.var(o[0], a["axes"], correction=a["correction"], keepdim=a["keepdims"]),
        "std": lambda o, a: core.std(o[0], a["axes"], correction=a["correction"], keepdim=a["keepdims"]),
        "vector_norm": lambda o, a: core.linalg.vector_norm(o[0], a["ord"], a["axes"], keepdim=a["keepdims"]),
        "argmax": lambda o, a: core.argmax(o[0], a["axis"], keepdim=a["keepdims"]),
        "argmin": lambda o, a: core.argmin(o[0], a["axis"], keepdim=a["keepdims"]),
        "cumsum": lambda o, a: core.cumsum(o[0], a["axis"]),
        "cumprod": lambda o, a: core.cumprod(o[0], a["axis"]),
        "topk": lambda o, a: core.topk(o[0], a["k"], a["axis"], a["largest"], a["sorted"]),
        "sort": lambda o, a: core.sort(o[0], dim=a["axis"], descending=a["descending"], stable=a["stable"]),
    }


def _window_calls() -> dict[str, TorchCall]:
    calls: dict[str, TorchCall] = {}
    for n in (1, 2, 3):
        conv, transposed = getattr(functional, f"conv{n}d"), getattr(functional, f"conv_transpose{n}d")
        largest, mean = getattr(functional, f"max_pool{n}d"), getattr(functional, f"avg_pool{n}d")
        calls[f"conv{n}d"] = lambda o, a, conv=conv: conv(*o, a["stride"], a["padding"], a["dilation"], a["groups"])
        calls[f"conv_transpose{n}d"] = lambda o, a, f=transposed: f(
            *o, a["stride"], a["padding"], a["output_padding"], a["groups"], a["dilation"]
        )
        calls[f"max_pool{n}d"] = lambda o, a, f=largest: f(o[0], a["kernel"], a["stride"], a["padding"], a["dilation"], a["ceil_mode"])
        calls[f"avg_pool{n}d"] = lambda o, a, f=mean, n=n: f(
            o[0],
            a["kernel"],
            a["stride"],
            a["padding"],
            a["ceil_mode"],
            a["count_include_pad"],
            *([a["divisor_override"]] if n > 1 else []),
        )
        for kind in ("avg", "max"):
            adaptive = getattr(functional, f"adaptive_{kind}_pool{n}d")
            calls[f"adaptive_{kind}_pool{n}d"] = lambda o, a, f=adaptive: f(o[0], a["output_size"])
    return calls


def _norm_calls() -> dict[str, TorchCall]:
    return {
        "batch_norm": lambda o, a: core.batch_norm(*o, a["mode"] == "train", a["momentum"], a["eps"], False),
        "instance_norm": lambda o, a: core.instance_norm(*o, o[3] is None or a["mode"] == "train", a["momentum"], a["eps"], False),
        "layer_norm": lambda o, a: functional.layer_norm(o[0], a["normalized_shape"], o[1], o[2], a["eps"]),
        "group_norm": lambda o, a: functional.group_norm(o[0], a["groups"], o[1], o[2], a["eps"]),
        "rms_norm": lambda o, a: functional.rms_norm(o[0], a["normalized_shape"], o[1], a["eps"]),
        "softmax": lambda o, a: core.softmax(o[0], a["axis"]),
        "log_softmax": lambda o, a: core.log_softmax(o[0], a["axis"]),
        "weight_norm": lambda o, a: core._weight_norm(o[0], o[1], a["axis"]),
        "dropout": lambda o, a: core.dropout(o[0], a["p"], a["mode"] == "train"),
        "feature_dropout": lambda o, a: core.feature_dropout(o[0], a["p"], a["mode"] == "train"),
        "alpha_dropout": lambda o, a: core.alpha_dropout(o[0], a["p"], a["mode"] == "train"),
    }


def _resize(operands: Operands, attrs: Attrs) -> torch.Tensor:
    x, mode = operands[0], attrs["mode"]
    names = {"linear": {3: "linear", 4: "bilinear", 5: "trilinear"}, "cubic": {4: "bicubic"}}
    word = names[mode].get(x.dim(), "bicubic") if mode in names else mode.replace("_", "-")
    corners = attrs["align_corners"] if mode in names else None
    return functional.interpolate(x, attrs["size"], mode=word, align_corners=corners)


def _recurrent(name: str) -> TorchCall:
    def call(operands: Operands, attrs: Attrs) -> Any:
        states = 2 if name == "lstm" else 1
        state = list(operands[1:3]) if states == 2 else operands[1]
        numbers = (attrs["layers"], attrs["dropout"], attrs["mode"] == "train", attrs["bidirectional"], attrs["batch_first"])
        return getattr(core, name)(operands[0], state, list(operands[1 + states :]), attrs["has_biases"], *numbers)

    return call


def _other_calls() -> dict[str, TorchCall]:
    return {
        "linear": lambda o, a: functional.linear(*o),
        "matmul": lambda o, a: core.matmul(*o),
        "einsum": lambda o, a: core.einsum(a["equation"], *o),
        "scaled_dot_product_attention": lambda o, a: functional.scaled_dot_product_attention(
            *o, a["dropout_p"], a["causal"], scale=a["scale"], enable_gqa=a["grouped"]
        ),
        "resize": _resize,
        "grid_sample": lambda o, a: functional.grid_sample(*o, a["mode"], a["padding_mode"], a["align_corners"]),
        "im2col": lambda o, a: functional.unfold(o[0], a["kernel"], a["dilation"], a["padding"], a["stride"]),
        "col2im": lambda o, a: functional.fold(o[0], a["output_size"], a["kernel"], a["dilation"], a["padding"], a["stride"]),
        **{name: _recurrent(name) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    }


_WITH_ATTRIBUTES = {
    "gelu",
    "softplus",
    "elu",
    "celu",
    "leaky_relu",
    "clamp",
    "hardshrink",
    "softshrink",
    "threshold",
    "cast",
    "log_sigmoid",
}
_PLAIN = UNARY - _WITH_ATTRIBUTES
_BINARY = BINARY - {"div"}

TORCH: dict[str, TorchCall] = {
    **{name: _same_name(name) for name in _PLAIN},
    **{name: _binary(name) for name in _BINARY},
    **_attribute_calls(),
    **_creation_calls(),
    **_shape_calls(),
    **_gather_calls(),
    **_reduce_calls(),
    **_window_calls(),
    **_norm_calls(),
    **_other_calls(),
}
