"""Reductions, cumulative ops, sorting."""

from __future__ import annotations

from graphopt.backends.reference.emitter import Emitter, Lowering, Site

__all__ = ["LOWERINGS"]

_OVER_AXES = ("sum", "mean", "amax", "amin", "logsumexp")


def _over_axes(name: str) -> Lowering:
    return lambda emit, site: emit.call(f"torch.{name}", site[0], dim=site["axes"], keepdim=site["keepdims"])


def _logical(name: str) -> Lowering:
    def lower(emit: Emitter, site: Site) -> object:
        if not site["axes"]:
            return emit.call(f"torch.{name}", site[0])
        return emit.call(f"torch.{name}", site[0], dim=site["axes"], keepdim=site["keepdims"])

    return lower


def _prod(emit: Emitter, site: Site) -> object:
    if not site["axes"]:
        return emit.call("torch.prod", site[0])
    result = site[0]
    for axis in sorted(site["axes"], reverse=True):  # torch multiplies along one axis at a time; the last first, so that numbers stay right
        result = emit.call("torch.prod", result, dim=axis, keepdim=site["keepdims"])
    return result


def _moment(name: str) -> Lowering:
    return lambda emit, site: emit.call(f"torch.{name}", site[0], dim=site["axes"], correction=site["correction"], keepdim=site["keepdims"])


def _vector_norm(emit: Emitter, site: Site) -> object:
    return emit.call("linalg.vector_norm", site[0], ord=site["ord"], dim=site["axes"], keepdim=site["keepdims"])


def _extreme_index(name: str) -> Lowering:
    return lambda emit, site: emit.call(f"torch.{name}", site[0], dim=site["axis"], keepdim=site["keepdims"])


def _cumulative(name: str) -> Lowering:
    return lambda emit, site: emit.call(f"torch.{name}", site[0], dim=site["axis"])


def _topk(emit: Emitter, site: Site) -> object:
    result = emit.call("torch.topk", site[0], site["k"], dim=site["axis"], largest=site["largest"], sorted=site["sorted"])
    return emit.unpack(result, 2)


def _sort(emit: Emitter, site: Site) -> object:
    result = emit.call("torch.sort", site[0], dim=site["axis"], descending=site["descending"], stable=site["stable"])
    return emit.unpack(result, 2)


LOWERINGS: dict[str, Lowering] = {
    **{name: _over_axes(name) for name in _OVER_AXES},
    "any": _logical("any"),
    "all": _logical("all"),
    "prod": _prod,
    "var": _moment("var"),
    "std": _moment("std"),
    "vector_norm": _vector_norm,
    "argmax": _extreme_index("argmax"),
    "argmin": _extreme_index("argmin"),
    "cumsum": _cumulative("cumsum"),
    "cumprod": _cumulative("cumprod"),
    "topk": _topk,
    "sort": _sort,
}
