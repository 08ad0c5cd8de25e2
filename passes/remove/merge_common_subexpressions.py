"""Compute the same thing once.

    %a: f32[4] = exp(%x)
    %b: f32[4] = exp(%x)
    %c: f32[4] = add(%a, %b)
    -> %a = exp(%x);  %c = add(%a, %a)

Value numbering in one walk: two nodes are equal when op, operands and attributes are. Literals are
compared as they are written, so 1, 1.0 and true differ, and so do 0.0 and -0.0; nan equals nan. Operands
of commutative ops are compared in any order.

Numeric class: exact. Stage: training-safe: ops that draw random numbers or update running statistics
(dropout, batch_norm in train mode) and opaque ops are never merged.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.attributes import attribute_text
from graphopt.ir.graph import Node, Operand, Value
from graphopt.ops.registry import Effect, definition, is_canonical
from graphopt.pipeline.passes import NumericClass, Outcome, Pass
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["MergeCommonSubexpressions"]

_COMMUTATIVE = frozenset({"add", "mul", "eq", "ne", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor"})
"""Equal bits in either order; `maximum` and `minimum` are not among them: with 0.0 and -0.0 order decides."""

_UPDATES_STATISTICS = frozenset({"batch_norm", "instance_norm"})


def _why_kept(node: Node) -> str | None:
    """Why a node may not be merged with an equal one; empty text when it is of no interest."""
    if node.regions:
        return "regions are not compared"
    if not is_canonical(node.op):
        return f"opaque op {node.op} may draw random numbers or have effects"
    if definition(node.op).effect is not Effect.PURE or node.attrs.get("dropout_p", 0.0) != 0.0:
        return "draws random numbers in training"
    if node.op in _UPDATES_STATISTICS and node.attrs["mode"] != "eval":
        return "updates running statistics in training"
    return None


def _operand_key(operand: Operand) -> tuple[str, str]:
    return ("value", operand.name) if isinstance(operand, Value) else ("literal", attribute_text(operand))


@dataclass(frozen=True)
class MergeCommonSubexpressions(Pass):
    """Make readers of a repeated computation read the first one."""

    name = "merge-common-subexpressions"
    numeric = NumericClass.EXACT

    def apply(self, rewriter: Rewriter) -> Outcome:
        """Number the values in execution order."""
        seen: dict[tuple[object, ...], Node] = {}
        merged = 0
        skipped: list[tuple[str, str]] = []
        for node in rewriter.graph.nodes:
            keys = [_operand_key(operand) for operand in node.operands]
            if node.op in _COMMUTATIVE:
                keys.sort()
            key = (node.op, tuple(keys), tuple((name, attribute_text(value)) for name, value in node.attrs.items()))
            first = seen.setdefault(key, node)
            if first is node:
                continue
            why = _why_kept(node)
            if why is None:
                rewriter.replace(node, *first.results)
                merged += 1
            else:
                skipped.append((node.name, f"equal to %{first.name}, but {why}"))
        return Outcome(merged, tuple(skipped))
