"""Axis rules against the ops themselves, on random calls of every op.

Operands become states and nothing is an output, so that whatever the rule leaves free can be cut. Then no NaN leaves
the units that go, the cut graph types, and what stays is what it was with zeros in place of what goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy
import pytest
import torch

from graphopt import ops
from graphopt.analysis.axes import AxisGroups, Removal, axis_groups
from graphopt.backends.reference.interpreter import Interpreter, state_tensor
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor, Node, Value
from graphopt.ops.axes.links import Place
from graphopt.pipeline.poison import poison_check
from graphopt.rewrite.cut import cut
from graphopt.rewrite.rewriter import Rewriter
from tests.support.op_samples import OPS, samples

SAMPLES = 12


def closed_graph(sample: Graph, inputs: list[torch.Tensor]) -> Graph:
    """The sample's node on states in place of inputs."""
    builder = ops.builder("rule")
    values = {value: builder.state(value.name, value.type) for value in sample.inputs}
    node = next(sample.nodes)
    builder.insert(node.op, tuple(values[o] if isinstance(o, Value) else o for o in node.operands), node.attrs, name="node")
    builder.outputs()
    editor = GraphEditor(builder.graph)
    for value, tensor in zip(sample.inputs, inputs, strict=True):
        editor.update_state(replace(builder.graph.states[value.name], data=TensorData(tensor)))
    return builder.graph


def removal_of(groups: AxisGroups, seed: int) -> Removal:
    random = numpy.random.default_rng(seed)
    return {group: random.permutation(group.size) < max(group.size // 2, 1) for group in groups}


def kept(removal: Removal, value: Value) -> dict[int, torch.Tensor]:
    """For each axis of a value that loses positions: those that stay."""
    masks: dict[int, numpy.ndarray[tuple[int], numpy.dtype[numpy.bool_]]] = {}
    for group, gone in removal.items():
        for member in group.members:
            if member.value is value:
                lost = numpy.append(gone, False)[member.units]
                masks[member.axis] = masks.get(member.axis, numpy.ones(len(lost), dtype=bool)) & ~lost
    return {axis: torch.from_numpy(mask.nonzero()[0]) for axis, mask in masks.items()}


def results(graph: Graph) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    Interpreter(graph, precise=True).run(on_value=lambda _, tensor: found.append(tensor))
    return found


def places_of(node: Node) -> Iterator[Place]:
    """All places that a rule mentions."""
    rule = ops.definition(node.op).axes
    pending: list[object] = list(rule(ops.call_of(node))) if rule is not None else []
    while pending:
        item = pending.pop()
        if isinstance(item, Place):
            yield item
        elif isinstance(item, tuple):
            pending.extend(item)  # pyright: ignore[reportUnknownArgumentType]  # links and what they hold


@pytest.mark.parametrize("op", OPS)
def test_rules_speak_of_axes_that_are_there(op: str) -> None:
    for sample, _, _, _ in samples(op, 4 * SAMPLES):
        node = next(sample.nodes)
        for place in places_of(node):
            value = node.operands[place.slot] if place.slot >= 0 else node.results[-1 - place.slot]
            assert isinstance(value, Value), f"{place} of {node}"
            assert 0 <= place.axis < len(value.shape), f"{place} of {node}"


@pytest.mark.parametrize("op", [op for op in OPS if op not in ops.CREATION])
def test_rules_hold_for_the_real_op(op: str) -> None:
    for number, (sample, inputs, _, _) in enumerate(samples(op, SAMPLES)):
        graph = closed_graph(sample, inputs)
        groups = axis_groups(graph, heads="whole" if number % 2 else "inside")
        removal = removal_of(groups, number)
        assert poison_check(graph, groups, removal, []) == (), str(graph)
        kept_results = [kept(removal, value) for value in next(graph.nodes).results]
        if op not in ops.ELEMENTWISE:
            silence(graph, removal)
        wanted = results(graph)
        for index, places in enumerate(kept_results):
            for axis, indices in places.items():
                wanted[index] = wanted[index].index_select(axis, indices)
        text = str(graph)
        cut(Rewriter(graph), groups, removal)
        ops.verify(graph)
        if ops.definition(op).effect is ops.Effect.PURE and not any(group.renormalised for group in groups):
            for found, expected in zip(results(graph), wanted, strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, equal_nan=True, msg=lambda m, t=text: f"{m}\n{t}")


def silence(graph: Graph, removal: Removal) -> None:
    """Zeros in all states where units go."""
    editor = GraphEditor(graph)
    for group, gone in removal.items():
        for member in group.members:
            state = graph.state_of(member.value)
            if state is not None:
                places = torch.from_numpy(numpy.append(gone, False)[member.units].nonzero()[0])
                editor.update_state(
                    replace(state, data=TensorData(state_tensor(graph.states[state.name]).index_fill(member.axis, places, 0)))
                )


def test_most_ops_have_axes_that_can_be_cut() -> None:
    """So that the test above is not empty."""
    without = [
        op
        for op in OPS
        if op not in ops.CREATION
        and not any(len(axis_groups(closed_graph(sample, inputs))) for sample, inputs, _, _ in samples(op, SAMPLES))
    ]
    assert without == []
