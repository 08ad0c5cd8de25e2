"""Splits IR text into tokens, one at a time, with positions for messages."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from graphopt.errors import ParseError

__all__ = ["Scanner", "Token"]

_TOKEN = re.compile(
    r"""(?P<space>(?:[\ \t\r\n]+|\#[^\n]*)+)
      | (?P<value>%(?:[A-Za-z0-9_.]+|"(?:[^"\\\n]|\\.)*"))
      | (?P<ref>\$[0-9]+)
      | (?P<float>[0-9]+(?:\.[0-9]*(?:e[+-]?[0-9]+)?|e[+-]?[0-9]+))
      | (?P<int>[0-9]+)
      | (?P<word>[A-Za-z_][A-Za-z0-9_.]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<mark>//|[()\[\]{}<>,:=+*%-])
    """,
    re.VERBOSE,
)


@dataclass(slots=True)
class Token:
    """A piece of text: its kind (`value`, `word`, `int`, `mark`, ..., `end`), text and offset.

    Not frozen, since frozen objects take four times as long to make; nobody changes one.
    """

    kind: str
    text: str
    offset: int


class Scanner:
    """Reads tokens with one token of look-ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._offset = 0
        self._end = 0
        self._token = self._scan()

    @property
    def token(self) -> Token:
        """The token at hand, not yet taken."""
        return self._token

    @property
    def end(self) -> int:
        """Offset just behind the token that was taken last."""
        return self._end

    def take(self) -> Token:
        """The token at hand; the next one becomes the token at hand."""
        token = self._token
        self._end = token.offset + len(token.text)
        self._token = self._scan()
        return token

    def at(self, text: str) -> bool:
        """True when the token at hand is the mark or word `text`."""
        return self._token.text == text and self._token.kind in ("mark", "word")

    def accept(self, text: str) -> bool:
        """Take the token if it is `text`."""
        if self.at(text):
            self.take()
            return True
        return False

    def expect(self, text: str, context: str) -> Token:
        """Take the token, which has to be the mark or word `text`.

        Raises:
            ParseError: it is something else.
        """
        if not self.at(text):
            raise self.error(f"expected '{text}' {context}, got {self.describe()}")
        return self.take()

    def expect_kind(self, kind: str, context: str) -> Token:
        """Take the token, which has to be of this kind."""
        if self._token.kind != kind:
            raise self.error(f"expected {context}, got {self.describe()}")
        return self.take()

    def string(self, token: Token, raw: str) -> str:
        """Decode a JSON string token."""
        try:
            decoded = json.loads(raw)
        except ValueError as error:
            raise self.error(f"bad string {raw[:40]}: {error}", token) from None
        if any(0xD800 <= ord(character) <= 0xDFFF for character in decoded):
            raise self.error("string holds half of a surrogate pair", token)
        return decoded

    def describe(self) -> str:
        """The token at hand in words, for messages."""
        if self._token.kind == "end":
            return "the end of the text"
        text = self._token.text
        return repr(text if len(text) <= 40 else text[:37] + "...")

    def error(self, what: str, token: Token | None = None, fix: str | None = None) -> ParseError:
        """A `ParseError` at a token, the one at hand by default."""
        offset = (token or self._token).offset
        line = self._text.count("\n", 0, offset) + 1
        column = offset - (self._text.rfind("\n", 0, offset) + 1) + 1
        return ParseError(what, line=line, column=column, fix=fix)

    def phrase(self, pattern: re.Pattern[str]) -> str | None:
        """The text that `pattern` matches from the token at hand on; nothing is taken."""
        match = pattern.match(self._text, self._token.offset)
        return None if match is None else match.group()

    def skip(self, phrase: str) -> None:
        """Take a phrase that begins at the token at hand and that the caller knows already."""
        self._offset = self._end = self._token.offset + len(phrase)
        self._token = self._scan()

    def split_modulo(self) -> bool:
        """Read `%4`, which looks like a value, as `%` and `4`, where only the operator can stand."""
        token = self._token
        if token.kind != "value" or token.text.startswith('%"'):
            return False
        self._token = Token("mark", "%", token.offset)
        self._offset = token.offset + 1
        return True

    def _scan(self) -> Token:
        text = self._text
        match = _TOKEN.match(text, self._offset)
        if match is not None and match.lastgroup == "space":
            self._offset = match.end()
            match = _TOKEN.match(text, self._offset)
        if match is None:
            if self._offset == len(text):
                return Token("end", "", self._offset)
            self._token = Token("bad", text[self._offset], self._offset)
            raise self.error(f"unexpected character {text[self._offset]!r}")
        start, self._offset = match.span()
        return Token(match.lastgroup or "bad", match.group(), start)
