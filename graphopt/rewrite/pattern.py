"""Rules written as small Python functions over ops.

    def pattern(op, x, w, b=None):                        what to look for; a parameter is any operand,
        return op.relu(op.conv2d(x, w, b, groups=1))      one with default None may be missing

    def check(m):                                         None, or why not
        return None if m.w.shape[0] == 1 else f"%{m.w.name} has {m.w.shape[0]} channels, needs 1"

    def replacement(op, m):                               what takes the place of the last node
        return op.clamp(op.conv2d(m.x, m.w, m.b, **m.conv2d.attrs), minimum=0.0, maximum=None)

    RULE = pattern_rule(pattern, replacement, check=check)

A pattern is matched from its last node upwards. What it consumes inside may have no reader outside, unless
it says `shared=True`. Where it does not apply, the report has the deepest partial match:
"matched relu <- conv2d, but conv2d's groups is 32, needs 1".
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from graphopt.errors import PassError
from graphopt.ir.attributes import attribute_text, freeze_attribute
from graphopt.ir.dims import Expression
from graphopt.ir.graph import Node, Operand, Value
from graphopt.rewrite.pattern_emitter import Emitter, Match
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import NoMatch, Rule

__all__ = [
    "COMMUTATIVE",
    "Constraint",
    "Emitter",
    "Match",
    "NodePattern",
    "PatternBuilder",
    "PatternRule",
    "Variable",
    "one_of",
    "pattern_rule",
]

COMMUTATIVE = frozenset(
    {"add", "mul", "maximum", "minimum", "eq", "ne", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor"}
)
"""Ops whose two operands a pattern may meet in either order."""

_MOST_BRANCHES = 256
"""Most ways of matching one pattern at one node that are tried; commutative ops and alternatives multiply."""


@dataclass(frozen=True)
class Constraint:
    """What an attribute has to be: a predicate, and the words for it in a reason."""

    text: str
    holds: Callable[[Any], bool]


def one_of(*values: Any) -> Constraint:
    """An attribute may be any of these."""
    return Constraint(f"one of {', '.join(attribute_text(freeze_attribute(value)) for value in values)}", lambda found: found in values)


@dataclass(frozen=True, eq=False)
class Variable:
    """Any operand; the same one wherever the variable stands. An optional one may be missing (None)."""

    name: str
    optional: bool = False


@dataclass(frozen=True, eq=False)
class Alternatives:
    """Whichever of the patterns fits first."""

    patterns: tuple[Pattern, ...]


@dataclass(frozen=True, eq=False)
class NodePattern:
    """A node of one of `ops` with these operands and attributes; its result number `index`."""

    ops: tuple[str, ...]
    operands: tuple[Pattern, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    name: str = ""
    shared: bool = False
    index: int = 0
    identity: object = field(default_factory=object)
    """Patterns for several results of one node have it in common."""

    def result(self, index: int) -> NodePattern:
        """The same node, read at another of its results: `op.topk(x).result(1)`."""
        return replace(self, index=index)


Pattern: TypeAlias = "NodePattern | Variable | Alternatives | bool | int | float | None"


class PatternBuilder:
    """What a pattern function gets as `op`: `op.conv2d(x, w, b, stride=(1, 1), name="conv")`.

    Keywords are attributes the node must have: a value or a `Constraint`. `name` is how the match calls the
    node (its op by default); `shared=True` lets the node have readers outside. `op("aten.foo.default", x)` and
    `op(("conv1d", "conv2d"), x, w, b)` match an opaque op and one of several; `op.any(p, q)` tries patterns in turn.
    """

    def __getattr__(self, name: str) -> Callable[..., NodePattern]:
        def make(*operands: Pattern, **attrs: Any) -> NodePattern:
            return self(name, *operands, **attrs)

        return make

    def __call__(self, ops: str | tuple[str, ...], *operands: Pattern, name: str = "", shared: bool = False, **attrs: Any) -> NodePattern:
        """A node of one of `ops`."""
        names = (ops,) if isinstance(ops, str) else ops
        return NodePattern(names, operands, attrs, name or names[0].rsplit(".", 2)[-2 if "." in names[0] else -1], shared)

    def any(self, *patterns: Pattern) -> Alternatives:
        """Whichever of the patterns fits first."""
        return Alternatives(patterns)


@dataclass(frozen=True)
class _Found:
    """What is matched so far, in order."""

    nodes: tuple[tuple[NodePattern, Node], ...] = ()
    variables: Mapping[str, Operand] = field(default_factory=dict[str, Operand])

    def node_of(self, pattern: NodePattern) -> Node | None:
        return next((node for known, node in self.nodes if known.identity is pattern.identity), None)


class PatternRule(Rule[Match]):
    """A rule made by `pattern_rule`."""

    def __init__(
        self,
        root: NodePattern,
        replacement: Callable[[Emitter, Match], Any],
        check: Callable[[Match], str | None] | None,
        optional: frozenset[str],
    ) -> None:
        self._root = root
        self._replacement = replacement
        self._check = check
        self._optional = optional

    def match(self, node: Node) -> Match | NoMatch:
        """The pattern with `node` as its last one, or the deepest partial match and what was in its way."""
        search = _Search()
        for found in itertools.islice(search.node(self._root, node, _Found()), _MOST_BRANCHES):
            outside = _read_outside(found, self._root)
            if outside is not None:
                search.fail(found, outside)
                continue
            match = Match(
                {pattern.name: matched for pattern, matched in reversed(found.nodes)},
                {**dict.fromkeys(self._optional), **found.variables},
                tuple(dict.fromkeys(matched for _, matched in found.nodes)),
            )
            reason = self._check(match) if self._check is not None else None
            if reason is None:
                return match
            search.fail(found, reason, whole=True)
        return NoMatch(search.reason)

    def rewrite(self, site: Match, rewriter: Rewriter) -> None:
        """Put the replacement in the place of the last node, and erase what nobody reads any more."""
        root = site.matched[0]
        made = self._replacement(Emitter(rewriter, root), site)
        rewriter.replace(root, *(made if isinstance(made, tuple) else (made,)))
        rewriter.erase_unused(*site.matched[1:])


def pattern_rule(
    pattern: Callable[..., NodePattern],
    replacement: Callable[[Emitter, Match], Any],
    *,
    check: Callable[[Match], str | None] | None = None,
    name: str | None = None,
) -> PatternRule:
    """A rule from functions; see the module's text.

    `pattern(op, ...)` returns the last node of what to look for. `check(match)` returns None or a reason with
    what was found and what is needed. `replacement(op, match)` returns what stands for the last node: an
    operand, or a tuple with one for each of its results. `name` is for messages.

    Raises:
        PassError: the pattern function does not return a node.
    """
    parameters = list(inspect.signature(pattern).parameters.values())[1:]
    variables = [Variable(parameter.name, parameter.default is None) for parameter in parameters]
    root = pattern(PatternBuilder(), *variables)
    if not isinstance(root, NodePattern):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' functions are not checked
        raise PassError(f"pattern '{pattern.__name__}' returns {type(root).__name__}, needs a node such as op.relu(x)")
    cls = type(name or pattern.__name__, (PatternRule,), {"ops": frozenset(root.ops), "__doc__": pattern.__doc__})
    return cls(root, replacement, check, frozenset(variable.name for variable in variables if variable.optional))


class _Search:
    """One search with backtracking; keeps the failure that came after the most matched nodes."""

    def __init__(self) -> None:
        self.reason = ""
        self._depth = -1

    def fail(self, found: _Found, what: str, *, whole: bool = False) -> None:
        """Note a dead end; the words of `check` (whole) stand alone."""
        if len(found.nodes) + whole <= self._depth:
            return
        self._depth = len(found.nodes) + whole
        chain = " <- ".join(node.op for _, node in found.nodes)
        self.reason = what if whole or not chain else f"matched {chain}, but {what}"

    def operand(self, pattern: Pattern, operand: Operand, found: _Found, place: str) -> Iterator[_Found]:
        """Ways in which an operand fits a pattern."""
        match pattern:
            case Variable():
                yield from self._variable(pattern, operand, found, place)
            case Alternatives():
                for alternative in pattern.patterns:
                    yield from self.operand(alternative, operand, found, place)
            case NodePattern():
                producer = operand.producer if isinstance(operand, Value) else None
                if producer is None:
                    self.fail(found, f"{place} is {_shown(operand)}, needs {' or '.join(pattern.ops)}")
                elif isinstance(operand, Value) and operand.index != pattern.index:
                    self.fail(found, f"{place} is result {operand.index} of {producer.op}, needs result {pattern.index}")
                else:
                    yield from self.node(pattern, producer, found, place)
            case _:
                if _same(pattern, operand):
                    yield found
                else:
                    self.fail(found, f"{place} is {_shown(operand)}, needs {_shown(pattern)}")

    def _variable(self, pattern: Variable, operand: Operand, found: _Found, place: str) -> Iterator[_Found]:
        if operand is None and not pattern.optional:
            self.fail(found, f"{place} is missing")
        elif pattern.name not in found.variables:
            yield replace(found, variables={**found.variables, pattern.name: operand})
        elif _same(found.variables[pattern.name], operand):
            yield found
        else:
            self.fail(
                found, f"{place} is {_shown(operand)}, needs {_shown(found.variables[pattern.name])} as elsewhere in '{pattern.name}'"
            )

    def node(self, pattern: NodePattern, node: Node, found: _Found, place: str = "") -> Iterator[_Found]:
        """Ways in which a node fits a pattern."""
        known = found.node_of(pattern)
        if known is not None:
            if known is node:
                yield found
            else:
                self.fail(found, f"{place} is another {node.op} than the one before")
            return
        if node.op not in pattern.ops:
            self.fail(found, f"{place} comes from {node.op}, needs {' or '.join(pattern.ops)}")
            return
        wrong = _wrong_attribute(pattern, node)
        if wrong is not None:
            self.fail(found, f"{node.op}'s {wrong}")
            return
        missing = node.operands[len(pattern.operands) :]
        if len(pattern.operands) > len(node.operands) or any(operand is not None for operand in missing):
            given = sum(operand is not None for operand in node.operands)
            self.fail(found, f"{node.op} has {given} operands, needs {len(pattern.operands)}")
            return
        entered = replace(found, nodes=(*found.nodes, (pattern, node)))
        orders: list[Sequence[Pattern]] = [pattern.operands]
        if node.op in COMMUTATIVE and len(pattern.operands) == 2:
            orders.append(pattern.operands[::-1])
        for order in orders:
            yield from self._operands(order, node, entered, 0)

    def _operands(self, patterns: Sequence[Pattern], node: Node, found: _Found, index: int) -> Iterator[_Found]:
        if index == len(patterns):
            yield found
            return
        for following in self.operand(patterns[index], node.operands[index], found, f"operand {index} of {node.op}"):
            yield from self._operands(patterns, node, following, index + 1)


def _wrong_attribute(pattern: NodePattern, node: Node) -> str | None:
    for name, wanted in pattern.attrs.items():
        if name not in node.attrs:
            return f"attribute {name} does not exist"
        found = node.attrs[name]
        holds = wanted.holds(found) if isinstance(wanted, Constraint) else _same(wanted, found)
        if not holds:
            needed = wanted.text if isinstance(wanted, Constraint) else attribute_text(freeze_attribute(wanted))
            return f"{name} is {attribute_text(found)}, needs {needed}"
    return None


def _read_outside(found: _Found, root: NodePattern) -> str | None:
    """Why an inner node can't be consumed: something outside the match reads it."""
    inside = {node for _, node in found.nodes}
    for pattern, node in found.nodes:
        if pattern is root or pattern.shared:
            continue
        users = {user for result in node.results for user in result.users}
        if not users <= inside:
            return f"{node.op}'s result has {len(users)} users"
    return None


def _same(wanted: object, found: object) -> bool:
    """Equal literals or the same value; `True`, `1` and `1.0` are told apart from bools only."""
    if isinstance(wanted, Value) or isinstance(found, Value):
        return wanted is found
    return isinstance(wanted, bool) == isinstance(found, bool) and wanted == found


def _shown(operand: object) -> str:
    if isinstance(operand, Value):
        return f"%{operand.name}"
    return attribute_text(freeze_attribute(operand)) if isinstance(operand, None | bool | int | float | Expression) else repr(operand)
