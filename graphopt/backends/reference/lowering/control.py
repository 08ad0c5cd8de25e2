"""Control flow."""

from __future__ import annotations

from graphopt.backends.reference.emitter import Emitter, Lowering, Site
from graphopt.backends.reference.lowering.literals import tensor_operand

__all__ = ["LOWERINGS"]


def _cond(emit: Emitter, site: Site) -> object:
    return emit.branch(site.node, tensor_operand(emit, site, 0), site.operands[1:])


LOWERINGS: dict[str, Lowering] = {"cond": _cond}
