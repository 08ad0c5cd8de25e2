"""Pipeline text: `"fold-constants{max_bytes=1048576}, repeat(remove-identities, merge-chains)"`.

    pipeline ::= item ("," item)*
    item     ::= NAME [ "{" attr,* "}" ]  |  "repeat" "(" pipeline ")"

NAME is letters, digits, `-`, `_` and `.`; `attr` is that of IR text (`graphopt.ir.printer`), read by the
same parser, so nothing is ever evaluated as code. `repeat(...)` runs its passes until none fires.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.errors import ParseError, PassError, PassOptionError
from graphopt.ir.attributes import Attribute, attribute_text
from graphopt.ir.parser import parse_attributes

__all__ = ["MAX_NESTING", "RepeatSpec", "Spec", "parse_pipeline"]

MAX_NESTING = 8
"""Deepest nesting of `repeat(...)`."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Spec:
    """A pass or preset by name, with the options that the text gives."""

    name: str
    options: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])

    def __str__(self) -> str:
        options = ", ".join(f"{name}={attribute_text(value)}" for name, value in self.options.items())
        return f"{self.name}{{{options}}}" if options else self.name


@dataclass(frozen=True, slots=True)
class RepeatSpec:
    """A group that runs until nothing fires."""

    items: tuple[Spec | RepeatSpec, ...]


def parse_pipeline(text: str) -> tuple[Spec | RepeatSpec, ...]:
    """The items of a pipeline text, in order.

    Raises:
        PassOptionError: the options of an item do not follow the grammar.
        PassError: something else does not.
    """
    reader = _Reader(text)
    items = reader.items(0)
    if not reader.at_end():
        raise reader.error("expected ',' or the end of the pipeline")
    return items


class _Reader:
    """Reads one pipeline text from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._offset = 0

    def items(self, depth: int) -> tuple[Spec | RepeatSpec, ...]:
        """One or more items with commas between them."""
        if depth > MAX_NESTING:
            raise self.error(f"repeat(...) is nested deeper than {MAX_NESTING}")
        found = [self._item(depth)]
        while self._accept(","):
            if self.at_end() or self._peek() == ")":
                break  # a trailing comma
            found.append(self._item(depth))
        return tuple(found)

    def at_end(self) -> bool:
        """True when only space is left."""
        self._skip_space()
        return self._offset == len(self._text)

    def error(self, what: str) -> PassError:
        """An error at the current position."""
        rest = self._text[self._offset : self._offset + 20]
        got = repr(rest) if rest else "the end of the text"
        return PassError(f"pipeline text, column {self._offset + 1}: {what}, got {got}", where=repr(self._text[:200]))

    def _item(self, depth: int) -> Spec | RepeatSpec:
        self._skip_space()
        match = _NAME.match(self._text, self._offset)
        if match is None:
            raise self.error("expected the name of a pass or preset")
        self._offset = match.end()
        if match.group() == "repeat" and self._accept("("):
            items = self.items(depth + 1)
            if not self._accept(")"):
                raise self.error("expected ',' or ')' in repeat(...)")
            return RepeatSpec(items)
        self._skip_space()
        return Spec(match.group(), self._options(match.group()) if self._peek() == "{" else {})

    def _options(self, name: str) -> Mapping[str, Attribute]:
        try:
            options, length = parse_attributes(self._text[self._offset :])
        except ParseError as error:
            raise PassOptionError(f"options of '{name}': {error.what}", where=repr(self._text[:200]), fix=error.fix) from None
        self._offset += length
        return options

    def _accept(self, mark: str) -> bool:
        self._skip_space()
        if self._peek() != mark:
            return False
        self._offset += 1
        return True

    def _peek(self) -> str:
        return self._text[self._offset : self._offset + 1]

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._offset)
        self._offset = match.end() if match else self._offset
