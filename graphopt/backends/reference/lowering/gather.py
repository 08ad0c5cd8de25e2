"""Ops that read or write at positions given by a tensor."""

from __future__ import annotations

import torch

from graphopt.backends.reference.emitter import Emitter, Lowering, Site
from graphopt.backends.reference.lowering.literals import tensor_operand
from graphopt.ir.graph import Value

__all__ = ["LOWERINGS"]


def _index(emit: Emitter, site: Site) -> object:
    entries = site.node.operands[1:]
    if any(isinstance(entry, Value) and entry.type.rank == 0 for entry in entries):
        # Python's x[i] reads a 0-dimensional index as a number, which a traced graph can't do.
        return emit.call(torch.ops.aten.index.Tensor, site[0], list(site.operands[1:]))
    index = tuple(slice(None) if entry is None else handle for entry, handle in zip(entries, site.operands[1:], strict=True))
    return emit.call("operator.getitem", site[0], index)


def _index_put(emit: Emitter, site: Site) -> object:
    values = tensor_operand(emit, site, 1, 0)
    return emit.call(torch.ops.aten.index_put.default, site[0], list(site.operands[2:]), values, site["accumulate"])


def _scatter(emit: Emitter, site: Site) -> object:
    arguments = (site[0], site["axis"], site[1], site[2])
    if site["reduce"] is None:
        return emit.call("torch.scatter", *arguments)
    if site["reduce"] == "add" and not site.is_literal(2):
        return emit.call("torch.scatter_add", *arguments)  # scatter(reduce="add") has no gradient
    return emit.call("torch.scatter", *arguments, reduce=site["reduce"])


def _slice_scatter(emit: Emitter, site: Site) -> object:
    return emit.call("torch.slice_scatter", site[0], site[1], site["axis"], site["start"], site["stop"], site["step"])


LOWERINGS: dict[str, Lowering] = {
    "gather": lambda emit, site: emit.call("torch.gather", site[0], site["axis"], site[1]),
    "index_select": lambda emit, site: emit.call("torch.index_select", site[0], site["axis"], site[1]),
    "index": _index,
    "embedding": lambda emit, site: emit.call("F.embedding", site[1], site[0], padding_idx=site["padding_idx"]),
    "scatter": _scatter,
    "index_put": _index_put,
    "slice_scatter": _slice_scatter,
    "select_scatter": lambda emit, site: emit.call("torch.select_scatter", site[0], site[1], site["axis"], site["index"]),
}
