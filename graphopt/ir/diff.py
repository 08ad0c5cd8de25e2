"""What differs between two graphs.

    resnet18: 69 nodes -> 49 nodes, 62 states -> 42 states
      ops: batch_norm -20
      nodes: 20 removed, 20 changed
    --- before
    +++ after
    @@ ...

Nodes are matched by the name of their first result, whatever their op; what is left is matched by op and operands, in order, so
that a renamed node is not shown as one removed and one added. Linear in the size of the graphs.
"""

from __future__ import annotations

import difflib
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from graphopt.ir.graph import Graph, Node, State, Value
from graphopt.ir.printer import node_text, operand_text, show

__all__ = ["GraphDiff", "NodeChange", "StateChange", "diff"]

_MOST_LINES = 4000
"""`difflib` takes time quadratic in what differs: longer stretches are shown as a block of `-` and one of `+`."""


@dataclass(frozen=True, slots=True)
class NodeChange:
    """One node before and after, as text. `renamed` when only the names of its results differ."""

    name: str
    before: str
    after: str
    renamed: bool = False


@dataclass(frozen=True, slots=True)
class StateChange:
    """A state whose type, kind, flags or ties differ, as text."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class GraphDiff:
    """Differences from one graph to another. `str()` is the summary and the unified text."""

    name: str
    node_counts: tuple[int, int]
    state_counts: tuple[int, int]
    nodes_added: tuple[str, ...]
    nodes_removed: tuple[str, ...]
    nodes_changed: tuple[NodeChange, ...]
    states_added: tuple[str, ...]
    states_removed: tuple[str, ...]
    states_changed: tuple[StateChange, ...]
    op_deltas: dict[str, int]
    """For each op whose number differs: number after minus number before."""
    _texts: tuple[str, str] = field(repr=False)

    @property
    def is_empty(self) -> bool:
        """True when the graphs are equal."""
        return self._texts[0] == self._texts[1]

    def summary(self) -> str:
        """A few lines: counts, ops, names of states."""
        if self.is_empty:
            return f"{self.name}: no difference"
        (nodes_before, nodes_after), (states_before, states_after) = self.node_counts, self.state_counts
        lines = [f"{self.name}: {nodes_before} nodes -> {nodes_after} nodes, {states_before} states -> {states_after} states"]
        if self.op_deltas:
            lines.append("  ops: " + ", ".join(f"{op} {delta:+d}" for op, delta in self.op_deltas.items()))
        renamed = sum(change.renamed for change in self.nodes_changed)
        counts = (
            (len(self.nodes_added), "added"),
            (len(self.nodes_removed), "removed"),
            (len(self.nodes_changed) - renamed, "changed"),
            (renamed, "renamed"),
        )
        nodes = ", ".join(f"{count} {word}" for count, word in counts if count)
        if nodes:
            lines.append(f"  nodes: {nodes}")
        counts = ((len(self.states_added), "added"), (len(self.states_removed), "removed"), (len(self.states_changed), "changed"))
        states = ", ".join(f"{count} {word}" for count, word in counts if count)
        if states:
            lines.append(f"  states: {states}")
        return "\n".join(lines)

    def unified(self, context: int = 3) -> str:
        """The texts of the graphs as a unified diff with `context` lines around each change."""
        before, after = (text.splitlines() for text in self._texts)
        return "\n".join(_unified(before, after, context))

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`: counts before and after, names, and the unified text."""
        return {
            "name": self.name,
            "equal": self.is_empty,
            "nodes": list(self.node_counts),
            "states": list(self.state_counts),
            "ops": self.op_deltas,
            "nodes_added": list(self.nodes_added),
            "nodes_removed": list(self.nodes_removed),
            "nodes_changed": [asdict(change) for change in self.nodes_changed],
            "states_added": list(self.states_added),
            "states_removed": list(self.states_removed),
            "states_changed": [asdict(change) for change in self.states_changed],
            "text": self.unified(),
        }

    def __str__(self) -> str:
        return self.summary() if self.is_empty else f"{self.summary()}\n{self.unified()}"


def diff(before: Graph, after: Graph) -> GraphDiff:
    """Compare two graphs: names, types, ops, attributes; not the numbers of the states."""
    changed, removed, added = _match_nodes(before, after)
    ops_before, ops_after = Counter(node.op for node in before.nodes), Counter(node.op for node in after.nodes)
    deltas = {op: ops_after[op] - ops_before[op] for op in sorted(ops_before.keys() | ops_after.keys()) if ops_after[op] != ops_before[op]}
    states_before = {name: _state_text(state) for name, state in before.states.items()}
    states_after = {name: _state_text(state) for name, state in after.states.items()}
    return GraphDiff(
        name=after.name,
        node_counts=(before.node_count, after.node_count),
        state_counts=(len(states_before), len(states_after)),
        nodes_added=tuple(node.name for node in added),
        nodes_removed=tuple(node.name for node in removed),
        nodes_changed=tuple(changed),
        states_added=tuple(name for name in states_after if name not in states_before),
        states_removed=tuple(name for name in states_before if name not in states_after),
        states_changed=tuple(
            StateChange(name, text, states_after[name])
            for name, text in states_before.items()
            if name in states_after and states_after[name] != text
        ),
        op_deltas=deltas,
        _texts=(show(before), show(after)),
    )


def _match_nodes(before: Graph, after: Graph) -> tuple[list[NodeChange], list[Node], list[Node]]:
    """Changed pairs, nodes only before, nodes only after."""
    changes: list[NodeChange] = []
    pairs: dict[Node, Node] = {}
    taken: set[Node] = set()
    for node in before.nodes:
        match = _same_named(node, after)
        if match is not None and match not in taken:
            pairs[node] = match
            taken.add(match)
    waiting: dict[tuple[str, ...], deque[Node]] = {}
    for node in after.nodes:
        if node not in taken:
            waiting.setdefault(_content(node, {}), deque()).append(node)
    names = {old.name: new.name for left, right in pairs.items() for old, new in zip(left.results, right.results, strict=False)}
    removed: list[Node] = []
    for node in before.nodes:
        match = pairs.get(node)
        if match is not None:
            texts = node_text(node), node_text(match)
            if texts[0] != texts[1]:
                changes.append(NodeChange(node.name, *texts))
            continue
        candidates = waiting.get(_content(node, names))
        if candidates:
            match = candidates.popleft()
            taken.add(match)
            names.update((old.name, new.name) for old, new in zip(node.results, match.results, strict=False))
            changes.append(NodeChange(node.name, node_text(node), node_text(match), renamed=True))
        else:
            removed.append(node)
    added = [node for node in after.nodes if node not in taken]
    return changes, removed, added


def _same_named(node: Node, graph: Graph) -> Node | None:
    if not node.results or not graph.has_value(node.name):
        return None
    return graph.value(node.name).producer


def _content(node: Node, names: dict[str, str]) -> tuple[str, ...]:
    """Op, operands (under the names they have after), attributes and types, as a key."""
    operands = (names.get(o.name, o.name) if isinstance(o, Value) else f"={operand_text(o)}" for o in node.operands)
    body = node_text(node).partition("(")[2] if node.regions else repr(dict(node.attrs))
    return (node.op, *operands, body, *(result.type.text for result in node.results))


def _state_text(state: State) -> str:
    flags = ("" if state.trainable else " frozen") + ("" if state.persistent else " transient")
    return f"{state.kind} {state.value!r}{flags}{f' tied {state.tied}' if state.tied else ''}"


def _unified(before: list[str], after: list[str], context: int) -> Iterator[str]:
    """A unified diff whose cost is bounded: the middle is compared line by line only where it is short."""
    start = 0
    shortest = min(len(before), len(after))
    while start < shortest and before[start] == after[start]:
        start += 1
    end = 0
    while end < shortest - start and before[-1 - end] == after[-1 - end]:
        end += 1
    middle_before, middle_after = before[start : len(before) - end], after[start : len(after) - end]
    if len(middle_before) + len(middle_after) <= _MOST_LINES:
        yield from difflib.unified_diff(before, after, "before", "after", lineterm="", n=context)
        return
    yield "--- before"
    yield "+++ after"
    first = max(0, start - context)
    tail = list(islice(before, len(before) - end, len(before) - end + context))
    head = before[first:start]
    sizes = (len(head) + len(middle_before) + len(tail), len(head) + len(middle_after) + len(tail))
    yield f"@@ -{first + 1},{sizes[0]} +{first + 1},{sizes[1]} @@"
    yield from (" " + line for line in head)
    yield from _blocks(middle_before, middle_after)
    yield from (" " + line for line in tail)


def _blocks(before: list[str], after: list[str]) -> Iterator[str]:
    """Merge two long lists along the lines that occur once in each, in the same order; linear.

    Lines of IR define uniquely named values, so equal lines are nearly always the same node.
    """
    position = {line: index for index, line in enumerate(after)}
    done = 0
    for line in before:
        index = position.get(line, -1)
        if index < done:
            yield "-" + line
            continue
        yield from ("+" + added for added in after[done:index])
        yield " " + line
        done = index + 1
    yield from ("+" + added for added in after[done:])
