"""Element-wise ops of one tensor."""

from __future__ import annotations

import torch

from graphopt.backends.reference.emitter import Emitter, Lowering, Site

__all__ = ["LOWERINGS"]

_TORCH = (
    "relu",
    "sigmoid",
    "tanh",
    "neg",
    "abs",
    "sign",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "square",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "asinh",
    "acosh",
    "atanh",
    "erf",
    "erfc",
    "floor",
    "ceil",
    "round",
    "trunc",
    "frac",
    "isnan",
    "isinf",
    "logical_not",
    "bitwise_not",
)
_FUNCTIONAL = {
    "silu": "silu",
    "hardsigmoid": "hardsigmoid",
    "hardswish": "hardswish",
    "mish": "mish",
    "selu": "selu",
    "softsign": "softsign",
    "log_sigmoid": "logsigmoid",
}
_WITH_ATTRIBUTES = {
    "gelu": ("approximate",),
    "softplus": ("beta", "threshold"),
    "celu": ("alpha",),
    "leaky_relu": ("negative_slope",),
    "hardshrink": ("lambd",),
    "softshrink": ("lambd",),
    "threshold": ("threshold", "value"),
}


def _plain(function: str) -> Lowering:
    return lambda emit, site: emit.call(function, site[0])


def _parametrised(function: str, names: tuple[str, ...]) -> Lowering:
    return lambda emit, site: emit.call(function, site[0], **{name: site[name] for name in names})


def _elu(emit: Emitter, site: Site) -> object:
    if site["scale"] == 1 and site["input_scale"] == 1:
        return emit.call("F.elu", site[0], alpha=site["alpha"])
    return emit.call(torch.ops.aten.elu.default, site[0], site["alpha"], site["scale"], site["input_scale"])


def _clamp(emit: Emitter, site: Site) -> object:
    limits = {name: limit for name, limit in (("min", site["minimum"]), ("max", site["maximum"])) if limit is not None}
    return emit.call("torch.clamp", site[0], **limits) if limits else site[0]


def _cast(emit: Emitter, site: Site) -> object:
    return emit.call(".to", site[0], site["dtype"])


def _prelu(emit: Emitter, site: Site) -> object:
    return emit.call("F.prelu", site[0], site[1])


LOWERINGS: dict[str, Lowering] = {
    **{name: _plain(f"torch.{name}") for name in _TORCH},
    **{name: _plain(f"F.{function}") for name, function in _FUNCTIONAL.items()},
    **{name: _parametrised(f"F.{name}", names) for name, names in _WITH_ATTRIBUTES.items()},
    "elu": _elu,
    "clamp": _clamp,
    "cast": _cast,
    "prelu": _prelu,
}
