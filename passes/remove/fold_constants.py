"""Compute before the run what depends on constants alone.

    %grid: f32[4] = arange() {dtype=f32, start=0, step=1, stop=4}
    %half: f32[4] = mul(%grid, 0.5)
    %y: f32[batch,4] = add(%x, %half)
    -> constant %half_folded: f32[4]
       %y: f32[batch,4] = add(%x, %half_folded)

A node is folded when it has no effect, no symbolic size, and every operand is a literal, a constant, a buffer
that training does not write to, or folded itself. Whole subgraphs are computed at once, each node once. A value
that others read becomes a constant if it has at most `max_bytes` and, beyond 1 MiB, at most four times the bytes
of its node's operands (an `expand` is cheaper than its result); where it is too big, the values it is made from
are stored instead. A 0-dim result becomes a literal where that promotes to the same types and loses no bits.

Numeric class: exact; the reference kernels compute in the declared dtypes what the model would compute.
Stage: training-safe; parameters are left to `fold-parameters`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from graphopt.errors import BackendError
from graphopt.ir.attributes import Attribute
from graphopt.ir.data import Data, TensorData
from graphopt.ir.dims import Expression
from graphopt.ir.graph import Graph, Node, State, StateKind, Use, Value, operand_values
from graphopt.ops import Effect, definition, infer_types, is_canonical
from graphopt.passes.remove.absorb import folded_name
from graphopt.passes.remove.folded_program import FoldedData, FoldedProgram
from graphopt.passes.remove.states import drop_orphans, is_mutable, state_operands
from graphopt.pipeline.passes import NumericClass, Outcome, Pass, Stage
from graphopt.rewrite.rewriter import Rewriter

if TYPE_CHECKING:
    import torch

__all__ = ["FoldConstants"]

_SMALL_BYTES = 1 << 20
"""Results up to this size may be any number of times larger than what they are made from."""
_GROWTH = 4
"""Larger results may have this many times the bytes of their node's operands."""
_INTERMEDIATE = 16
"""Values inside a folded subgraph may have this many times `max_bytes`."""
_LITERAL_OPS = frozenset({"add", "sub", "mul", "div", "where"})
"""Ops whose kernels treat a 0-dim tensor and a Python number alike."""


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute subgraphs of constants and creation ops; a result may have up to `max_bytes`."""

    name = "fold-constants"
    numeric = NumericClass.EXACT
    parameters: ClassVar[bool] = False
    """True when parameters count as constants too."""

    max_bytes: int = field(default=16 << 20, metadata={"minimum": 0, "help": "largest result that becomes a constant"})

    def apply(self, rewriter: Rewriter) -> Outcome:
        """Find the subgraphs, compute them, and put constants in their place."""
        finder = _Finder(rewriter.graph, self.max_bytes, self.parameters)
        folded = 0
        for component in finder.components():
            folded += _fold(rewriter, component, finder, constants_only=self.stage is Stage.TRAINING_SAFE)
        return Outcome(folded, tuple(finder.skipped))


class _Finder:
    """Finds the nodes that can be folded."""

    def __init__(self, graph: Graph, max_bytes: int, parameters: bool) -> None:
        self.graph = graph
        self.max_bytes = max_bytes
        self.parameters = parameters
        self.skipped: list[tuple[str, str]] = []
        self.nodes: dict[Node, None] = {}
        self._sources: dict[Value, bool] = {}
        self.device = next((state.data.tensor().device for state in graph.states.values() if isinstance(state.data, TensorData)), None)
        """Where the model's own tensors are."""

    def components(self) -> list[list[Node]]:
        """Connected subgraphs of nodes to fold, each in execution order."""
        for node in self.graph.nodes:
            if self._is_constant(node):
                reason = self._obstacle(node)
                if reason:
                    self.skipped.append((node.name, reason))
                else:
                    self.nodes[node] = None
        self._apply_budget()
        return self._split()

    def is_source(self, value: Value) -> bool:
        """True for a state whose numbers may be taken as constant."""
        found = self._sources.get(value)
        if found is None:
            state = self.graph.state_of(value)
            found = state is not None and self._is_fixed(state)
            self._sources[value] = found
        return found

    def _is_fixed(self, state: State) -> bool:
        match state.kind:
            case "constant":
                return True
            case "buffer":
                return self.parameters or not is_mutable(state.value)
            case _:
                return self.parameters

    def _is_constant(self, node: Node) -> bool:
        for operand in node.operands:
            if isinstance(operand, Expression):
                return False
            if isinstance(operand, Value) and operand.producer not in self.nodes and not self.is_source(operand):
                return False
        return not any(_is_symbolic(attribute) for attribute in node.attrs.values()) and all(r.type.is_static for r in node.results)

    def _obstacle(self, node: Node) -> str:
        """Why a node of constants can't be folded."""
        if not is_canonical(node.op):
            if not _is_pure_aten(node.op):
                return f"{node.op} is opaque, needs an op of the table or a pure ATen op"
        elif node.regions or definition(node.op).effect is not Effect.PURE:
            return f"{node.op} has an effect or regions, needs a pure op"
        if _follows_training(node):
            return f"{node.op} does something else in training"
        limit = _INTERMEDIATE * self.max_bytes
        size = sum(_bytes(result) for result in node.results)
        return f"{node.op} makes {size} bytes, at most {limit} are computed beforehand" if size > limit else ""

    def _apply_budget(self) -> None:
        """Leave out nodes with a result that others read and that is too big, from last to first."""
        for node in reversed(list(self.nodes)):
            for result in node.results:
                outside = [user for user in result.users if user not in self.nodes]
                if outside and (reason := self._too_big(node, result)):
                    self.skipped.append((node.name, reason))
                    del self.nodes[node]
                    break

    def _too_big(self, node: Node, result: Value) -> str:
        size = _bytes(result)
        values = dict.fromkeys(operand_values(node))
        from_what = sum(_bytes(value) for value in values)
        if size <= _SMALL_BYTES and size <= self.max_bytes:
            return ""
        if size <= from_what and all(self._goes_away(value) for value in values):
            return ""  # what it is made from goes away
        if size > self.max_bytes:
            return f"the result has {size} bytes, at most {self.max_bytes} are stored"
        if size > _GROWTH * from_what:
            return f"the result has {size} bytes, at most {_GROWTH} times the {from_what} that it is made from are stored"
        return ""

    def _goes_away(self, value: Value) -> bool:
        """True for a state that is forgotten once the nodes are folded; buffers and parameters of a model that trains stay."""
        state = self.graph.state_of(value)
        if state is None or not self.is_source(value) or not (self.parameters or state.kind == "constant"):
            return False
        return all(user in self.nodes for user in value.users)

    def _split(self) -> list[list[Node]]:
        """The nodes by connected component."""
        leader: dict[Node, Node] = {node: node for node in self.nodes}

        def find(node: Node) -> Node:
            while leader[node] is not node:
                leader[node] = leader[leader[node]]
                node = leader[node]
            return node

        for node in self.nodes:
            for operand in operand_values(node):
                if operand.producer is not None and operand.producer in self.nodes:
                    leader[find(operand.producer)] = find(node)
        groups: dict[Node, list[Node]] = {}
        for node in self.nodes:
            groups.setdefault(find(node), []).append(node)
        return list(groups.values())


def _fold(rewriter: Rewriter, component: list[Node], finder: _Finder, *, constants_only: bool) -> int:
    """Replace a component by states and literals; returns how many values were stored."""
    inside = set(component)
    wanted = [r for node in component for r in node.results if any(user not in inside for user in r.users)]
    if not wanted:
        return 0  # nobody reads it: dead code, which is not ours
    states = state_operands(*component)
    program = _program(component, wanted, states, finder.device)
    if program is not None:
        try:
            program.tensors()
        except BackendError as error:
            finder.skipped.append((component[-1].name, f"can't be computed beforehand: {error.what}"))
            return 0
    kind: StateKind = "param" if any(state.kind == "param" for state in states) else "constant"
    trainable = any(state.kind == "param" and state.trainable for state in states)
    for index, value in enumerate(wanted):
        if program is not None:
            _put_literals(rewriter, value, program, index)
        if any(user not in inside for user in value.users):
            data = FoldedData(program, index) if program is not None else None
            own_kind = kind if value.type.dtype.is_float else "constant"
            state = _add_state(rewriter, folded_name(value.name), value, data, own_kind, trainable)
            rewriter.replace_value(value, state)
    rewriter.erase_unused(*reversed(component))
    drop_orphans(rewriter, states, constants_only=constants_only)
    return len(wanted)


def _program(component: list[Node], wanted: list[Value], states: Iterable[State], device: torch.device | None) -> FoldedProgram | None:
    """The component as a program; None where a state has no numbers."""
    sources: dict[Value, Data] = {}
    for state in states:
        if state.data is None:
            return None
        sources[state.value] = state.data
    return FoldedProgram(component, wanted, sources, device)


def _add_state(rewriter: Rewriter, name: str, value: Value, data: Data | None, kind: StateKind, trainable: bool) -> Value:
    return rewriter.add_state(name, value.type, data, kind=kind, trainable=trainable and kind == "param")


def _put_literals(rewriter: Rewriter, value: Value, program: FoldedProgram, index: int) -> None:
    """Write a 0-dim value as a number into the nodes where that changes nothing."""
    if value.shape or value.type.dtype.kind not in ("float", "int"):
        return
    number = program.tensors()[index].item()
    if number != program.precise()[index].item():
        return  # the float64 world has more digits than the dtype; a literal would be the same in both
    rewriter.replace_value(value, number, where=lambda use: _takes_literal(use, value))


def _takes_literal(use: Use, value: Value) -> bool:
    """True when the reader computes the same with a Python number in the place of a 0-dim tensor."""
    node = use.node
    if node.op not in _LITERAL_OPS or (node.op == "where" and use.index == 0):
        return False
    others = [o for i, o in enumerate(node.operands) if i != use.index and not (node.op == "where" and i == 0)]
    if len(others) != 1 or not isinstance(others[0], Value):
        return False
    other = others[0].type
    widens = other.dtype.kind == value.type.dtype.kind or (other.dtype.is_float and value.type.dtype.kind == "int")
    if not (other.shape and widens):
        return False
    operands = [0.5 if i == use.index and value.type.dtype.is_float else 1 if i == use.index else o for i, o in enumerate(node.operands)]
    return infer_types(node.op, operands, node.attrs) == tuple(result.type for result in node.results)


def _follows_training(node: Node) -> bool:
    """True when the node computes something else, or writes to a buffer, while the model trains."""
    if node.op in ("batch_norm", "instance_norm") and node.operands[3] is None and node.operands[4] is None:
        return False  # without running statistics it always normalises by what it is given, as weight standardisation does
    return node.attrs.get("mode") in ("follow", "train") or node.attrs.get("dropout_p", 0.0) != 0.0


def _bytes(value: Value) -> int:
    size = value.type.bytes
    return size if isinstance(size, int) else 0


def _is_symbolic(attribute: Attribute) -> bool:
    """True when a symbolic dimension is somewhere inside."""
    if isinstance(attribute, tuple | list):
        return any(_is_symbolic(item) for item in attribute)
    return isinstance(attribute, Expression)


def _is_pure_aten(op: str) -> bool:
    """True when torch's schema says that an op of ATen writes to nothing and draws no random numbers."""
    import torch

    parts = op.split(".")
    if len(parts) != 3 or parts[0] != "aten":
        return False
    overload = getattr(getattr(torch.ops.aten, parts[1], None), parts[2], None)
    if not isinstance(overload, torch._ops.OpOverload):  # pyright: ignore[reportPrivateUsage]
        return False
    schema = overload._schema  # pyright: ignore[reportPrivateUsage]  # torch gives no other way to it
    return not schema.is_mutable and torch.Tag.nondeterministic_seeded not in overload.tags
