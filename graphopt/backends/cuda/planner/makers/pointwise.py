"""Elementwise ops and batch norms with stored statistics, alone or in a row."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.cuda.kernel import Unsupported
from graphopt.backends.cuda.kernels.elementwise import Elementwise
from graphopt.backends.cuda.planner.builder import Builder, Maker
from graphopt.backends.cuda.planner.choice import Way
from graphopt.backends.cuda.planner.rules import is_elementwise, is_inference_norm
from graphopt.backends.planning.groups import Group
from graphopt.ops.families import ELEMENTWISE

__all__ = ["MAKERS"]


def _elementwise(builder: Builder, group: Group) -> Sequence[Way]:
    node = group.anchor
    if not (is_elementwise(node) or is_inference_norm(node)):
        raise Unsupported(f"no kernel computes {node.op} on those operands")
    x, chain = builder.elementwise(group)
    y = builder.target(group)
    return [Way((Elementwise(x, y, chain),), y, "elementwise")]


MAKERS: dict[str, Maker] = dict.fromkeys((*sorted(ELEMENTWISE), "batch_norm"), _elementwise)
