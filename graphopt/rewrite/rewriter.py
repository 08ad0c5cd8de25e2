"""The only way for a pass to change a graph.

Every method is O(1) in the size of the graph, keeps use lists right, and records what was replaced by
what, so that the pass manager can check just the rewritten regions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from graphopt.errors import IRError
from graphopt.ir.attributes import Attribute
from graphopt.ir.data import Data
from graphopt.ir.dims import Expression
from graphopt.ir.graph import CallStructure, Graph, GraphEditor, Node, Operand, Source, State, StateKind, Use, Value
from graphopt.ir.types import Sparsity, TensorType
from graphopt.ops.registry import infer_types
from graphopt.rewrite.derived import DerivedData

if TYPE_CHECKING:
    import torch

__all__ = ["Rewriter"]


class Rewriter:
    """Edits one graph on behalf of one pass.

    `before_edit` is called before every edit. `replacements` are the pairs (old value, what its readers
    read now) in order; a literal on the right stands for that number everywhere.
    """

    def __init__(self, graph: Graph, *, before_edit: Callable[[], None] | None = None) -> None:
        self._editor = GraphEditor(graph, before_edit)
        self._graph = graph
        self._created: dict[Node, None] = {}
        self.replacements: list[tuple[Value, Operand]] = []
        self._named_by_caller: set[Value] = set()
        self._dirty: dict[Node, None] = {}

    @property
    def graph(self) -> Graph:
        """The graph that is edited."""
        return self._graph

    @property
    def created(self) -> tuple[Node, ...]:
        """The nodes made so far, in order of creation; those erased again are left out."""
        return tuple(node for node in self._created if node.graph is self._graph)

    def create(
        self,
        op: str,
        operands: Sequence[Operand],
        attrs: Mapping[str, Attribute] | None = None,
        *,
        before: Node,
        name: str | None = None,
        source: Source | None = None,
        types: Sequence[TensorType] | None = None,
        regions: Sequence[Graph] = (),
    ) -> Node:
        """Insert a node before another one; types come from the op's rule unless given (opaque ops).

        `source` is where it came from, that of `before` by default. Without `name` the results are named
        after the op, and `replace` later hands them the name of what they stand for.

        Raises:
            TypeInferenceError: operands or attributes do not fit the op.
        """
        attrs = attrs or {}
        inferred = tuple(types) if types is not None else infer_types(op, operands, attrs, regions)
        hint = name or op.rsplit(".", 1)[-1]
        names: list[tuple[str, TensorType]] = []
        for index, type_ in enumerate(inferred):
            base = hint if len(inferred) == 1 else f"{hint}.{index}"
            free = self._graph.fresh_name(base)
            while any(free == taken for taken, _ in names):
                free = self._graph.fresh_name(free + "_")
            names.append((free, type_))
        node = self._editor.insert(op, operands, attrs, names, before=before, source=source or before.source, regions=regions)
        if name is not None:
            self._named_by_caller.update(node.results)
        self._created[node] = None
        self._dirty[node] = None
        return node

    def emit(self, op: str, *operands: Operand, before: Node, **attrs: Attribute) -> Value:
        """Short for `create(...).result`: `rewriter.emit("mul", x, 2.0, before=node)`."""
        return self.create(op, operands, attrs, before=before).result

    def replace(self, node: Node, *replacements: Operand) -> None:
        """Make the readers of the node's results read `replacements`, one per result, and erase the node.

        A replacement that this rewriter created and did not name takes the name of the result it replaces.

        Raises:
            IRError: the number of replacements or a type does not fit.
        """
        if len(replacements) != len(node.results):
            raise IRError(f"{node.op} has {len(node.results)} results, got {len(replacements)} replacements", where=repr(node))
        for old, new in zip(node.results, replacements, strict=True):
            self._redirect(old, new)
        self._mark_operands(node)
        self._editor.erase(node)
        for old, new in zip(node.results, replacements, strict=True):
            self._inherit_name(old, new)

    def replace_value(self, old: Value, new: Operand, *, where: Callable[[Use], bool] | None = None) -> int:
        """Make the readers of `old` (those that `where` picks) read `new`; nothing is erased.

        Returns the number of uses that moved.

        Raises:
            IRError: the types differ.
        """
        return self._redirect(old, new, where)

    def set_operand(self, node: Node, index: int, operand: Operand) -> None:
        """Make one node read something else at one position; the node's result types must stay right.

        The node's results count as replaced by themselves, so the check looks at them.
        """
        self._dirty[node] = None
        self._editor.set_operand(node, index, operand)
        self.replacements.extend((result, result) for result in node.results)

    def erase(self, node: Node) -> None:
        """Remove a node that nobody reads."""
        self._mark_operands(node)
        self._editor.erase(node)

    def erase_unused(self, *nodes: Node | None) -> int:
        """Remove those of the nodes that nobody reads any more, and then their producers likewise; None is skipped."""
        removed = 0
        pending = [node for node in nodes if node is not None]
        while pending:
            node = pending.pop()
            if node.graph is not self._graph or node.is_return or any(result.use_count for result in node.results):
                continue
            producers = [operand.producer for operand in node.operands if isinstance(operand, Value)]
            self.erase(node)
            removed += 1
            pending.extend(producer for producer in producers if producer is not None)
        return removed

    def rename(self, value: Value, name: str) -> None:
        """Give a result another free name."""
        self._editor.rename(value, name)

    def add_symbol(self, name: str, minimum: int, maximum: int | None) -> Expression:
        """Declare a symbolic dimension."""
        from graphopt.ir.graph import Range

        return self._editor.add_symbol(name, Range(minimum, maximum))

    def add_state(self, name: str, type_: TensorType, data: Data | None, *, kind: StateKind = "param", trainable: bool = True) -> Value:
        """Add a parameter, buffer or constant under a free name made from `name`."""
        value = Value(self._graph.fresh_name(name), type_)
        self._editor.add_state(State(value, kind, data, trainable=trainable))
        return value

    def derive(
        self,
        name: str,
        function: Callable[..., torch.Tensor],
        sources: Sequence[Value],
        type_: TensorType,
        *,
        exact: bool = False,
        kind: StateKind = "param",
        trainable: bool = True,
    ) -> Value:
        """Add a state whose numbers are `function(*sources)`, a pure function of tensors of any float dtype.

        It is computed late: see `graphopt.rewrite.derived`. In a graph without data (parsed from text alone)
        the new state has none either.

        Raises:
            IRError: a source is no state of this graph.
        """
        data: list[Data] = []
        for source in sources:
            state = self._graph.state_of(source)
            if state is None:
                raise IRError(f"%{source.name} is computed at run time, so nothing can be derived from it beforehand")
            if state.data is not None:
                data.append(state.data)
        value = Value(self._graph.fresh_name(name), type_)
        derived = DerivedData(function, data, type_.dtype, exact=exact) if len(data) == len(sources) else None
        self._editor.add_state(State(value, kind, derived, trainable=trainable))
        return value

    def replace_state(
        self, name: str, function: Callable[[torch.Tensor], torch.Tensor], type_: TensorType, *, exact: bool = False
    ) -> Value:
        """Give a state other numbers, `function(old numbers)`, of another type; name, kind, ties and flags stay.

        The numbers are computed late, see `derive`. Where the type changes, the nodes that read the state have to
        be made again (`remake`) before anybody looks at their types.

        Raises:
            IRError: no state has that name.
        """
        state = self._graph.states.get(name)
        if state is None:
            raise IRError(f"%{name} is not a state of this graph")
        data = None if state.data is None else DerivedData(function, [state.data], type_.dtype, exact=exact)
        for user in state.value.users:
            if not user.is_return:
                self._dirty[user] = None
        return self._editor.exchange_state(replace(state, value=Value(name, type_), data=data, digest=None)).value

    def annotate(self, name: str, sparsity: Sparsity | None) -> Value:
        """Say in a state's type how sparse it is; its numbers stay as they are, and its readers read the new value.

        Raises:
            IRError: no state has that name.
        """
        state = self._graph.states.get(name)
        if state is None:
            raise IRError(f"%{name} is not a state of this graph")
        return self._editor.exchange_state(replace(state, value=Value(name, replace(state.type, sparsity=sparsity)))).value

    def remake(self, node: Node, attrs: Mapping[str, Attribute], types: Sequence[TensorType]) -> Node:
        """Put a node in the place of another, of the same op, operands and names, with other attributes and result types.

        Its readers read the new one and have to be made again too where a type changed, so the caller decides all
        types first. Results whose type stays count as replaced.
        """
        old = node.results
        names = [self._graph.fresh_name(f"{result.name}.remade") for result in old]
        made = self._editor.insert(
            node.op, node.operands, attrs, tuple(zip(names, types, strict=True)), before=node, source=node.source, regions=node.regions
        )
        self._created[made] = None
        self._dirty[made] = None
        for before, after in zip(old, made.results, strict=True):
            if before.type == after.type:
                self._redirect(before, after)
            else:
                self._editor.replace_uses(before, after)
        final = [result.name for result in old]
        self._editor.erase(node)
        for result, name in zip(made.results, final, strict=True):
            self._editor.rename(result, name)
            self._named_by_caller.add(result)
        return made

    def touch(self, node: Node) -> None:
        """Note that a node computes something else because its operands changed; its results count as replaced by themselves."""
        self._dirty[node] = None
        self.replacements.extend((result, result) for result in node.results)

    def update_state(self, state: State) -> None:
        """Replace a state's record (ties, flags); use `derive` for new numbers."""
        self._editor.update_state(state)

    def remove_state(self, name: str) -> None:
        """Forget a state that nobody reads."""
        self._editor.remove_state(name)

    def set_outputs(self, outputs: Sequence[Operand], structure: CallStructure | None = None) -> None:
        """Set what the graph returns."""
        self._editor.set_outputs(outputs, structure)

    def take_dirty(self) -> list[Node]:
        """Nodes that an edit touched since the last call: new ones, readers and producers of changed values."""
        dirty = [node for node in self._dirty if node.graph is self._graph]
        self._dirty.clear()
        return dirty

    def _redirect(self, old: Value, new: Operand, where: Callable[[Use], bool] | None = None) -> int:
        if isinstance(new, Value) and (new.type.dtype, new.type.shape) != (old.type.dtype, old.type.shape):
            raise IRError(f"can't replace {old!r} by {new!r}: the types differ")
        for user in old.users:
            if not user.is_return:
                self._dirty[user] = None
        if isinstance(new, Value) and new.producer is not None:
            self._dirty[new.producer] = None
        self.replacements.append((old, new))
        return self._editor.replace_uses(old, new, where=where)

    def _inherit_name(self, old: Value, new: Operand) -> None:
        if not isinstance(new, Value) or new.producer is None or new in self._named_by_caller:
            return
        if new.producer in self._created and not self._graph.has_value(old.name):
            self._editor.rename(new, old.name)
            self._named_by_caller.add(new)

    def _mark_operands(self, node: Node) -> None:
        for operand in node.operands:
            if isinstance(operand, Value) and operand.producer is not None:
                self._dirty[operand.producer] = None
