"""How much a part of a network matters, measured on calibration data.

- *output*: the squared difference of the network's outputs with and without the part, over the squared outputs of the
  original network. Without it means: what reads its exit reads its entry. A run comes by every part once and runs
  only what is behind it again, so n parts cost about n / 2 runs and no memory beyond that of one.
- *similarity*: 1 - cosine of what goes in and comes out, over all numbers of a sample; one run for all parts. It is
  the block influence of ShortGPT (Men et al., 2024), there per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from graphopt.backends.reference.binding import bind_dims, bind_results
from graphopt.backends.reference.interpreter import Interpreter, state_tensor
from graphopt.ir.dims import Expression, evaluate_dim
from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.passes.shrink.blocks import Block
from graphopt.passes.shrink.statistics.observing import evaluate
from graphopt.pipeline.calibration import Batch, Calibration

__all__ = ["Outputs", "original_outputs", "output_errors", "similarity_scores"]

Outputs = list[tuple[torch.Tensor, ...]]
"""The flat outputs for each batch."""


def original_outputs(graph: Graph, calibration: Calibration) -> Outputs:
    """What the network gives for each batch."""
    interpreter = Interpreter(graph)
    found: Outputs = []
    for batch in calibration:
        walk, values = _walk(graph, interpreter, batch)
        for node in walk.nodes:
            walk.step(node, values)
        found.append(walk.outputs(values))
    return found


@dataclass(slots=True)
class _Walk:
    """One batch on its way through a graph: node by node, values freed behind their last reader."""

    graph: Graph
    interpreter: Interpreter
    dims: dict[str, int]
    """Sizes of symbols; those that depend on data come in on the way."""
    nodes: Sequence[Node]
    ending: Mapping[Node, Sequence[Value]]

    def step(self, node: Node, values: dict[Value, torch.Tensor]) -> None:
        """Compute a node; values that nobody reads any more are dropped."""
        operands = [self.operand(operand, values) for operand in node.operands]
        results = evaluate(self.interpreter, node, operands, self.dims)
        bind_results(node.results, results, self.dims)
        values.update(zip(node.results, results, strict=True))
        for value in self.ending.get(node, ()):
            values.pop(value, None)

    def operand(self, operand: Operand, values: Mapping[Value, torch.Tensor]) -> object:
        if isinstance(operand, Expression):
            return evaluate_dim(operand, self.dims)
        if not isinstance(operand, Value):
            return operand
        state = self.graph.state_of(operand)
        return state_tensor(state) if state is not None else values[operand]

    def outputs(self, values: Mapping[Value, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        found = (self.operand(operand, values) for operand in self.graph.outputs)
        return tuple(item if isinstance(item, torch.Tensor) else torch.tensor(item) for item in found)


def _walk(graph: Graph, interpreter: Interpreter, batch: Batch) -> tuple[_Walk, dict[Value, torch.Tensor]]:
    seen = {output for output in graph.outputs if isinstance(output, Value)}
    ending: dict[Node, list[Value]] = {}
    for node in graph.reversed_nodes:
        for value in (*node.results, *node.operands):
            if isinstance(value, Value) and value not in seen:
                seen.add(value)
                ending.setdefault(node, []).append(value)
    walk = _Walk(graph, interpreter, bind_dims(graph, batch.inputs), list(graph.nodes), ending)
    return walk, dict(zip(graph.inputs, batch.inputs, strict=True))


def output_errors(graph: Graph, blocks: Sequence[Block], calibration: Calibration, original: Outputs) -> list[float]:
    """For each block the error of the graph's outputs without it, against `original`."""
    interpreter = Interpreter(graph)
    by_exit: dict[Node, list[int]] = {}
    for index, block in enumerate(blocks):
        assert block.exit.producer is not None, "exits are computed"
        by_exit.setdefault(block.exit.producer, []).append(index)
    wanted = {block.entry for block in blocks}
    errors, scale = [0.0] * len(blocks), 0.0
    for batch, expected in zip(calibration, original, strict=True):
        walk, values = _walk(graph, interpreter, batch)
        entries = {value: tensor for value, tensor in values.items() if value in wanted}
        scale += _squares(expected)
        for position, node in enumerate(walk.nodes):
            walk.step(node, values)
            entries.update((result, values[result]) for result in node.results if result in wanted)
            for index in by_exit.get(node, ()):
                block = blocks[index]
                rest = {**values, block.exit: entries[block.entry]}
                without = replace(walk, dims=dict(walk.dims))
                for later in walk.nodes[position + 1 :]:
                    without.step(later, rest)
                errors[index] += _squared_difference(without.outputs(rest), expected)
    return [error / scale if scale > 0 else error for error in errors]


def similarity_scores(graph: Graph, blocks: Sequence[Block], calibration: Calibration) -> list[float]:
    """For each block 1 - cosine of its entry and exit, averaged over samples."""
    interpreter = Interpreter(graph)
    totals, samples = [0.0] * len(blocks), 0
    wanted = {value for block in blocks for value in (block.entry, block.exit)}
    for batch in calibration:
        walk, values = _walk(graph, interpreter, batch)
        kept = {value: tensor for value, tensor in values.items() if value in wanted}
        for node in walk.nodes:
            walk.step(node, values)
            kept.update((result, values[result]) for result in node.results if result in wanted)
        count = 0
        for index, block in enumerate(blocks):
            before, after = (kept[value].flatten(1).double() for value in (block.entry, block.exit))
            cosine = torch.nn.functional.cosine_similarity(before, after, dim=1)
            totals[index] += float((1 - cosine).sum())
            count = len(cosine)
        samples += count
    return [total / max(samples, 1) for total in totals]


def _squares(outputs: Sequence[torch.Tensor]) -> float:
    return sum(float(output.double().square().sum()) for output in outputs)


def _squared_difference(outputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    return sum(float((left.double() - right.double()).square().sum()) for left, right in zip(outputs, expected, strict=True))
