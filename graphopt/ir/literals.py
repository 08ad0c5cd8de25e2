"""Reads literals and dimensions: the part of the grammar that attributes, options and shapes share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeGuard, TypeVar

from graphopt.errors import IRError, ParseError
from graphopt.ir.attributes import MAX_DEPTH, MAX_INTEGER, RESERVED_WORDS, Attribute, Ref
from graphopt.ir.dims import MAX_SIZE, Dim, Expression, max_dim, min_dim, symbol
from graphopt.ir.scanner import Scanner, Token
from graphopt.ir.types import DType

__all__ = ["LiteralReader", "parse_attributes"]

_T = TypeVar("_T")
_DTYPES = {dtype.text: dtype for dtype in DType}
_FLAT_BRACES = re.compile(r"""\{[A-Za-z0-9_=,.() +*/%"$-]*\}""")


def parse_attributes(text: str) -> tuple[dict[str, Attribute], int]:
    """Attributes in braces at the start of `text`, such as `{axis=1, mode="train"}`, and where they end.

    The second result is the offset just behind the closing brace. Options of passes are written this way.

    Raises:
        ParseError: with line and column.
    """
    reader = LiteralReader(Scanner(text))
    return reader.braces(), reader.scanner.end


class LiteralReader:
    """Recursive descent over literals; recursion is bounded by `MAX_DEPTH`."""

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner
        self._attributes: dict[str, dict[str, Attribute]] = {}

    def guard(self, token: Token, action: Callable[[], _T]) -> _T:
        """Run an edit; its `IRError` becomes a `ParseError` at `token`."""
        try:
            return action()
        except ParseError:
            raise
        except IRError as error:
            raise self.scanner.error(error.what, token, error.fix) from None

    def bracketed(self, opening: str, closing: str, item: Callable[[], _T]) -> list[_T]:
        """Items between brackets, with commas between them."""
        scanner = self.scanner
        scanner.expect(opening, "here")
        items: list[_T] = []
        while not scanner.accept(closing):
            if items:
                scanner.expect(",", f"or '{closing}' after an item")
            items.append(item())
        return items

    def name(self, context: str) -> str:
        """A word, or anything in quotes."""
        token = self.scanner.token
        if token.kind == "string":
            self.scanner.take()
            return self.scanner.string(token, token.text)
        return self.scanner.expect_kind("word", context).text

    def integer(self) -> int:
        """A plain integer, 0 or more."""
        return self._int(self.scanner.expect_kind("int", "an integer"), MAX_SIZE)

    def _int(self, token: Token, limit: int) -> int:
        if len(token.text) > 20 or int(token.text) > limit:
            raise self.scanner.error("integer does not fit 64 bits", token)
        return int(token.text)

    def braces(self) -> dict[str, Attribute]:
        """Attributes in braces: `{axis=1, mode="train"}`.

        Few different ones make up a long text, so those without nested braces are remembered by their text.
        """
        scanner = self.scanner
        start = scanner.token.offset
        phrase = scanner.phrase(_FLAT_BRACES)
        if phrase is None:
            return self._read_braces()
        known = self._attributes.get(phrase)
        if known is not None:
            scanner.skip(phrase)
            return known
        attrs = self._read_braces()
        if scanner.end == start + len(phrase):
            self._attributes[phrase] = attrs
        return attrs

    def _read_braces(self) -> dict[str, Attribute]:
        scanner = self.scanner
        attrs: dict[str, Attribute] = {}
        scanner.expect("{", "before the attributes")
        while not scanner.accept("}"):
            if attrs:
                scanner.expect(",", "or '}' after an attribute")
            token = scanner.token
            name = self.name("an attribute name")
            if name in attrs:
                raise scanner.error(f"attribute '{name}' is given twice", token)
            scanner.expect("=", f"after attribute '{name}'")
            attrs[name] = self.literal(0)
        return attrs

    # Literals and dimensions share one expression grammar: a sum of products of atoms

    def dim(self) -> Dim:
        """A dimension: an integer or an expression over symbols."""
        token = self.scanner.token
        value = self.literal(0)
        if not _is_dim(value):
            raise self.scanner.error("a dimension is an integer or an expression over symbols", token)
        if isinstance(value, int) and value > MAX_SIZE:
            raise self.scanner.error("integer does not fit 64 bits", token)
        return value

    def literal(self, depth: int) -> Attribute:
        """Any attribute value."""
        value = self._product(depth)
        while self.scanner.at("+") or self.scanner.at("-"):
            operator = self.scanner.take()
            value = self._arithmetic(operator, value, self._product(depth))
        return value

    def _product(self, depth: int) -> Attribute:
        value = self._atom(depth)
        scanner = self.scanner
        while scanner.at("*") or scanner.at("//") or scanner.at("%") or (_is_dim(value) and scanner.split_modulo()):
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

        result = self.guard(operator, compute)
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
                return self._int(scanner.take(), MAX_INTEGER)
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
                return self.bracketed("[", "]", lambda: self.literal(depth + 1))
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
        left = self.literal(depth + 1)
        scanner.expect(",", f"between the two sides of {token.text}")
        right = self.literal(depth + 1)
        scanner.expect(")", f"after the sides of {token.text}")
        if not _is_dim(left) or not _is_dim(right):
            raise scanner.error(f"'{token.text}' works on dimensions only", token)
        return self.guard(token, lambda: (min_dim if token.text == "min" else max_dim)(left, right))

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
            items.append(self.literal(depth + 1))
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
            result[key] = self.literal(depth + 1)
        return result


def _is_dim(value: Attribute) -> TypeGuard[Dim]:
    return isinstance(value, int | Expression) and not isinstance(value, bool)


def _nonzero(divisor: Dim, operator: str) -> Dim:
    if divisor == 0:
        raise IRError(f"'{operator}' by zero")
    return divisor
