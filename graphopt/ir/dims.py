"""Dimensions: integers, symbols and the few expressions that shapes need.

A `Dim` is an `int` or an `Expression`. Expressions are kept in a normal form, a polynomial with
integer coefficients over *atoms*, so that two equal dimensions compare equal however they were built:

    >>> batch = symbol("batch")
    >>> str(2 * batch + batch), str((4 * batch) // 4), 2 * batch - batch == batch
    ('3*batch', 'batch', True)

An atom is a symbol or one of `a//b`, `a % b`, `min(a, b)`, `max(a, b)` that could not be simplified.
`//` and `%` round towards minus infinity, as in Python. Divisors that are integers are positive, leave no
whole multiples in the dividend and are merged where divisions are nested, so that the size after five
convolutions of stride 2 is `(height + 31)//32`. Text is read by `graphopt.ir.parser`, with a
grammar of our own: nothing here or there evaluates code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeAlias

from graphopt.errors import SymbolError

__all__ = [
    "MAX_DEGREE",
    "MAX_SIZE",
    "MAX_TERMS",
    "MAX_WEIGHT",
    "Call",
    "Dim",
    "Expression",
    "Symbol",
    "evaluate_dim",
    "max_dim",
    "min_dim",
    "product",
    "symbol",
    "symbols_of",
]


MAX_TERMS = 256
"""Most terms that an expression may have: real shapes need a handful, hostile text could ask for billions."""

MAX_DEGREE = 32
"""Most factors that one term may have."""

MAX_WEIGHT = 4096
"""Most symbols, counted with repetition, that an expression may mention, those in nested divisions among them."""

MAX_SIZE = 2**63 - 1
"""Largest integer in a dimension, as torch's."""


@dataclass(frozen=True)
class Symbol:
    """A named dimension whose size is known when the graph is run."""

    name: str
    weight: ClassVar[int] = 1

    @cached_property
    def text(self) -> str:
        """The symbol's name, which is its text."""
        return self.name

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Call:
    """An operation that has no polynomial form: `//`, `%`, `min` or `max` of two dimensions."""

    operator: str
    left: Dim
    right: Dim

    @cached_property
    def weight(self) -> int:
        """Number of symbols mentioned, at least 1."""
        return sum(dim.weight for dim in (self.left, self.right) if isinstance(dim, Expression))

    @cached_property
    def text(self) -> str:
        """Canonical text: `min(a, b)`, `a//b` or `a % b`, with brackets around anything but an atom.

        The blanks keep `% 4` apart from a value called `%4`.
        """
        if self.operator in ("min", "max"):
            return f"{self.operator}({self.left}, {self.right})"
        operator = " % " if self.operator == "%" else self.operator
        return f"{_bracket(self.left)}{operator}{_bracket(self.right)}"

    def __str__(self) -> str:
        return self.text


Atom: TypeAlias = Symbol | Call
Monomial: TypeAlias = tuple[Atom, ...]


@dataclass(frozen=True)
class Expression:
    """A polynomial over atoms, in normal form: terms sorted, no zero coefficient, never constant.

    Build one with arithmetic on `symbol(...)`; a result without symbols is an `int` again.
    """

    terms: tuple[tuple[Monomial, int], ...]

    @cached_property
    def weight(self) -> int:
        """Number of symbols mentioned, counted with repetition."""
        return sum(atom.weight for monomial, _ in self.terms for atom in monomial)

    @cached_property
    def text(self) -> str:
        """Canonical text, which the parser reads back to an equal expression."""
        parts: list[str] = []
        for monomial, coefficient in self.terms:
            magnitude = abs(coefficient)
            factors = [atom.text if isinstance(atom, Symbol) or atom.operator in ("min", "max") else f"({atom.text})" for atom in monomial]
            if len(monomial) == 1 and (coefficient == 1 or (coefficient == -1 and parts)):
                factors = [monomial[0].text]
            if magnitude != 1 or not factors:
                factors.insert(0, str(magnitude))
            sign = "-" if coefficient < 0 else "+"
            body = "*".join(factors)
            parts.append(f"{sign} {body}" if parts else f"{'-' if coefficient < 0 else ''}{body}")
        return " ".join(parts)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Dim({self.text})"

    def __add__(self, other: Dim) -> Dim:
        return _from_terms([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return _from_terms([(monomial, -coefficient) for monomial, coefficient in self.terms])

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return (-self) + other

    def __mul__(self, other: Dim) -> Dim:
        return _multiply(self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return _floor_divide(self, other)

    def __rfloordiv__(self, other: int) -> Dim:
        return _floor_divide(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return _modulo(self, other)

    def __rmod__(self, other: int) -> Dim:
        return _modulo(other, self)


Dim: TypeAlias = int | Expression


def symbol(name: str) -> Expression:
    """The dimension called `name`."""
    return Expression((((Symbol(name),), 1),))


def min_dim(left: Dim, right: Dim) -> Dim:
    """The smaller of two dimensions; exact where both are integers or equal."""
    return _extremum("min", left, right)


def max_dim(left: Dim, right: Dim) -> Dim:
    """The larger of two dimensions; exact where both are integers or equal."""
    return _extremum("max", left, right)


def product(dims: tuple[Dim, ...]) -> Dim:
    """The product of all dimensions; 1 for none."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


def symbols_of(dim: Dim) -> frozenset[str]:
    """Names of all symbols in a dimension."""
    if isinstance(dim, int):
        return frozenset()
    found: set[str] = set()
    pending: list[Dim] = [dim]
    while pending:
        current = pending.pop()
        if isinstance(current, int):
            continue
        for monomial, _ in current.terms:
            for atom in monomial:
                if isinstance(atom, Symbol):
                    found.add(atom.name)
                else:
                    pending += (atom.left, atom.right)
    return frozenset(found)


def evaluate_dim(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """Substitute symbols; the result is an `int` when every symbol got an integer.

    Raises:
        SymbolError: a symbol has no value, or the divisor of `//` or `%` became zero.
    """
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        factor: Dim = coefficient
        for atom in monomial:
            factor = factor * _evaluate_atom(atom, values)
        total = total + factor
    return total


def _evaluate_atom(atom: Atom, values: Mapping[str, Dim]) -> Dim:
    if isinstance(atom, Symbol):
        if atom.name not in values:
            known = ", ".join(sorted(values)) or "none"
            raise SymbolError(f"dimension '{atom.name}' has no value; known dimensions: {known}")
        return values[atom.name]
    left = evaluate_dim(atom.left, values)
    right = evaluate_dim(atom.right, values)
    if atom.operator in ("min", "max"):
        return _extremum(atom.operator, left, right)
    if right == 0:
        raise SymbolError(f"dimension '{atom.text}' divides by zero with {dict(values)}")
    return left // right if atom.operator == "//" else left % right


def _bracket(dim: Dim) -> str:
    text = str(dim)
    return text if text.isidentifier() or text.isdigit() else f"({text})"


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, int):
        return (((), dim),)
    return dim.terms


def _sort_key(item: tuple[Monomial, int]) -> tuple[int, tuple[str, ...]]:
    monomial, _ = item
    return (-len(monomial), tuple(atom.text for atom in monomial))


def _from_terms(terms: list[tuple[Monomial, int]]) -> Dim:
    totals: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        totals[monomial] = totals.get(monomial, 0) + coefficient
    kept = sorted(((m, c) for m, c in totals.items() if c != 0), key=_sort_key)
    if len(kept) > MAX_TERMS or any(abs(c) > MAX_SIZE for _, c in kept):
        raise SymbolError(f"dimension has {len(kept)} terms or a number over 64 bits", fix=f"keep below {MAX_TERMS} terms and 2**63")
    _check_weight(sum(atom.weight for monomial, _ in kept for atom in monomial))
    if not kept:
        return 0
    if len(kept) == 1 and kept[0][0] == ():
        return kept[0][1]
    return Expression(tuple(kept))


def _check_weight(weight: int) -> None:
    if weight > MAX_WEIGHT:
        raise SymbolError(f"dimension mentions {weight} symbols, the most is {MAX_WEIGHT}")


def _call(operator: str, left: Dim, right: Dim) -> Dim:
    atom = Call(operator, left, right)
    _check_weight(atom.weight)
    return Expression((((atom,), 1),))


def _multiply(left: Dim, right: Dim) -> Dim:
    terms: list[tuple[Monomial, int]] = []
    if len(_terms(left)) * len(_terms(right)) > MAX_TERMS * 16:
        raise SymbolError(f"product of dimensions has {len(_terms(left)) * len(_terms(right))} terms, the most is {MAX_TERMS * 16}")
    for a, x in _terms(left):
        for b, y in _terms(right):
            if len(a) + len(b) > MAX_DEGREE:
                raise SymbolError(f"product of dimensions has {len(a) + len(b)} factors, the most is {MAX_DEGREE}")
            terms.append((tuple(sorted((*a, *b), key=lambda atom: atom.text)), x * y))
    return _from_terms(terms)


def _divide_term(monomial: Monomial, divisor: Monomial) -> Monomial | None:
    remaining = list(monomial)
    for atom in divisor:
        if atom not in remaining:
            return None
        remaining.remove(atom)
    return tuple(remaining)


def _exact_quotient(left: Dim, right: Dim) -> Dim | None:
    """`left / right` where `right` is one term that divides every term of `left`, else None."""
    divisor = _terms(right)
    if len(divisor) != 1:
        return 1 if left == right else None
    monomial, coefficient = divisor[0]
    result: list[tuple[Monomial, int]] = []
    for term, value in _terms(left):
        quotient = _divide_term(term, monomial)
        if quotient is None or value % coefficient:
            return None
        result.append((quotient, value // coefficient))
    return _from_terms(result)


def _floor_divide(left: Dim, right: Dim) -> Dim:
    if right == 0:
        raise SymbolError(f"dimension '{left}' is divided by zero")
    if isinstance(left, int) and isinstance(right, int):
        return left // right
    quotient = _exact_quotient(left, right)
    if quotient is not None:
        return quotient
    if isinstance(right, int):
        if right < 0:
            return _floor_divide(-left, -right)
        whole, rest = _split_multiples(left, right)
        rest, right = _merge_division(rest, right)
        return whole + (rest // right if isinstance(rest, int) else _call("//", rest, right))
    return _call("//", left, right)


def _modulo(left: Dim, right: Dim) -> Dim:
    if right == 0:
        raise SymbolError(f"dimension '{left}' is taken modulo zero")
    if isinstance(left, int) and isinstance(right, int):
        return left % right
    if _exact_quotient(left, right) is not None:
        return 0
    if isinstance(right, int):
        if right < 0:
            return -_modulo(-left, -right)
        _, rest = _split_multiples(left, right)
        return rest % right if isinstance(rest, int) else _call("%", rest, right)
    return _call("%", left, right)


def _split_multiples(dim: Dim, divisor: int) -> tuple[Dim, Dim]:
    """`dim = whole * divisor + rest`, where the coefficients of `rest` are 0 to divisor - 1."""
    terms = _terms(dim)
    whole = _from_terms([(monomial, coefficient // divisor) for monomial, coefficient in terms])
    rest = _from_terms([(monomial, coefficient % divisor) for monomial, coefficient in terms])
    return whole, rest


def _merge_division(dividend: Dim, divisor: int) -> tuple[Dim, int]:
    """`(a//m + k)//n` is `(a + k*m)//(m*n)` for positive integers m and n."""
    while isinstance(dividend, Expression):
        by_monomial = dict(dividend.terms)
        constant = by_monomial.pop((), 0)
        (monomial, coefficient), *others = by_monomial.items()
        if others or coefficient != 1 or len(monomial) != 1:
            break
        atom = monomial[0]
        if not isinstance(atom, Call) or atom.operator != "//" or not isinstance(atom.right, int) or atom.right * divisor > MAX_SIZE:
            break
        dividend = atom.left + constant * atom.right
        divisor = atom.right * divisor
    return dividend, divisor


def _extremum(operator: str, left: Dim, right: Dim) -> Dim:
    if left == right:
        return left
    if isinstance(left, int) and isinstance(right, int):
        return min(left, right) if operator == "min" else max(left, right)
    first, second = sorted((left, right), key=lambda dim: (isinstance(dim, int), str(dim)))
    return _call(operator, first, second)
