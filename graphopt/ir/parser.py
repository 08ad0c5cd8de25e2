"""Reads the text that `graphopt.ir.printer` writes; the grammar stands there.

Nothing in a text can make this module run code, import anything or allocate more than the text is
long times a constant. Every mistake is a `ParseError` with line and column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from graphopt.ir.attributes import MAX_DEPTH, Attribute
from graphopt.ir.dims import Dim, Expression, symbols_of
from graphopt.ir.graph import CallStructure, Graph, GraphEditor, Operand, Range, Source, State, StateKind, Value
from graphopt.ir.literals import LiteralReader, parse_attributes
from graphopt.ir.nodes import RESERVED_OPS
from graphopt.ir.scanner import Scanner, Token
from graphopt.ir.types import DType, Sparsity, SparsityPattern, TensorType

__all__ = ["parse", "parse_attributes"]

_KINDS: tuple[StateKind, ...] = ("param", "buffer", "constant")
_DTYPES = {dtype.text: dtype for dtype in DType}
_PLAIN_TYPE = re.compile(r"[a-z0-9]+\[[A-Za-z0-9_,]*\]")


def parse(text: str) -> Graph:
    """The graph that `text` describes; its states have no data.

    This checks the grammar and that every value is defined once, before its uses.
    `graphopt.parse` also verifies the types by the ops' rules.

    Raises:
        ParseError: with line and column.
    """
    parser = _Parser(Scanner(text))
    graph = parser.graph(depth=0)
    if parser.scanner.token.kind != "end":
        raise parser.scanner.error(f"expected the end of the text after the graph, got {parser.scanner.describe()}")
    return graph


class _Parser(LiteralReader):
    """Recursive descent over graphs; recursion is bounded by `MAX_DEPTH`."""

    def __init__(self, scanner: Scanner) -> None:
        super().__init__(scanner)
        self._graph = Graph()
        self._editor = GraphEditor(self._graph)
        self._types: dict[str, TensorType] = {}
        self._checked: dict[int, TensorType] = {}

    def graph(self, depth: int) -> Graph:
        """One `graph ... { ... }`."""
        scanner = self.scanner
        if depth > MAX_DEPTH:
            raise scanner.error(f"graphs are nested deeper than {MAX_DEPTH}")
        outer = self._graph, self._editor, self._checked
        scanner.expect("graph", "at the start of a graph")
        self._graph = Graph(self.name("a graph name"))
        self._editor = GraphEditor(self._graph)
        self._checked = {}
        inputs = self.bracketed("(", ")", self._typed)
        if scanner.accept("where"):
            self._range()
            while scanner.accept(","):
                self._range()
        args: tuple[Attribute, ...] | None = None
        kwargs: Mapping[str, Attribute] = {}
        if scanner.accept("takes"):
            args, kwargs = self._call()
        scanner.expect("{", "before the body of the graph")
        for token, name, type_ in inputs:
            self._check_symbols(token, type_)
            self.guard(token, lambda name=name, type_=type_: self._editor.add_input(name, type_))
        while scanner.token.text in _KINDS and scanner.token.kind == "word":
            self._state()
        while not scanner.at("return"):
            self._node(depth)
        self._return(args, kwargs)
        scanner.expect("}", "after the return")
        result = self._graph
        self._graph, self._editor, self._checked = outer
        return result

    def _call(self) -> tuple[tuple[Attribute, ...], Mapping[str, Attribute]]:
        start = self.scanner.token
        args = self.literal(0)
        kwargs = self.literal(0)
        if not isinstance(args, tuple) or not isinstance(kwargs, Mapping):
            raise self.scanner.error("'takes' needs a tuple of arguments and a dict of keyword arguments", start)
        return args, kwargs

    def _range(self) -> None:
        scanner = self.scanner
        token = scanner.expect_kind("word", "a dimension's name")
        scanner.expect("in", f"after dimension '{token.text}'")
        scanner.expect("[", "before the range")
        minimum = self.integer()
        scanner.expect(",", "between the ends of the range")
        maximum = None if scanner.accept("inf") else self.integer()
        scanner.expect("]", "after the range")
        if minimum < 0 or (maximum is not None and maximum < minimum):
            raise scanner.error(f"range of '{token.text}' is empty or negative", token)
        self.guard(token, lambda: self._editor.add_symbol(token.text, Range(minimum, maximum)))

    def _state(self) -> None:
        scanner = self.scanner
        kind: StateKind = next(k for k in _KINDS if k == scanner.token.text)
        scanner.take()
        token, name, type_ = self._typed()
        self._check_symbols(token, type_)
        trainable = not (kind == "param" and scanner.accept("frozen"))
        persistent = not (kind == "buffer" and scanner.accept("transient"))
        tied: tuple[str, ...] = ()
        if scanner.accept("tied"):
            start = scanner.token
            names = self.literal(0)
            if not isinstance(names, tuple) or not all(isinstance(n, str) for n in names):
                raise scanner.error("'tied' needs a tuple of strings", start)
            tied = tuple(n for n in names if isinstance(n, str))
        digest: str | None = None
        if scanner.accept("sha256"):
            start = scanner.expect_kind("string", "a SHA-256 in quotes")
            digest = scanner.string(start, start.text)
            if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
                raise scanner.error("a SHA-256 has 64 lower-case hexadecimal digits", start)
        state = State(Value(name, type_), kind, None, tied, trainable, persistent, digest)
        self.guard(token, lambda: self._editor.add_state(state))

    def _node(self, depth: int) -> None:
        scanner = self.scanner
        results: list[tuple[Token, str, TensorType]] = []
        if scanner.token.kind == "value":
            results.append(self._typed())
            while scanner.accept(","):
                results.append(self._typed())
            scanner.expect("=", "after the results")
        op = scanner.expect_kind("word", "an op name or 'return'")
        if op.text in RESERVED_OPS:
            raise scanner.error(f"'{op.text}' can't name an op", op)
        operands = self.bracketed("(", ")", self._operand)
        attrs = self.braces() if scanner.at("{") else {}
        regions: list[Graph] = []
        if scanner.accept("regions"):
            scanner.expect("{", "before the regions")
            while not scanner.accept("}"):
                regions.append(self.graph(depth + 1))
        source = self._source() if scanner.accept("at") else None
        for token, _, type_ in results:
            self._check_symbols(token, type_)
        names = tuple((name, type_) for _, name, type_ in results)
        start = results[0][0] if results else op
        self.guard(start, lambda: self._editor.insert(op.text, operands, attrs, names, source=source, regions=regions))

    def _source(self) -> Source:
        scanner = self.scanner
        module = scanner.expect_kind("string", "a module path in quotes")
        file = scanner.expect_kind("string", "a file in quotes")
        scanner.expect(":", "between file and line")
        return Source(scanner.string(module, module.text), scanner.string(file, file.text), self.integer())

    def _return(self, args: tuple[Attribute, ...] | None, kwargs: Mapping[str, Attribute]) -> None:
        scanner = self.scanner
        start = scanner.expect("return", "at the end of the graph")
        operands: list[Operand] = []
        if not scanner.at("}") and not scanner.at("as"):
            operands.append(self._operand())
            while scanner.accept(","):
                operands.append(self._operand())
        structure: CallStructure | None = None
        if scanner.accept("as"):
            if args is None:
                raise scanner.error("'as' after the outputs needs 'takes' after the inputs", start)
            structure = CallStructure(args, kwargs, self.literal(0))
        elif args is not None:
            raise scanner.error("'takes' after the inputs needs 'as' after the outputs", start)
        self._editor.set_outputs(operands, structure)

    # Pieces

    def _value_name(self) -> tuple[Token, str]:
        token = self.scanner.expect_kind("value", "a value such as %x")
        raw = token.text[1:]
        return token, self.scanner.string(token, raw) if raw.startswith('"') else raw

    def _typed(self) -> tuple[Token, str, TensorType]:
        token, name = self._value_name()
        self.scanner.expect(":", "and a type after the value")
        return token, name, self._type()

    def _type(self) -> TensorType:
        """A type. Few different ones make up a long text, so plain ones are remembered by their text."""
        scanner = self.scanner
        token = scanner.token
        phrase = scanner.phrase(_PLAIN_TYPE)
        plain = self._types.get(phrase) if phrase is not None else None
        if phrase is not None and plain is not None:
            scanner.skip(phrase)
        else:
            plain = self._plain_type()
            if phrase is not None and scanner.end == token.offset + len(phrase):
                self._types[phrase] = plain
        if not scanner.accept("sparse"):
            return plain
        sparsity = self.guard(token, self._sparsity)
        return self.guard(token, lambda: TensorType(plain.dtype, plain.shape, sparsity))

    def _plain_type(self) -> TensorType:
        scanner = self.scanner
        token = scanner.expect_kind("word", "a dtype such as f32")
        if token.text not in _DTYPES:
            raise scanner.error(f"unknown dtype '{token.text}'", token, f"use one of {', '.join(_DTYPES)}")
        shape = tuple(self.bracketed("[", "]", self.dim))
        return self.guard(token, lambda: TensorType(_DTYPES[token.text], shape))

    def _sparsity(self) -> Sparsity:
        scanner = self.scanner
        scanner.expect("<", "after 'sparse'")
        if scanner.accept("unstructured"):
            result = Sparsity(SparsityPattern.UNSTRUCTURED, self._ratio())
        elif scanner.accept("block"):
            rows = self.integer()
            token = scanner.expect_kind("word", "a block shape such as 4x1")
            if not token.text.startswith("x") or not token.text[1:].isdecimal() or len(token.text) > 19:
                raise scanner.error("expected a block shape such as 4x1", token)
            result = Sparsity(SparsityPattern.BLOCK, self._ratio(), (rows, int(token.text[1:])))
        else:
            kept = self.integer()
            scanner.expect(":", "in an n:m pattern")
            group = self.integer()
            scanner.expect("axis", "after an n:m pattern")
            scanner.expect("=", "after axis")
            axis = self.integer()
            result = Sparsity(SparsityPattern.N_M, self._ratio(), (kept, group), axis)
        scanner.expect(">", "after the pattern")
        return result

    def _ratio(self) -> float:
        return float(self.scanner.expect_kind("float", "a ratio such as 0.8").text)

    def _check_symbols(self, token: Token, type_: TensorType) -> None:
        if id(type_) in self._checked:
            return
        for dim in type_.shape:
            self._check_dim(dim, token)
        self._checked[id(type_)] = type_

    def _check_dim(self, dim: Dim, token: Token) -> None:
        for name in symbols_of(dim):
            if name not in self._graph.symbols:
                raise self.scanner.error(f"dimension '{name}' is not declared", token, f"add 'where {name} in [0, inf]' to the graph")

    def _operand(self) -> Operand:
        scanner = self.scanner
        if scanner.token.kind == "value":
            token, name = self._value_name()
            if not self._graph.has_value(name):
                raise scanner.error(f"%{name} is used before it is defined", token)
            return self._graph.value(name)
        token = scanner.token
        literal = self.literal(0)
        if literal is None or isinstance(literal, bool | int | float):
            return literal
        if isinstance(literal, Expression):
            self._check_dim(literal, token)
            return literal
        raise scanner.error("an operand is a value, a number, a dimension, true, false or none", token)
