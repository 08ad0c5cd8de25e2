"""Every op of the table in torch calls, one file per family, and opaque ops.

lower_node(emitter, node, operands)     operands and results are handles of the emitter
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.reference.emitter import Emitter, Lowering, Site
from graphopt.backends.reference.lowering import (
    attention,
    binary,
    control,
    create,
    gather,
    image,
    matmul,
    norm,
    random,
    recurrent,
    reduce,
    shape,
    spatial,
    unary,
)
from graphopt.backends.reference.lowering.opaque import lower_opaque
from graphopt.errors import LoweringError
from graphopt.ir.graph import Node

__all__ = ["LOWERINGS", "lower_node"]

_FAMILIES = (unary, binary, create, shape, gather, reduce, spatial, matmul, norm, random, attention, image, recurrent, control)

LOWERINGS: dict[str, Lowering] = {op: lowering for family in _FAMILIES for op, lowering in family.LOWERINGS.items()}
"""Canonical ops by name; everything else is opaque."""


def lower_node(emitter: Emitter, node: Node, operands: Sequence[Any]) -> tuple[Any, ...]:
    """Say one node in torch calls; returns one handle per result.

    Raises:
        LoweringError: an opaque op is not registered with torch, or torch can't express the node.
    """
    lowering = LOWERINGS.get(node.op)
    if lowering is None:
        result = lower_opaque(emitter, Site(node, operands, {}))
    else:
        result = lowering(emitter, Site(node, operands, {name: emitter.value(value) for name, value in node.attrs.items()}))
    if len(node.results) == 1 and not isinstance(result, tuple):
        return (result,)
    if isinstance(result, tuple) and len(result) == len(node.results):
        return result
    count = len(result) if isinstance(result, tuple) else 1
    raise LoweringError(f"{node.op} gives {count} results, the node declares {len(node.results)}", where=repr(node))
