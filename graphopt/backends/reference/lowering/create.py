"""Ops that make a tensor from nothing; they follow the device of the graph's tensors."""

from __future__ import annotations

from graphopt.backends.reference.emitter import Emitter, Lowering, Site

__all__ = ["LOWERINGS"]


def _full(emit: Emitter, site: Site) -> object:
    return emit.call("torch.full", site["shape"], site["value"], dtype=site["dtype"], device=emit.device())


def _arange(emit: Emitter, site: Site) -> object:
    return emit.call("torch.arange", site["start"], site["stop"], site["step"], dtype=site["dtype"], device=emit.device())


def _eye(emit: Emitter, site: Site) -> object:
    return emit.call("torch.eye", site["rows"], site["columns"], dtype=site["dtype"], device=emit.device())


def _linspace(emit: Emitter, site: Site) -> object:
    return emit.call("torch.linspace", site["start"], site["stop"], site["steps"], dtype=site["dtype"], device=emit.device())


LOWERINGS: dict[str, Lowering] = {"full": _full, "arange": _arange, "eye": _eye, "linspace": _linspace}
