"""Checks a graph against the op table, on top of the structural invariants.

For each canonical node: operands and attributes are those of its definition, attribute values are of their
kinds, and the stored types of its results are those that the type rule gives. Regions are checked like
graphs. Opaque nodes are believed.
"""

from __future__ import annotations

from graphopt.errors import IRError, VerifyError
from graphopt.ir.graph import Graph, Node
from graphopt.ir.types import TensorType
from graphopt.ir.verifier import verify_structure
from graphopt.ops.registry import call_of, infer_call, is_canonical

__all__ = ["verify", "verify_node"]


def verify(graph: Graph) -> None:
    """Check structure, signatures, types and regions of a graph; linear in its nodes.

    Raises:
        VerifyError: with the node's text, the stored and the expected type, and the line of the user's model.
    """
    verify_structure(graph)
    graphs = [graph]
    for current in graphs:  # grows while regions are found
        graphs.extend(region for node in current.nodes for region in node.regions)
    for current in reversed(graphs):  # what is inside first: there the cause stands
        for node in current.nodes:
            verify_node(node)


def verify_node(node: Node) -> None:
    """Check one node against the op table; opaque ones pass.

    Raises:
        VerifyError: signature, attributes or types do not fit.
    """
    if not is_canonical(node.op):
        return
    try:
        expected = infer_call(call_of(node))
    except IRError as error:  # no rule applies, or its arithmetic on dimensions has no answer
        raise VerifyError(error.what, where=_place(node), fix=error.fix) from error
    if len(expected) != len(node.results):
        raise VerifyError(f"{node.op} gives {len(expected)} results, the node has {len(node.results)}", where=_place(node))
    for result, type_ in zip(node.results, expected, strict=True):
        stored = TensorType(result.type.dtype, result.type.shape)
        if stored != type_:
            raise VerifyError(
                f"%{result.name} is stored as {stored.text}, {node.op} gives {type_.text}",
                where=_place(node),
                fix="build nodes with a Builder or Rewriter, which infer types",
            )


def _place(node: Node) -> str:
    source = node.source
    return f"{node!r}\n  from {source}" if source.module or source.file else repr(node)
