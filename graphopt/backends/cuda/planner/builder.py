"""Builds a plan: storages for values, steps for groups, copies where a layout has to change.

A `Builder` walks the groups in order. For each it asks the maker of the anchor's op for ways to run the group, takes one, and notes
where the result lies. What no kernel and no library call does is a `torch` step, whose reason is kept for the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from graphopt.backends.cuda.chain import Chain
from graphopt.backends.cuda.kernel import Kernel, Unsupported, Work
from graphopt.backends.cuda.kernels.chain_code import NO_CHAIN
from graphopt.backends.cuda.kernels.elementwise import Elementwise
from graphopt.backends.cuda.options import CudaOptions
from graphopt.backends.cuda.plan import Buffer, Plan, Step, finish
from graphopt.backends.cuda.planner.chains import Chains
from graphopt.backends.cuda.planner.choice import Choice, Way, first_choice
from graphopt.backends.cuda.planner.layouts import Layouts
from graphopt.backends.cuda.planner.prologues import Waiting, is_certain, waiting_part
from graphopt.backends.cuda.planner.rules import groups_of
from graphopt.backends.cuda.states import Fill, Identity, ReadState
from graphopt.backends.cuda.steps import LibraryStep, NodeStep
from graphopt.backends.cuda.storage import Storage, dense_in_order
from graphopt.backends.planning.groups import Group
from graphopt.backends.planning.shapes import Shapes
from graphopt.backends.planning.views import VIEW_OPS, forward_view
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import BackendError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import DType
from graphopt.ops.families import CREATION

__all__ = ["Builder", "Maker"]

Maker = Callable[["Builder", Group], Sequence[Way]]
"""The ways to run a group, the default first; raises `Unsupported`."""


class Builder:
    """One plan in the making."""

    def __init__(self, graph: Graph, shapes: Shapes, options: CudaOptions, choose: Choice = first_choice) -> None:
        self.graph = graph
        self.shapes = shapes
        self.options = options
        self.fills: dict[str, Fill] = {}
        self.identities: dict[str, Identity] = {}
        self.reasons: dict[Node, str] = {}
        self.sparse_offers: dict[str, str] = {}
        """Values that a way could have computed which skips zeros of a weight, and why the way was taken that was."""
        self._nodes = list(graph.nodes)
        self._numbers = {node: number for number, node in enumerate(self._nodes)}
        self.layouts = Layouts(self._nodes, shapes)
        self._choose = choose
        self._chains = Chains(self, shapes)
        self._buffers: dict[str, Buffer] = {}
        self._counts: dict[str, int] = {}
        self._steps: list[Step] = []
        self._storages: dict[Value, Storage] = {}
        self._waiting: dict[Value, Waiting] = {}
        self._states: dict[tuple[object, ...], Storage] = {}
        self._copies: dict[tuple[Storage, DType, tuple[int, ...]], Storage] = {}
        self._group: Group | None = None
        for index, value in enumerate(graph.inputs):
            storage = dense_in_order(f"input{index}", self.stored(value.type.dtype), shapes.of(value), self.layouts.order(value))
            self._buffers[storage.buffer] = Buffer("input", storage, index)
            self._storages[value] = storage

    # ---- the walk -------------------------------------------------------------------------------------------

    def build(self, makers: Mapping[str, Maker]) -> Plan:
        """All groups, then the outputs."""
        for group in groups_of(self._nodes, self.shapes):
            self._group = group
            if self._is_constant(group.anchor):
                self._constant(group.anchor)
                continue
            if group.anchor.op in VIEW_OPS and not group.chain and self._view(group.anchor):
                continue
            self._take(group, self._ways(group, makers))
        self._group = None
        outputs = [self.storage(value) for value in self.graph.outputs if isinstance(value, Value)]
        self._drop_unread(outputs)
        inputs = [self._buffers[f"input{index}"].storage for index in range(len(self.graph.inputs))]
        return finish(self.graph.name, self.options.dtype, inputs, outputs, self._buffers, self._steps)

    def _drop_unread(self, outputs: Sequence[Storage]) -> None:
        """Leave out steps whose results nobody reads: copies for ways that were not taken."""
        needed = {storage.buffer for storage in outputs}
        kept: list[Step] = []
        for step in reversed(self._steps):
            if any(storage.buffer in needed for storage in step.work.writes):
                kept.append(step)
                needed.update(storage.buffer for storage in step.work.reads)
        self._steps = kept[::-1]

    def _is_constant(self, node: Node) -> bool:
        """True for a node that makes the same numbers in every run: `arange`, `full`."""
        return not any(isinstance(operand, Value) for operand in node.operands) and node.op in CREATION

    def _constant(self, node: Node) -> None:
        """The results of a node without tensor operands, computed once like a parameter."""
        for index, result in enumerate(node.results):

            def fill(read: ReadState, index: int = index) -> torch.Tensor:
                return Interpreter(self.graph).evaluate(node, list(node.operands), self.shapes.sizes)[index]

            exact, key = result.type.rank < 2, (node, index, *sorted(self.shapes.sizes.items()))
            self._storages[result] = self.numbers(key, result.type.dtype, self.shapes.of(result), fill, exact=exact)

    def _ways(self, group: Group, makers: Mapping[str, Maker]) -> Sequence[Way]:
        maker = makers.get(group.anchor.op)
        try:
            if maker is None:
                raise Unsupported(f"no kernel computes {group.anchor.op}")
            return maker(self, group)
        except Unsupported as refusal:
            self.reasons[group.anchor] = str(refusal)
        return [self._by_torch(group)]

    def _by_torch(self, group: Group) -> Way:
        """The anchor as the reference lowering runs it, then the chain."""
        node = group.anchor
        operands = tuple(self.storage(operand) for operand in node.operands if isinstance(operand, Value))
        results: list[Storage] = []
        for result in node.results:
            made = self.new("torch", result.type.dtype, self.shapes.of(result), range(result.type.rank))
            self._storages[result] = made
            results.append(made)
        step = NodeStep(self._numbers[node], node.op, operands, tuple(results))
        if not results:
            raise BackendError(f"{node.op} has no result", where=repr(node))
        return self.finished(group, (step,), results[0], "torch")

    def _take(self, group: Group, ways: Sequence[Way]) -> None:
        parts = [waiting_part(group, way, self.shapes) for way in ways]
        # what rides in front of another kernel is not part of these ways' time
        offered = [way if part is None or not is_certain(group) else _without(way, part) for way, part in zip(ways, parts, strict=True)]
        number, reason = self._choose(offered) if len(ways) > 1 else (0, "")
        way, part = ways[number], parts[number]
        reason = reason or self.reasons.get(group.anchor, "")
        names = tuple(result.name for node in group.nodes for result in node.results)
        if any(work.skips_zeros for offer in ways for work in offer.works):
            self.sparse_offers |= dict.fromkeys(names, reason)
        source = group.anchor.source.module or names[0]
        works = way.works if part is None else way.works[:-1]
        own = names if part is None else tuple(result.name for result in group.anchor.results) if works else ()
        front = self._front(group)
        if front is not None and works[:1] == (front.work,):
            self._steps.append(front.step)
            works, front = works[1:], None
        first = () if front is None else front.values
        assert front is None or any(front.work.x in work.reads for work in works), "a maker asked for what waits, or for its result"
        self._steps += [Step(work, source, reason, (*first, *own)) for work in works]
        if part is not None:
            self._waiting[group.result] = Waiting(part, source, names[len(own) :])
            return
        seen: Storage | None = way.result
        for node in group.path:
            seen = forward_view(node, 0, seen, self.shapes) if seen is not None else None
        if seen is None:
            raise BackendError("a chain rides on a view that does not fit", where=repr(group.anchor))
        self._storages[group.result] = seen

    def _front(self, group: Group) -> Waiting | None:
        """What waited for this group and was not asked for in the meantime: the chosen way does it, in a kernel or as its first step."""
        operand = group.anchor.operands[0] if group.anchor.operands else None
        return self._waiting.pop(operand, None) if isinstance(operand, Value) else None

    def _view(self, node: Node) -> bool:
        """The results of a view node: views where strides allow, else of a contiguous copy. False where it is no view at all."""
        operand = node.operands[0]
        if not isinstance(operand, Value):
            raise BackendError(f"{node.op} reads no value", where=repr(node))
        if node.op.endswith("dropout") and node.attrs["mode"] == "train" and node.attrs["p"]:
            return False
        storage = self.storage(operand)
        for index, result in enumerate(node.results):
            seen = forward_view(node, index, storage, self.shapes)
            if seen is None:
                seen = forward_view(node, index, self.contiguous(storage), self.shapes)
            if seen is None:
                raise BackendError(f"{node.op} can't be a view of a contiguous tensor", where=repr(node))
            self._storages[result] = seen
        return True

    # ---- memory ---------------------------------------------------------------------------------------------

    def stored(self, dtype: DType) -> DType:
        """What values of an IR dtype are stored as."""
        return self.options.storage if dtype is DType.f32 else dtype

    def new(self, kind: str, dtype: DType, shape: Sequence[int], order: Sequence[int], *, exact: bool = False) -> Storage:
        """A storage that covers a new buffer; `dtype` is that of the IR, stored as the options say unless `exact`."""
        prefix = {"arena": "b", "torch": "t", "state": "s"}[kind]
        number = self._counts.get(prefix, 0)
        self._counts[prefix] = number + 1
        made = dense_in_order(f"{prefix}{number}", dtype if exact else self.stored(dtype), shape, order)
        self._buffers[made.buffer] = Buffer(kind, made)
        return made

    def storage(self, value: Value) -> Storage:
        """Where a value is; a state gets a buffer, and a step that waits for its reader is planned now."""
        waiting = self._waiting.pop(value, None)
        if waiting is not None:
            self._steps.append(waiting.step)
            self._storages[value] = waiting.work.y
        found = self._storages.get(value)
        if found is not None:
            return found
        if self.graph.state_of(value) is None:
            raise BackendError(f"%{value.name} is read before it is computed", fix="verify the graph with graphopt.ops.verify")
        return self.parameter(value)

    def parameter(self, value: Value, order: Sequence[int] | None = None, *, exact: bool | None = None) -> Storage:
        """A state with its axes in an order. Vectors stay f32 unless `exact` is False: they are small, and kernels compute in f32."""
        keep = value.type.rank < 2 if exact is None else exact
        name = value.name
        return self.numbers(("state", name), value.type.dtype, self.shapes.of(value), lambda read: read(name), order, exact=keep)

    def numbers(
        self,
        key: tuple[object, ...],
        dtype: DType,
        shape: Sequence[int],
        fill: Fill,
        order: Sequence[int] | None = None,
        *,
        exact: bool = False,
    ) -> Storage:
        """A state buffer with numbers made of the graph's; one for each key, dtype and order. Equal keys have equal numbers, in the
        plans for other sizes too."""
        order = tuple(range(len(shape)) if order is None else order)
        whole = (*key, dtype, exact, order)
        if whole not in self._states:
            made = self._states[whole] = self.new("state", dtype, shape, order, exact=exact)
            self.fills[made.buffer] = fill
            self.identities[made.buffer] = (*key, made.dtype, made.shape, made.strides)
        return self._states[whole]

    def contiguous(self, storage: Storage) -> Storage:
        """The same value, contiguous."""
        return storage if storage.is_contiguous else self.copied(storage, range(storage.rank))

    def dense(self, storage: Storage, order: Sequence[int]) -> Storage:
        """The same value with axes in that order, without gaps."""
        wanted = dense_in_order(storage.buffer, storage.dtype, storage.shape, order)
        fits = all(size == 1 or have == want for size, have, want in zip(storage.shape, storage.strides, wanted.strides, strict=True))
        return storage if fits else self.copied(storage, order)

    def copied(self, storage: Storage, order: Sequence[int], dtype: DType | None = None) -> Storage:
        """A copy with axes in that order, made once."""
        key = (storage, dtype or storage.dtype, tuple(order))
        if key not in self._copies:
            target = self.new("arena", key[1], storage.shape, order, exact=True)
            try:
                work: Work = Elementwise(storage, target)
            except Unsupported:  # complex numbers, which kernels lack
                target = self.new("torch", key[1], storage.shape, order, exact=True)
                work = LibraryStep("copy", (storage,), target, title=storage.type_text)
            names = () if self._group is None else (self._group.result.name,)
            self._steps.append(Step(work, "", "", names))
            self._copies[key] = target
        return self._copies[key]

    # ---- results --------------------------------------------------------------------------------------------

    def target(self, group: Group, kind: str = "arena") -> Storage:
        """Memory for the group's result, in the shape and layout of the anchor's."""
        anchor = group.anchor.results[0]
        return self.new(kind, group.result.type.dtype, self.shapes.of(anchor), self.order(group))

    def order(self, group: Group) -> tuple[int, ...]:
        """The order of axes of the anchor's result: as an image, unless a view that the chain rides on does not fit that."""
        anchor = group.anchor.results[0]
        order = self.layouts.order(anchor)
        seen: Storage | None = dense_in_order("seen", DType.f32, self.shapes.of(anchor), order)
        for node in group.path:
            seen = forward_view(node, 0, seen, self.shapes) if seen is not None else None
        return order if seen is not None else tuple(range(anchor.type.rank))

    def finished(self, group: Group, works: Sequence[Work], made: Storage, name: str) -> Way:
        """Steps that leave the anchor's result in `made`, followed by the group's chain: in place where the dtype allows."""
        chain = self.chain(group)
        if not chain:
            return Way(tuple(works), made, name)
        target = made if made.dtype is self.stored(group.result.type.dtype) else self.target(group)
        return Way((*works, Elementwise(made, target, chain)), target, name)

    # ---- chains ---------------------------------------------------------------------------------------------

    def waiting(self, value: Value) -> Elementwise | None:
        """The step that makes a value, where a kernel that reads it may do that work instead. It stays waiting: a way that is
        offered has it as its first work, or does it; else ask for `storage`."""
        found = self._waiting.get(value)
        return None if found is None else found.work

    def before(self, value: Value, make: Callable[[Storage, Chain], Kernel]) -> Kernel:
        """A kernel on a value, with what makes the value in front where the kernel can do that: `make` gets what is read, and the chain
        on it."""
        waiting = self.waiting(value)
        if waiting is None:
            return make(self.storage(value), NO_CHAIN)
        try:
            return make(waiting.x, waiting.chain)
        except Unsupported:
            return make(self.storage(value), NO_CHAIN)

    def chain(self, group: Group) -> Chain:
        """The group's elementwise ops, on the anchor's result, with operands seen in its shape."""
        return self._chains.behind(group)

    def elementwise(self, group: Group) -> tuple[Storage, Chain]:
        """A group whose anchor is elementwise: its first operand of full size, if it has one, and the chain of all of its ops on that."""
        return self._chains.elementwise(group)


def _without(way: Way, part: Elementwise) -> Way:
    """A way without its last step."""
    return replace(way, works=way.works[:-1], result=part.x)
