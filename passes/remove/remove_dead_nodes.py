"""Remove nodes whose results nobody reads.

    %a: f32[4] = relu(%x)
    %b: f32[4] = exp(%a)          return %x
    -> return %x

One walk from the last node to the first: when a reader goes, its producers are looked at later in the
same walk, so the cost is linear. Kept in spite of having no readers: nodes without results (assertions),
ops with side effects, and opaque ops that are not known to be functional. An unread dropout goes: it
would only have advanced the random generator.

Numeric class: exact, nothing that is read changes. Stage: training-safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node
from graphopt.ops.registry import Effect, definition, is_canonical
from graphopt.pipeline.passes import NumericClass, Outcome, Pass
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["RemoveDeadNodes"]

_FUNCTIONAL_NAMESPACES = frozenset({"aten", "prims", "torchvision"})
"""Capture functionalises these; any other library's op may write files, count calls or draw numbers."""


def _why_kept(node: Node) -> str | None:
    """Why an unread node has to stay, or None when it can go."""
    if not node.results:
        return "has no results, so it is run for its effect"
    if node.op == "cond":
        inner = (f"in a branch, {inside.op} {why}" for region in node.regions for inside in region.nodes if (why := _why_kept(inside)))
        return next(inner, None)
    if is_canonical(node.op):
        return "has a side effect" if definition(node.op).effect is Effect.SIDE else None
    namespace, _, rest = node.op.partition(".")
    if namespace not in _FUNCTIONAL_NAMESPACES:
        return f"opaque op of '{namespace}' may have side effects, needs one of {', '.join(sorted(_FUNCTIONAL_NAMESPACES))}"
    if rest.partition(".")[0].endswith("_"):
        return "opaque op writes to its operand"
    return None


@dataclass(frozen=True)
class RemoveDeadNodes(Pass):
    """Drop every node that does not contribute to an output."""

    name = "remove-dead-nodes"
    numeric = NumericClass.EXACT

    def apply(self, rewriter: Rewriter) -> Outcome:
        """Walk the nodes backwards once."""
        removed = 0
        skipped: list[tuple[str, str]] = []
        for node in rewriter.graph.reversed_nodes:
            if any(result.use_count for result in node.results):
                continue
            why = _why_kept(node)
            if why is None:
                rewriter.erase(node)
                removed += 1
            else:
                skipped.append((node.name, why))
        return Outcome(removed, tuple(skipped))
