"""Builds a plan: storages for values, steps for groups, copies where a layout has to change.

A `Builder` walks the groups in order. For each it asks the maker of the anchor's op, which looks at storages
of the operands, allocates the result and adds a step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from graphopt.backends.cpu.chain import Argument, Chain, Constant, FromOperand, FromOperation, Operation, TheValue
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Kernel, ReadState
from graphopt.backends.cpu.kernels.chain_code import chain_fits
from graphopt.backends.cpu.kernels.copy import Copy
from graphopt.backends.cpu.plan import Buffer, Plan, Step, finish
from graphopt.backends.cpu.planner.blocks import Block, find_blocks
from graphopt.backends.cpu.planner.choice import Alternative, Choice, Stage, first_choice
from graphopt.backends.cpu.planner.groups import Group
from graphopt.backends.cpu.planner.layouts import Layouts, make_storage
from graphopt.backends.cpu.storage import LANES, Storage, plain
from graphopt.backends.planning.shapes import Shapes
from graphopt.backends.planning.strides import row_major
from graphopt.backends.planning.views import VIEW_OPS, backward_view, forward_view, is_invertible
from graphopt.errors import BackendError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import DType

if TYPE_CHECKING:
    import numpy

__all__ = ["Builder", "Derived"]

Derived = Callable[[ReadState], "numpy.ndarray"]
"""Numbers made of the model's own when the plan's weights are written."""


class Builder:
    """One plan in the making."""

    def __init__(
        self,
        graph: Graph,
        groups: Sequence[Group],
        layouts: Layouts,
        shapes: Shapes,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        choose: Choice = first_choice,
    ) -> None:
        self.graph = graph
        self.shapes = shapes
        self.layouts = layouts
        self.derived: dict[str, Derived] = {}
        self.steps: list[Step] = []
        self.buffers: dict[str, Buffer] = {}
        self._choose = choose
        self._items = find_blocks(groups, shapes)
        self._inside = {node for group in groups for node in group.nodes}
        self._storages: dict[Value, Storage] = {}
        self._copies: dict[tuple[Storage, str, tuple[int, int]], Storage] = {}
        self._outputs = list(outputs)
        self._inputs = list(inputs)
        self._homes = _concat_homes(groups, shapes)
        self._group: Group | None = None
        for index, value in enumerate(inputs):
            storage = plain(f"input{index}", value.type.dtype, shapes.of(value))
            self.buffers[storage.buffer] = Buffer(storage.buffer, "input", storage, index)
            self._storages[value] = storage
        self._output_storages = [plain(f"output{index}", value.type.dtype, shapes.of(value)) for index, value in enumerate(outputs)]
        for index, storage in enumerate(self._output_storages):
            self.buffers[storage.buffer] = Buffer(storage.buffer, "output", storage, index)

    # ---- the walk -------------------------------------------------------------------------------------------

    def build(self, makers: Mapping[str, Callable[[Builder, Group], None]], blocks: Mapping[str, Callable[[Builder, Block], None]]) -> Plan:
        """All groups and blocks, then the outputs."""
        for item in self._items:
            if isinstance(item, Block):
                self._group = item.groups[0]
                blocks[item.kind](self, item)
            else:
                self._group = item
                makers[item.anchor.op](self, item)
        self._group = None
        for value, target in zip(self._outputs, self._output_storages, strict=True):
            source = self.storage(value)
            if source != target:
                self.copy(source, target)
        inputs = [self.buffers[f"input{index}"].storage for index in range(len(self._inputs))]
        return finish(self.graph.name, inputs, self._output_storages, self.buffers, self.steps)

    def add(self, candidates: Sequence[Kernel]) -> None:
        """Add the step of the current group: one of the candidates, by the builder's choice."""
        self.add_alternatives([[Stage(tuple(candidates), () if self._group is None else (self._group,))]])

    def add_alternatives(self, alternatives: Sequence[Alternative]) -> None:
        """Add the steps of one of several ways to run some groups, by the builder's choice."""
        for alternative in alternatives:
            for stage in alternative:
                if not stage.candidates:
                    raise BackendError("no kernel fits", where=repr(stage.groups[0].anchor) if stage.groups else "")
        chosen, number = self._choose(alternatives)
        for (kernel, reason), stage in zip(chosen, alternatives[number], strict=True):
            names = tuple(result.name for group in stage.groups for node in group.nodes for result in node.results)
            source = (stage.groups[0].anchor.source.module or names[0]) if stage.groups else ""
            self.steps.append(Step(kernel, source, reason, names))

    def copy(self, source: Storage, target: Storage) -> None:
        """Add a step that copies."""
        self.add_alternatives([[Stage((Copy(source, target),))]])

    @contextmanager
    def working_on(self, group: Group) -> Generator[None]:
        """Chains and views are those of `group` meanwhile; for blocks, which have several."""
        before, self._group = self._group, group
        try:
            yield
        finally:
            self._group = before

    # ---- storages -------------------------------------------------------------------------------------------

    def storage(self, value: Value) -> Storage:
        """Where a value lies; states lie in the weights blob."""
        found = self._storages.get(value)
        if found is None:
            if self.graph.state_of(value) is None:
                raise BackendError(f"%{value.name} is read before it is made")
            found = self._storages[value] = self.state(value.name, value.type.dtype, self.shapes.of(value))
        return found

    def known(self, value: Value) -> Storage | None:
        """Where a value lies or will lie, or None when nobody has decided."""
        return self._storages.get(value)

    def state(self, name: str, dtype: DType, shape: Sequence[int], derived: Derived | None = None) -> Storage:
        """A state, or numbers derived from states, in the weights blob."""
        storage = plain(f"state:{name}", dtype, shape)
        self.buffers.setdefault(storage.buffer, Buffer(storage.buffer, "state", storage, state=name))
        if derived is not None:
            self.derived[name] = derived
        return storage

    def numbers(self, name: str) -> numpy.ndarray | None:
        """The numbers of a state, None where the graph has none."""
        state = self.graph.states.get(name)
        if state is None or state.data is None:
            return None
        return state.data.tensor().detach().numpy()

    def put(self, value: Value, storage: Storage) -> None:
        """A value lies there from now on."""
        self._storages[value] = storage

    def buffer(self, storage: Storage) -> Storage:
        """Memory for a storage that covers a new buffer (its name is replaced)."""
        moved = storage.moved(f"b{len(self.buffers)}")
        self.buffers[moved.buffer] = Buffer(moved.buffer, "arena", moved)
        return moved

    def allocate(self, value: Value) -> Storage:
        """Memory for a result: in the concatenation that it is part of, as the view that its only reader takes, in
        the caller's output, or a buffer of its own."""
        home = self._home(value)
        if home is not None:
            return home
        seen = self._through_views(value)
        if seen is not None:
            return seen
        if self._outputs.count(value) == 1 and self.layouts.wish(value) == "plain":
            return self._output_storages[self._outputs.index(value)]
        return self.buffer(self.layouts.allocate(value, "new"))

    def _home(self, value: Value) -> Storage | None:
        found = self._homes.get(value)
        if found is None:
            return None
        node, start = found
        whole = self._storages.get(node.results[0])
        if whole is None:
            whole = self.allocate(node.results[0])
            self._storages[node.results[0]] = whole
        axis = self.shapes.dim(node.attrs["axis"])
        part = whole.slice(axis, start, start + self.shapes.of(value)[axis])
        # a part whose channels are no full groups can't be written in whole vectors without harming its neighbour
        return None if part is not None and part.blocked_axis == axis and part.shape[axis] % LANES and not _is_last(node, value) else part

    def _through_views(self, value: Value) -> Storage | None:
        if value.use_count != 1:
            return None
        node = value.users[0]
        if node not in self._inside or node.op not in VIEW_OPS or not is_invertible(node):
            return None
        before = dict(self.buffers)
        target = self.allocate(node.results[0])
        seen = backward_view(node, target, self.shapes)
        if seen is None:
            self.buffers = before
        return seen

    def view(self, node: Node) -> None:
        """The results of a view node: views where strides allow, else a copy first."""
        operand = node.operands[0]
        if not isinstance(operand, Value):
            raise BackendError(f"{node.op} reads no value", where=repr(node))
        source = self.storage(operand)
        for index, result in enumerate(node.results):
            seen = forward_view(node, index, source, self.shapes)
            if seen is None:
                flat = self.plain(source)
                seen = forward_view(node, index, flat, self.shapes)
                if seen is None:
                    raise BackendError(f"{node.op} can't be a view of a plain tensor", where=repr(node))
            self.put(result, seen)

    # ---- what kernels need ----------------------------------------------------------------------------------

    def plain(self, storage: Storage) -> Storage:
        """The same value, contiguous."""
        return storage if storage.is_plain else self._copied(storage, "plain", (0, 0))

    def image(self, storage: Storage, halo: tuple[int, int] = (0, 0), layout: str | None = None) -> Storage:
        """[N, C, H, W] or [N, C, L] with 16 channels side by side and at least that halo; copied to `layout`, where that is such."""
        enough = storage.halo[0] >= halo[0] and storage.halo[1] >= halo[1]
        if enough and storage.lanes(1) is not None and 0 not in storage.strides:
            return storage
        if layout is None or layout == "plain":
            layout = "blocked" if storage.rank == 4 else "last"
        return self._copied(storage, layout, halo)

    def planes(self, storage: Storage, halo: tuple[int, int]) -> Storage:
        """[N, C, H, W] with w contiguous and at least that halo."""
        enough = storage.halo[0] >= halo[0] and storage.halo[1] >= halo[1]
        if enough and storage.blocked_axis is None and storage.strides[-1] == 1:
            return storage
        return self._copied(storage, "plain", halo)

    def rows(self, storage: Storage) -> Storage:
        """Any shape whose last axis is contiguous."""
        last = storage.rank - 1
        if storage.blocked_axis is None and (storage.strides[last] == 1 or storage.shape[last] == 1):
            return storage
        return self.plain(storage)

    def _copied(self, storage: Storage, layout: str, halo: tuple[int, int]) -> Storage:
        key = (storage, layout, halo)
        if key not in self._copies:
            target = self.buffer(make_storage(layout, "new", storage.dtype, storage.shape, halo))
            self.copy(storage, target)
            self._copies[key] = target
        return self._copies[key]

    def like(self, storage: Storage, model: Storage) -> Storage:
        """A copy that is laid out in the order of axes of `model`."""
        order = sorted(range(model.rank), key=lambda axis: (-model.strides[axis], axis))
        steps = row_major([storage.shape[axis] for axis in order])
        strides = tuple(steps[order.index(axis)] for axis in range(model.rank))
        target = self.buffer(Storage("new", storage.dtype, storage.shape, strides))
        self.copy(storage, target)
        return target

    # ---- results of groups ----------------------------------------------------------------------------------

    def result(self, group: Group, accept: Callable[[Storage], bool], fallback: Callable[[tuple[int, ...]], Storage]) -> Storage:
        """The storage that the anchor writes, in the anchor's shape. The group's result is put where it ends up.

        The wish of the group's result is seen backwards through the views of the group; where that fails or is not
        what the kernel can write, `fallback` makes a storage for the anchor's shape.
        """
        before = dict(self.buffers)
        homes = dict(self._storages)
        target = self.allocate(group.result)
        seen: Storage | None = target
        for node in reversed(group.path):
            seen = backward_view(node, seen, self.shapes) if seen is not None else None
        if seen is not None and accept(seen):
            self.put(group.result, target)
            return seen
        self.buffers, self._storages = before, homes
        made = self.buffer(fallback(self.shapes.of(group.anchor.results[0])))
        forwards = made
        for node in group.path:
            found = forward_view(node, 0, forwards, self.shapes)
            if found is None:
                raise BackendError("a chain rides on a view that does not fit", where=repr(node))
            forwards = found
        self.put(group.result, forwards)
        return made

    def chain(self, group: Group, include_anchor: bool = False) -> Chain:
        """The group's elementwise ops, with operands seen in the anchor's shape."""
        operations: list[Operation] = []
        operands: list[Storage] = []
        path: list[Node] = []
        carried: dict[Value, Argument] = {group.anchor.results[0]: TheValue()}

        def operand(value: Value) -> FromOperand:
            operands.append(self._seen_backwards(value, path))
            return FromOperand(len(operands) - 1)

        def argument(item: object) -> Argument:
            if isinstance(item, Value):
                return carried[item] if item in carried else operand(item)
            if isinstance(item, (bool, int, float)):
                return Constant(float(item))
            raise BackendError(f"{item!r} can't be in a chain")

        for link in group.chain:
            for node in link.path:
                path.append(node)
                source = node.operands[0]
                if isinstance(source, Value):
                    carried[node.results[0]] = carried[source]
            node = link.node
            if node.op == "batch_norm":
                scale, shift = self.batch_norm(node, path)
                operands += [scale, shift]
                x = node.operands[0]
                assert isinstance(x, Value)
                operations.append(Operation("mul", (carried[x], FromOperand(len(operands) - 2))))
                operations.append(Operation("add", (FromOperation(len(operations) - 1), FromOperand(len(operands) - 1))))
            else:
                operations.append(self._operation(node, argument))
            carried[node.results[0]] = FromOperation(len(operations) - 1)
        return Chain(tuple(operations), tuple(operands))

    def _operation(self, node: Node, argument: Callable[[object], Argument]) -> Operation:
        if node.op == "prelu":
            return Operation(node.op, (argument(node.operands[0]), argument(node.operands[1])), node.attrs)
        return Operation(node.op, tuple(argument(item) for item in node.operands), node.attrs)

    def _seen_backwards(self, value: Value, path: Sequence[Node]) -> Storage:
        """A value broadcast to the shape at the end of `path`, as it looks from the anchor."""
        storage = self.storage(value)
        if not path:
            return self._expanded(storage, value, None)
        for attempt in range(2):
            seen: Storage | None = self._expanded(storage, value, path[-1])
            for node in reversed(path):
                seen = backward_view(node, seen, self.shapes) if seen is not None else None
            if seen is not None:
                return seen
            if attempt == 0:
                storage = self.plain(storage)
        whole = self.plain(self._expanded(storage, value, path[-1]))
        for node in reversed(path):
            seen = backward_view(node, whole, self.shapes)
            if seen is None:
                raise BackendError("an operand can't be seen through a view", where=repr(node))
            whole = seen
        return whole

    def _expanded(self, storage: Storage, value: Value, view: Node | None) -> Storage:
        assert self._group is not None
        shape = self.shapes.of(view.results[0]) if view is not None else self.shapes.of(self._group.anchor.results[0])
        seen = storage.expand(shape)
        if seen is None:
            seen = self.plain(storage).expand(shape)
        if seen is None:
            raise BackendError(f"%{value.name} does not broadcast to {list(shape)}")
        return seen

    def batch_norm(self, node: Node, path: Sequence[Node] = ()) -> tuple[Storage, Storage]:
        """Scale and shift of a batch norm with its stored statistics, expanded to the shape of its operand."""
        x, weight, bias, mean, variance = node.operands
        assert isinstance(x, Value)
        channels = self.shapes.of(x)[1]
        eps = node.attrs["eps"]
        names = [operand.name if isinstance(operand, Value) else None for operand in (weight, bias, mean, variance)]
        assert isinstance(eps, (int, float))

        def scale(read: ReadState) -> numpy.ndarray:
            import numpy

            found = numpy.ones(channels) if names[0] is None else read(names[0]).astype(numpy.float64)
            assert names[3] is not None
            return (found / numpy.sqrt(read(names[3]).astype(numpy.float64) + eps)).astype(numpy.float32)

        def shift(read: ReadState) -> numpy.ndarray:
            import numpy

            found = numpy.zeros(channels) if names[1] is None else read(names[1]).astype(numpy.float64)
            assert names[2] is not None
            return (found - read(names[2]).astype(numpy.float64) * scale(read).astype(numpy.float64)).astype(numpy.float32)

        number = len(self.derived)
        made: list[Storage] = []
        for name, numbers in ((f"derived{number}", scale), (f"derived{number + 1}", shift)):
            storage = self.state(name, DType.f32, (channels,), numbers)
            shape = self.shapes.of(x)
            column = Storage(storage.buffer, DType.f32, shape, tuple(1 if axis == 1 else 0 for axis in range(len(shape))))
            seen: Storage | None = column
            for view in reversed(path):
                seen = backward_view(view, seen, self.shapes) if seen is not None else None
            if seen is None:
                raise BackendError("a batch norm can't be seen through a view", where=repr(node))
            made.append(seen)
        return made[0], made[1]

    def laid_out_like(self, chain: Chain, y: Storage) -> Chain:
        """The chain with every operand copied into the order of y."""
        return replace(chain, operands=tuple(self.like(storage, y) for storage in chain.operands))

    def fit(self, chain: Chain, frame: Frame, y: Storage) -> Chain:
        """The chain with operands copied into the order of y where the frame can't tell theirs."""
        if chain_fits(chain, frame):
            return chain
        operands = tuple(
            storage if chain_fits(Chain(chain.operations, (storage,) * len(chain.operands)), frame) else self.like(storage, y)
            for storage in chain.operands
        )
        fitted = replace(chain, operands=operands)
        if not chain_fits(fitted, frame):
            raise BackendError(f"the chain{chain.text} does not fit its kernel")
        return fitted


def _concat_homes(groups: Iterable[Group], shapes: Shapes) -> dict[Value, tuple[Node, int]]:
    """For values that are concatenated, the largest concatenation they are part of, and where they begin in it."""
    homes: dict[Value, tuple[Node, int]] = {}
    nodes = [group.anchor for group in groups if group.anchor.op == "concat"]
    results = {group.result for group in groups}
    for node in sorted(nodes, key=lambda node: shapes.of(node.results[0])[shapes.dim(node.attrs["axis"])]):
        axis = shapes.dim(node.attrs["axis"])
        start = 0
        for operand in node.operands:
            assert isinstance(operand, Value)
            if operand in results and operand.producer is not None and operand.producer.op not in VIEW_OPS:
                homes[operand] = (node, start)
            start += shapes.of(operand)[axis]
    return homes


def _is_last(node: Node, value: Value) -> bool:
    return node.operands[-1] is value
