"""Activation checkpointing chosen from the graph: which parts are run again in the backward pass so that less is kept.

    plan = plan_checkpoints(graph, budget=64 << 20)
    print(plan)                     3 segments, 2 run again: about 61.2 MB of activations instead of 240.0 MB
    module = checkpointed(graph, plan)      trains as graph.to_module() does, with the same gradients

A graph in execution order is cut into segments. A segment that is run again keeps only what it reads from before, and
needs its own activations while its backward pass runs:

    memory = sum over segments run again of the bytes read + sum over others of their activations
             + the largest of the segments run again

Where cuts are cheap is read off the graph: the bytes that are alive between two nodes, as `graphopt.analysis.peak_memory`
counts them. Segments at the end are run again last: they would be needed first anyway.

Source: Chen et al., "Training deep nets with sublinear memory cost", 2016.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from graphopt.analysis.cost import evaluate_type
from graphopt.analysis.memory import shares_memory
from graphopt.analysis.table import counted, scaled
from graphopt.backends.calling import flatten_call, restore_output
from graphopt.capture.module import to_module
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, GraphEditor, Node, Value

__all__ = ["CheckpointPlan", "PlannedParts", "Segment", "checkpointed", "plan_checkpoints"]

_LIMITS = 48
"""Sizes of segments that are tried, evenly spaced on a logarithmic scale."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Nodes `first` to `last` (positions, both included); bytes it reads from before and bytes of its activations."""

    first: int
    last: int
    reads: int
    activations: int
    again: bool = True


@dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """The segments, in order; `bytes` is the estimate for activations, `without` that of plain training."""

    segments: tuple[Segment, ...]
    bytes: int
    without: int

    @property
    def again(self) -> int:
        """How many segments are run again."""
        return sum(segment.again for segment in self.segments)

    def __str__(self) -> str:
        count = f"{counted(len(self.segments), 'segment')}, {self.again} run again"
        return f"{count}: about {scaled(self.bytes, 'B')} of activations instead of {scaled(self.without, 'B')}"


def plan_checkpoints(graph: Graph, *, budget: int | None = None, dims: Mapping[str, int] | None = None) -> CheckpointPlan:
    """The plan with the least memory, or the one that runs the fewest nodes again within `budget` bytes of activations.

    `dims` gives sizes for symbolic dimensions.

    Raises:
        UsageError: the budget can't be kept (the message has the least that is possible), a size is not known, or it is no graph.
    """
    if not isinstance(graph, Graph):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
        raise UsageError(
            f"checkpoints are planned for a graph, got a {type(graph).__name__}", fix="graphopt.capture(model, example_inputs)"
        )
    nodes = list(graph.nodes)
    sizes = [_bytes(node, dims or {}) for node in nodes]
    without = sum(sizes)
    plain = CheckpointPlan((Segment(0, len(nodes) - 1, 0, without, again=False),), without, without)
    if budget is not None and without <= budget:
        return plain
    live = _live_between(graph, nodes, dims or {})
    plans = [plain]
    for number in range(_LIMITS):
        limit = max(1, int(without ** ((number + 1) / _LIMITS)))
        segments = _segments(sizes, live, limit)
        plans.append(CheckpointPlan(tuple(segments), _estimate(segments), without))
    least = min(plans, key=lambda plan: (plan.bytes, len(plan.segments)))
    if budget is None:
        return least
    if least.bytes > budget:
        raise UsageError(
            f"activations of '{graph.name}' need {scaled(least.bytes, 'B')} at least with checkpoints, {scaled(budget, 'B')} are allowed",
            fix="use smaller batches, or accumulate gradients over them",
        )
    return min((_relaxed(plan, budget) for plan in plans if plan.bytes <= budget), key=lambda plan: (_nodes_again(plan), plan.bytes))


def checkpointed(graph: Graph, plan: CheckpointPlan) -> nn.Module:
    """A module like `graph.to_module()`, in eval mode, whose forward pass follows the plan where gradients are wanted.

    Batch norms update their statistics once: what is run again works on copies. Dropout draws the same numbers again.

    Raises:
        BackendError: a state has no numbers.
        LoweringError: a segment can't be run by itself, because a symbolic size follows from none of its inputs.
        UsageError: the plan is that of another graph.
    """
    parts = PlannedParts(graph, plan)
    made = to_module(graph)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        outputs = parts.run(self, flatten_call(graph, args, kwargs))
        return restore_output(graph.structure, outputs)

    made.__class__ = type(type(made).__name__, (type(made),), {"forward": forward})
    return made


class PlannedParts:
    """The segments of a plan, ready to run with the states of a module.

    Raises:
        LoweringError: a segment can't be run by itself, because a symbolic size follows from none of its inputs.
        UsageError: the plan is that of another graph.
    """

    def __init__(self, graph: Graph, plan: CheckpointPlan) -> None:
        nodes = list(graph.nodes)
        if plan.segments and plan.segments[-1].last != len(nodes) - 1:
            raise UsageError(
                f"the plan is for {plan.segments[-1].last + 1} nodes, graph '{graph.name}' has {len(nodes)}",
                fix="make one for this graph: plan_checkpoints(graph)",
            )
        self._graph = graph
        self._parts = [_part(graph, nodes[segment.first : segment.last + 1], segment.again) for segment in plan.segments]

    def run(self, module: nn.Module, inputs: Sequence[Any]) -> list[Any]:
        """The graph's outputs for its flat inputs."""
        values: dict[Value, Any] = dict(zip(self._graph.inputs, inputs, strict=True))
        tensors = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}
        for part in self._parts:
            found = part.run([values[value] for value in part.reads], tensors, module.training)
            values.update(zip(part.writes, found, strict=True))
        return [_output(operand, values, tensors) for operand in self._graph.outputs]


def _output(operand: Any, values: Mapping[Value, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(operand, Value):
        return operand
    return values[operand] if operand in values else tensors[operand.name]


class _Part:
    """A segment as a module of its own, which gets its states from the whole one."""

    def __init__(self, module: nn.Module, reads: Sequence[Value], writes: Sequence[Value], again: bool) -> None:
        self._module, self.reads, self.writes, self._again = module, tuple(reads), tuple(writes), again
        self._states = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
        self._buffers = {name for name, _ in module.named_buffers()}
        self._running_again = False

    def run(self, inputs: list[Any], tensors: Mapping[str, torch.Tensor], training: bool) -> tuple[Any, ...]:
        """The values that later segments read."""
        states = {name: tensors[name] for name in self._states if name in tensors}

        def compute(*inputs: Any) -> Any:
            self._module.train(training)
            used = states
            if self._running_again:
                used = {name: tensor.clone() if name in self._buffers else tensor for name, tensor in states.items()}
            return torch.func.functional_call(self._module, used, inputs)

        if self._again and torch.is_grad_enabled():
            return checkpoint(compute, *inputs, use_reentrant=False, context_fn=self._contexts)
        return compute(*inputs)

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), self._second_run()

    @contextmanager
    def _second_run(self) -> Generator[None]:
        self._running_again = True
        try:
            yield
        finally:
            self._running_again = False


def _part(graph: Graph, nodes: Sequence[Node], again: bool) -> _Part:
    inside = {value for node in nodes for value in node.results}
    own = set(nodes)
    operands = dict.fromkeys(operand for node in nodes for operand in node.operands if isinstance(operand, Value) and operand not in inside)
    # Sizes of symbolic dimensions are read off the graph's inputs.
    reads = dict.fromkeys([*(graph.inputs if graph.symbols else ()), *(value for value in operands if graph.state_of(value) is None)])
    writes = [value for node in nodes for value in node.results if any(user not in own for user in value.users)]
    made = Graph(graph.name)
    editor = GraphEditor(made)
    mapping: dict[Value, Value] = {}
    for name, limits in graph.symbols.items():
        editor.add_symbol(name, limits)
    for value in reads:
        mapping[value] = editor.add_input(value.name, value.type)
    needed = {value.name for value in operands if graph.state_of(value) is not None}
    # The counter of a batch norm is read by the module and not by a node.
    needed |= {f"{name.removesuffix('running_mean')}num_batches_tracked" for name in needed if name.endswith("running_mean")}
    for name, state in graph.states.items():
        if name in needed:
            mapping[state.value] = editor.add_state(replace(state, value=Value(name, state.type), tied=())).value
    for node in nodes:
        created = editor.insert(
            node.op,
            tuple(mapping[o] if isinstance(o, Value) else o for o in node.operands),
            node.attrs,
            tuple((result.name, result.type) for result in node.results),
            source=node.source,
            regions=tuple(region.clone() for region in node.regions),
        )
        mapping.update(zip(node.results, created.results, strict=True))
    editor.set_outputs(tuple(mapping[value] for value in writes))
    return _Part(to_module(made, flat=True), list(reads), writes, again)


def _bytes(node: Node, dims: Mapping[str, int]) -> int:
    """Bytes of a node's results as training keeps them; those that share memory cost nothing.

    Raises:
        UsageError: a size is not known.
    """
    if shares_memory(node):
        return 0
    return sum(_value_bytes(result, dims) for result in node.results)


def _value_bytes(value: Value, dims: Mapping[str, int]) -> int:
    size = evaluate_type(value.type, dims).bytes
    if not isinstance(size, int):
        raise UsageError(f"the size of {value!r} is not known", fix=f"give sizes of its symbols: dims={{'{value.type.shape[0]}': 32}}")
    return size


def _live_between(graph: Graph, nodes: Sequence[Node], dims: Mapping[str, int]) -> list[int]:
    """For each position the bytes of results from before it that nodes at it or later read; one entry more than nodes."""
    position = {node: index for index, node in enumerate(nodes)}
    changes = [0] * (len(nodes) + 2)
    for index, node in enumerate(nodes):
        for value in node.results:
            last = max((position.get(user, len(nodes)) for user in value.users), default=index)
            if last > index:
                size = _value_bytes(value, dims)
                changes[index + 1] += size
                changes[last + 1] -= size
    live = [0]
    for change in changes[1 : len(nodes) + 1]:
        live.append(live[-1] + change)
    return live


def _segments(sizes: Sequence[int], live: Sequence[int], limit: int) -> list[Segment]:
    """Segments of up to `limit` bytes of activations; each ends where least is alive in its second half."""
    segments: list[Segment] = []
    start, count = 0, len(sizes)
    while start < count:
        stop, filled = start, 0
        half = start
        while stop < count and (filled + sizes[stop] <= limit or stop == start):
            filled += sizes[stop]
            stop += 1
            if filled <= limit // 2:
                half = stop
        if stop < count:
            stop = min(range(max(half, start + 1), stop + 1), key=lambda place: (live[place], -place))
        segments.append(Segment(start, stop - 1, live[start], sum(sizes[start:stop])))
        start = stop
    return segments


def _estimate(segments: Sequence[Segment]) -> int:
    kept = sum(segment.reads if segment.again else segment.activations for segment in segments)
    return kept + max((segment.activations for segment in segments if segment.again), default=0)


def _relaxed(plan: CheckpointPlan, budget: int) -> CheckpointPlan:
    """Segments from the last on are kept instead of run again while the budget allows it."""
    segments = list(plan.segments)
    for index in reversed(range(len(segments))):
        tried = [*segments[:index], replace(segments[index], again=False), *segments[index + 1 :]]
        if _estimate(tried) > budget:
            break
        segments = tried
    return CheckpointPlan(tuple(segments), _estimate(segments), plan.without)


def _nodes_again(plan: CheckpointPlan) -> int:
    return sum(segment.last - segment.first + 1 for segment in plan.segments if segment.again)
