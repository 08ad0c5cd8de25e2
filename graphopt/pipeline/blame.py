"""Names the pass behind a wrong result that no check of a rewritten region has seen.

The passes run again, one by one, on a fresh copy; after each the whole graph is compared with the original
in float64 and then, as a deployed graph would be, in its own dtypes. The first pass after which they differ
is to blame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphopt.errors import GraphoptError
from graphopt.ir.graph import Graph, Value
from graphopt.ir.printer import node_text
from graphopt.pipeline.compare import Mismatch, compare, compare_declared
from graphopt.pipeline.context import Context
from graphopt.pipeline.divergence import first_divergence
from graphopt.pipeline.passes import ContextPass, NumericClass, Pass
from graphopt.pipeline.recording import Probe, run_outputs
from graphopt.pipeline.records import BrokenPromise
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["find_culprit"]


def find_culprit(
    original: Graph,
    passes: Sequence[Pass],
    probes: Sequence[Probe],
    mismatch: Mismatch | None = None,
    context: Context | None = None,
) -> BrokenPromise:
    """The first of `passes` after which the graph computes something else than before, as a broken promise.

    After a lossy pass, the graph as that left it is what later ones are compared with; `context` is what such passes look at.

    Without a culprit (the difference does not come back), the promise names all the passes together.
    """
    graph = original.clone()
    reference = graph.clone()
    for pass_ in passes:
        before = graph.clone()
        if isinstance(pass_, ContextPass):
            pass_.apply_with(Rewriter(graph), replace(context or Context(), progress=None))
        else:
            pass_.run(graph)
        if pass_.numeric is NumericClass.LOSSY:
            reference = graph.clone()
            continue
        for probe in probes:
            found = None if probe.special else _difference(reference, graph, probe)
            if found is None:
                continue
            divergence = first_divergence(before, graph, probe, pass_.numeric)
            node = divergence.new.producer if divergence is not None and isinstance(divergence.new, Value) else None
            return BrokenPromise(
                pass_.name,
                pass_.numeric,
                f"the whole graph differs after it: {found.rule}",
                f"%{divergence.old.name}" if divergence is not None else "",
                node_text(node) if node is not None else "",
                str(node.source) if node is not None and node.source.file else "",
                found.error,
            )
    rule = mismatch.rule if mismatch is not None else "the result differs"
    together = ", ".join(pass_.name for pass_ in passes)
    return BrokenPromise(
        together, NumericClass.ROUNDING, f"all passes together: {rule}", error=mismatch.error if mismatch else float("nan")
    )


def _difference(reference: Graph, graph: Graph, probe: Probe) -> Mismatch | None:
    try:
        expected = run_outputs(reference, probe.inputs, precise=True)
        found = run_outputs(graph, probe.inputs, precise=True)
        for old, new in zip(expected, found, strict=True):
            mismatch = compare(old, new, NumericClass.ROUNDING)[1]
            if mismatch is not None:
                return mismatch
        eager = run_outputs(reference, probe.inputs, precise=False)
        declared = run_outputs(graph, probe.inputs, precise=False)
        for exact, old, new in zip(expected, eager, declared, strict=True):
            mismatch = compare_declared(exact, old, new)[1]
            if mismatch is not None:
                return mismatch
    except (GraphoptError, RuntimeError, IndexError, ValueError) as error:
        return Mismatch(float("nan"), f"it does not run: {type(error).__name__}: {error}")
    return None
