"""Reads the text that `graphopt.ir.printer` writes; the grammar stands there.

Nothing in a text can make this module run code, import anything or allocate more than the text is
long times a constant. Every mistake is a `ParseError` with line and column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeGuard, TypeVar

from graphopt.errors import IRError, ParseError
from graphopt.ir.attributes import MAX_DEPTH, RESERVED_WORDS, Attribute, Ref
from graphopt.ir.dims import MAX_SIZE, Dim, Expression, max_dim, min_dim, symbol
from graphopt.ir.graph import CallStructure, Graph, GraphEditor, Operand, Range, Source, State, StateKind, Value
from graphopt.ir.scanner import Scanner, Token
from graphopt.ir.types import DType, Sparsity, SparsityPattern, TensorType

__all__ = ["parse", "parse_attributes"]

_T = TypeVar("_T")
_KINDS: tuple[StateKind, ...] = ("param", "buffer", "constant")
_DTYPES = {dtype.text: dtype for dtype in DType}


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


def parse_attributes(text: str) -> tuple[dict[str, Attribute], int]:
    """Attributes in braces at the start of `text`, such as `{axis=1, mode="train"}`, and where they end.

    The second result is the offset just behind the closing brace. Options of passes are written this way.

    Raises:
        ParseError: with line and column.
    """
    parser = _Parser(Scanner(text))
    return parser.attributes()


def _is_dim(value: Attribute) -> TypeGuard[Dim]:
    return isinstance(value, int | Expression) and not isinstance(value, bool)


class _Parser:
    """Recursive descent; recursion is bounded by `MAX_DEPTH`."""

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner
        self._graph = Graph()
        self._editor = GraphEditor(self._graph)

    # Graph level

    def graph(self, depth: int) -> Graph:
        """One `graph ... { ... }`."""
        scanner = self.scanner
        if depth > MAX_DEPTH:
            raise scanner.error(f"graphs are nested deeper than {MAX_DEPTH}")
        outer = self._graph, self._editor
        scanner.expect("graph", "at the start of a graph")
        self._graph = Graph(self._name("a graph name"))
        self._editor = GraphEditor(self._graph)
        inputs = self._bracketed("(", ")", self._typed)
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
            self._guard(token, lambda name=name, type_=type_: self._editor.add_input(name, type_))
        while scanner.token.text in _KINDS and scanner.token.kind == "word":
            self._state()
        while not scanner.at("return"):
            self._node(depth)
        self._return(args, kwargs)
        scanner.expect("}", "after the return")
        result = self._graph
        self._graph, self._editor = outer
        return result

    def attributes(self) -> tuple[dict[str, Attribute], int]:
        """Attributes in braces, and the offset behind them."""
        attrs = self._attributes()
        return attrs, self.scanner.end

    def _call(self) -> tuple[tuple[Attribute, ...], Mapping[str, Attribute]]:
        start = self.scanner.token
        args = self._literal(0)
        kwargs = self._literal(0)
        if not isinstance(args, tuple) or not isinstance(kwargs, Mapping):
            raise self.scanner.error("'takes' needs a tuple of arguments and a dict of keyword arguments", start)
        return args, kwargs

    def _range(self) -> None:
        scanner = self.scanner
        token = scanner.expect_kind("word", "a dimension's name")
        scanner.expect("in", f"after dimension '{token.text}'")
        scanner.expect("[", "before the range")
        minimum = self._integer()
        scanner.expect(",", "between the ends of the range")
        maximum = None if scanner.accept("inf") else self._integer()
        scanner.expect("]", "after the range")
        if minimum < 0 or (maximum is not None and maximum < minimum):
            raise scanner.error(f"range of '{token.text}' is empty or negative", token)
        self._guard(token, lambda: self._editor.add_symbol(token.text, Range(minimum, maximum)))

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
            names = self._literal(0)
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
        self._guard(token, lambda: self._editor.add_state(state))

    def _node(self, depth: int) -> None:
        scanner = self.scanner
        results: list[tuple[Token, str, TensorType]] = []
        if scanner.token.kind == "value":
            results.append(self._typed())
            while scanner.accept(","):
                results.append(self._typed())
            scanner.expect("=", "after the results")
        op = scanner.expect_kind("word", "an op name or 'return'")
        if op.text in ("graph", "return"):
            raise scanner.error(f"'{op.text}' is no op", op)
        operands = self._bracketed("(", ")", self._operand)
        attrs = self._attributes() if scanner.at("{") else {}
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
        self._guard(start, lambda: self._editor.insert(op.text, operands, attrs, names, source=source, regions=regions))

    def _source(self) -> Source:
        scanner = self.scanner
        module = scanner.expect_kind("string", "a module path in quotes")
        file = scanner.expect_kind("string", "a file in quotes")
        scanner.expect(":", "between file and line")
        return Source(scanner.string(module, module.text), scanner.string(file, file.text), self._integer())

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
            structure = CallStructure(args, kwargs, self._literal(0))
        elif args is not None:
            raise scanner.error("'takes' after the inputs needs 'as' after the outputs", start)
        self._editor.set_outputs(operands, structure)

    # Pieces

    def _guard(self, token: Token, action: Callable[[], _T]) -> _T:
        """Run an edit; its `IRError` becomes a `ParseError` at `token`."""
        try:
            return action()
        except ParseError:
            raise
        except IRError as error:
            raise self.scanner.error(error.what, token, error.fix) from None

    def _bracketed(self, opening: str, closing: str, item: Callable[[], _T]) -> list[_T]:
        scanner = self.scanner
        scanner.expect(opening, "here")
        items: list[_T] = []
        while not scanner.accept(closing):
            if items:
                scanner.expect(",", f"or '{closing}' after an item")
            items.append(item())
        return items

    def _name(self, context: str) -> str:
        token = self.scanner.token
        if token.kind == "string":
            self.scanner.take()
            return self.scanner.string(token, token.text)
        return self.scanner.expect_kind("word", context).text

    def _integer(self) -> int:
        token = self.scanner.expect_kind("int", "an integer")
        return self._int(token)

    def _int(self, token: Token) -> int:
        if len(token.text) > 19 or int(token.text) > MAX_SIZE:
            raise self.scanner.error("integer does not fit 64 bits", token)
        return int(token.text)

    def _value_name(self) -> tuple[Token, str]:
        token = self.scanner.expect_kind("value", "a value such as %x")
        raw = token.text[1:]
        return token, self.scanner.string(token, raw) if raw.startswith('"') else raw

    def _typed(self) -> tuple[Token, str, TensorType]:
        token, name = self._value_name()
        self.scanner.expect(":", "and a type after the value")
        return token, name, self._type()

    def _type(self) -> TensorType:
        scanner = self.scanner
        token = scanner.expect_kind("word", "a dtype such as f32")
        if token.text not in _DTYPES:
            raise scanner.error(f"unknown dtype '{token.text}'", token, f"use one of {', '.join(_DTYPES)}")
        shape = tuple(self._bracketed("[", "]", self._dim))
        sparsity = self._guard(token, self._sparsity) if scanner.accept("sparse") else None
        return self._guard(token, lambda: TensorType(_DTYPES[token.text], shape, sparsity))

    def _sparsity(self) -> Sparsity:
        scanner = self.scanner
        scanner.expect("<", "after 'sparse'")
        if scanner.accept("unstructured"):
            result = Sparsity(SparsityPattern.UNSTRUCTURED, self._ratio())
        elif scanner.accept("block"):
            rows = self._integer()
            token = scanner.expect_kind("word", "a block shape such as 4x1")
            if not token.text.startswith("x") or not token.text[1:].isdecimal() or len(token.text) > 19:
                raise scanner.error("expected a block shape such as 4x1", token)
            result = Sparsity(SparsityPattern.BLOCK, self._ratio(), (rows, int(token.text[1:])))
        else:
            kept = self._integer()
            scanner.expect(":", "in an n:m pattern")
            group = self._integer()
            scanner.expect("axis", "after an n:m pattern")
            scanner.expect("=", "after axis")
            axis = self._integer()
            result = Sparsity(SparsityPattern.N_M, self._ratio(), (kept, group), axis)
        scanner.expect(">", "after the pattern")
        return result

    def _ratio(self) -> float:
        return float(self.scanner.expect_kind("float", "a ratio such as 0.8").text)

    def _check_symbols(self, token: Token, type_: TensorType) -> None:
        for dim in type_.shape:
            self._check_dim(dim, token)

    def _check_dim(self, dim: Dim, token: Token) -> None:
        from graphopt.ir.dims import symbols_of

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
        literal = self._literal(0)
        if literal is None or isinstance(literal, bool | int | float):
            return literal
        if isinstance(literal, Expression):
            self._check_dim(literal, token)
            return literal
        raise scanner.error("an operand is a value, a number, a dimension, true, false or none", token)

    def _attributes(self) -> dict[str, Attribute]:
        scanner = self.scanner
        attrs: dict[str, Attribute] = {}
        scanner.expect("{", "before the attributes")
        while not scanner.accept("}"):
            if attrs:
                scanner.expect(",", "or '}' after an attribute")
            token = scanner.token
            name = self._name("an attribute name")
            if name in attrs:
                raise scanner.error(f"attribute '{name}' is given twice", token)
            scanner.expect("=", f"after attribute '{name}'")
            attrs[name] = self._literal(0)
        return attrs

    # Literals and dimensions share one expression grammar: a sum of products of atoms

    def _dim(self) -> Dim:
        token = self.scanner.token
        value = self._literal(0)
        if not _is_dim(value):
            raise self.scanner.error("a dimension is an integer or an expression over symbols", token)
        return value

    def _literal(self, depth: int) -> Attribute:
        value = self._product(depth)
        while self.scanner.at("+") or self.scanner.at("-"):
            operator = self.scanner.take()
            value = self._arithmetic(operator, value, self._product(depth))
        return value

    def _product(self, depth: int) -> Attribute:
        value = self._atom(depth)
        while self.scanner.at("*") or self.scanner.at("//") or self.scanner.at("%"):
            operator = self.scanner.take()
            value = self._arithmetic(operator, value, self._atom(depth))
        return value

    def _arithmetic(self, operator: Token, left: Attribute, right: Attribute) -> Dim:
        if not _is_dim(left) or not _is_dim(right):
            raise self.scanner.error(f"'{operator.text}' works on dimensions only", operator)

        def compute() -> Dim:
            match operator.text:
                case "+":
                    return left + right
                case "-":
                    return left - right
                case "*":
                    return left * right
                case "//":
                    return _nonzero(right, operator.text) and left // right
                case _:
                    return _nonzero(right, operator.text) and left % right

        result = self._guard(operator, compute)
        if isinstance(result, int) and abs(result) > MAX_SIZE:
            raise self.scanner.error("integer does not fit 64 bits", operator)
        return result

    def _atom(self, depth: int) -> Attribute:
        scanner = self.scanner
        if depth > MAX_DEPTH:
            raise scanner.error(f"brackets are nested deeper than {MAX_DEPTH}")
        token = scanner.token
        match token.kind:
            case "int":
                return self._int(scanner.take())
            case "float":
                return float(scanner.take().text)
            case "string":
                scanner.take()
                return scanner.string(token, token.text)
            case "ref":
                scanner.take()
                if len(token.text) > 10:
                    raise scanner.error("reference is too large", token)
                return Ref(int(token.text[1:]))
            case "word":
                return self._word(scanner.take(), depth)
            case "mark" if token.text == "-":
                scanner.take()
                return self._negate(token, self._atom(depth + 1))
            case "mark" if token.text == "(":
                return self._tuple(depth)
            case "mark" if token.text == "[":
                return self._bracketed("[", "]", lambda: self._literal(depth + 1))
            case "mark" if token.text == "{":
                return self._dict(depth)
            case _:
                raise scanner.error(f"expected a literal, got {scanner.describe()}")

    def _word(self, token: Token, depth: int) -> Attribute:
        match token.text:
            case "none":
                return None
            case "true":
                return True
            case "false":
                return False
            case "inf":
                return float("inf")
            case "nan":
                return float("nan")
            case "min" | "max":
                return self._extremum(token, depth)
            case text if text in _DTYPES:
                return _DTYPES[text]
            case text if text.isidentifier() and text not in RESERVED_WORDS:
                return symbol(text)
            case text:
                raise self.scanner.error(f"'{text}' is neither a literal nor a dimension", token, "put strings in double quotes")

    def _extremum(self, token: Token, depth: int) -> Dim:
        scanner = self.scanner
        scanner.expect("(", f"after {token.text}")
        left = self._literal(depth + 1)
        scanner.expect(",", f"between the two sides of {token.text}")
        right = self._literal(depth + 1)
        scanner.expect(")", f"after the sides of {token.text}")
        if not _is_dim(left) or not _is_dim(right):
            raise scanner.error(f"'{token.text}' works on dimensions only", token)
        return self._guard(token, lambda: (min_dim if token.text == "min" else max_dim)(left, right))

    def _negate(self, token: Token, value: Attribute) -> Attribute:
        if isinstance(value, bool) or not isinstance(value, int | float | Expression):
            raise self.scanner.error("'-' works on numbers and dimensions only", token)
        return -value

    def _tuple(self, depth: int) -> Attribute:
        """A tuple, or an expression in brackets: `(x,)` is a tuple, `(x)` is x."""
        scanner = self.scanner
        scanner.expect("(", "here")
        items: list[Attribute] = []
        comma = True
        while not scanner.at(")"):
            if not comma:
                raise scanner.error(f"expected ',' or ')' after an item, got {scanner.describe()}")
            items.append(self._literal(depth + 1))
            comma = scanner.accept(",")
        scanner.take()
        return items[0] if len(items) == 1 and not comma else tuple(items)

    def _dict(self, depth: int) -> Attribute:
        scanner = self.scanner
        scanner.expect("{", "here")
        result: dict[str, Attribute] = {}
        while not scanner.accept("}"):
            if result:
                scanner.expect(",", "or '}' after an item")
            token = scanner.expect_kind("string", "a key in double quotes")
            key = scanner.string(token, token.text)
            if key in result:
                raise scanner.error(f"key {token.text[:40]} is given twice", token)
            scanner.expect(":", "after a key")
            result[key] = self._literal(depth + 1)
        return result


def _nonzero(divisor: Dim, operator: str) -> Dim:
    if divisor == 0:
        raise IRError(f"'{operator}' by zero")
    return divisor
