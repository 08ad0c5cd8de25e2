"""Canonical text of a graph, which `graphopt.ir.parser` reads back to an equal graph.

    graph    ::= "graph" NAME "(" input,* ")" [ "where" range,* ] [ "takes" tuple dict ] "{" state* node* return "}"
    input    ::= VALUE ":" type                range  ::= SYMBOL "in" "[" INT "," (INT | "inf") "]"
    state    ::= KIND VALUE ":" type [ "frozen" ] [ "transient" ] [ "tied" tuple ] [ "sha256" STRING ]
    node     ::= [ result,+ "=" ] OP "(" operand,* ")" [ "{" attr,* "}" ] [ "regions" "{" graph* "}" ] [ "at" STRING STRING ":" INT ]
    return   ::= "return" operand,* [ "as" literal ]
    result   ::= VALUE ":" type                operand ::= VALUE | number | dim | "true" | "false" | "none"
    type     ::= DTYPE "[" dim,* "]" [ "sparse" "<" pattern ">" ]
    attr     ::= NAME "=" literal
    VALUE    ::= "%" then letters, digits, "_" and ".", or "%" and a JSON string
    KIND     ::= "param" | "buffer" | "constant"

Literals are listed in `graphopt.ir.attributes`, dimensions in `graphopt.ir.dims`. `#` starts a comment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from graphopt.ir.attributes import attribute_text
from graphopt.ir.graph import Graph, Node, Operand, State, Value

__all__ = ["BARE_NAME", "node_text", "operand_text", "show", "value_text"]

BARE_NAME = re.compile(r"[A-Za-z0-9_.]+\Z")
"""Value names that need no quotes."""

_BARE_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_INDENT = "  "


def show(graph: Graph, *, sources: bool = False, digests: Mapping[Value, str] | None = None) -> str:
    """The graph as text, ending in a newline.

    With `sources`, each node carries the module path and line of the user's model that it came from. `digests`
    are SHA-256 of the numbers of states, for a text that has its numbers in a file beside it.
    """
    return "\n".join(_graph_lines(graph, "", sources, digests or {})) + "\n"


def value_text(value: Value) -> str:
    """`%name`, with the name in quotes where it holds unusual characters."""
    return f"%{_quoted(value.name, BARE_NAME)}"


def operand_text(operand: Operand) -> str:
    """A value's name, or a literal."""
    return value_text(operand) if isinstance(operand, Value) else attribute_text(operand)


def node_text(node: Node, *, sources: bool = False) -> str:
    """One node as text; regions follow on lines of their own."""
    return "\n".join(_node_lines(node, "", sources, {}))


def _quoted(name: str, bare: re.Pattern[str]) -> str:
    return name if bare.match(name) else json.dumps(name, ensure_ascii=True)


def _typed(value: Value) -> str:
    return f"{value_text(value)}: {value.type.text}"


def _graph_lines(graph: Graph, indent: str, sources: bool, digests: Mapping[Value, str]) -> Iterator[str]:
    head = f"{indent}graph {_quoted(graph.name, _BARE_WORD)}({', '.join(_typed(v) for v in graph.inputs)})"
    if graph.symbols:
        head += " where " + ", ".join(f"{name} in {limits}" for name, limits in graph.symbols.items())
    structure = graph.structure
    if not graph.has_default_structure:
        head += f" takes {attribute_text(structure.args)} {attribute_text(structure.kwargs)}"
    yield head + " {"
    inner = indent + _INDENT
    for state in graph.states.values():
        yield inner + _state_text(state, digests.get(state.value))
    for node in graph.nodes:
        yield from _node_lines(node, inner, sources, digests)
    returned = ", ".join(operand_text(operand) for operand in graph.outputs)
    line = f"{inner}return {returned}".rstrip()
    if not graph.has_default_structure:
        line += f" as {attribute_text(structure.returns)}"
    yield line
    yield indent + "}"


def _state_text(state: State, digest: str | None) -> str:
    text = f"{state.kind} {_typed(state.value)}"
    if state.kind == "param" and not state.trainable:
        text += " frozen"
    if state.kind == "buffer" and not state.persistent:
        text += " transient"
    if state.tied:
        text += f" tied {attribute_text(state.tied)}"
    if digest:
        text += f' sha256 "{digest}"'
    return text


def _node_lines(node: Node, indent: str, sources: bool, digests: Mapping[Value, str]) -> Iterator[str]:
    results = ", ".join(_typed(result) for result in node.results)
    operands = ", ".join(operand_text(operand) for operand in node.operands)
    line = f"{indent}{results} = " if results else indent
    line += f"{node.op}({operands})"
    if node.attrs:
        line += " {" + ", ".join(f"{_quoted(k, _BARE_WORD)}={attribute_text(v)}" for k, v in node.attrs.items()) + "}"
    if node.regions:
        yield line + " regions {"
        for region in node.regions:
            yield from _graph_lines(region, indent + _INDENT, sources, digests)
        line = indent + "}"
    if sources and (node.source.module or node.source.file):
        source = node.source
        line += f" at {json.dumps(source.module, ensure_ascii=True)} {json.dumps(source.file, ensure_ascii=True)}:{source.line}"
    yield line
