"""How much a part of a network matters, measured on calibration data.

- *output*: the squared difference of the network's outputs with and without the part, over the squared outputs of the
  original network. Without it means: what reads its exit reads its entry. A run comes by every part once and runs
  only what is behind it again, so n parts cost about n / 2 runs and no memory beyond that of one.
- *similarity*: 1 - cosine of what goes in and comes out, over all numbers of a sample; one run for all parts. It is
  the block influence of ShortGPT (Men et al., 2024), there per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from functools import partial
from typing import TypeAlias

import torch

from graphopt.ir.graph import Graph, Node, Value
from graphopt.passes.shrink.blocks import Block
from graphopt.passes.shrink.statistics.stream import Stream
from graphopt.pipeline.calibration import Batch, Calibration

__all__ = ["Keep", "Outputs", "original_outputs", "output_errors", "similarity_scores"]

Outputs = list[tuple[torch.Tensor, ...]]
"""The flat outputs for each batch."""

Keep: TypeAlias = Callable[[int, Callable[[], list[float]]], list[float]]
"""What a function finds for the batch of that number, or found before."""


def original_outputs(graph: Graph, calibration: Calibration) -> Outputs:
    """What the network gives for each batch."""
    return [Stream(graph, [batch.inputs]).finish()[0] for batch in calibration]


def output_errors(graph: Graph, blocks: Sequence[Block], calibration: Calibration, original: Outputs, keep: Keep) -> list[float]:
    """For each block the error of the graph's outputs without it, against `original`. `keep` gets what is found for each batch."""
    by_exit: dict[Node, list[int]] = {}
    for index, block in enumerate(blocks):
        assert block.exit.producer is not None, "exits are computed"
        by_exit.setdefault(block.exit.producer, []).append(index)
    wanted = {block.entry for block in blocks}

    def measured(batch: Batch, expected: tuple[torch.Tensor, ...]) -> list[float]:
        errors = [0.0] * len(blocks)
        entries: dict[Value, torch.Tensor] = {}
        for node, stream in _walk(graph, batch, wanted, entries):
            for index in by_exit.get(node, ()):
                without = stream.fork()
                without.put(blocks[index].exit, [entries[blocks[index].entry]])
                errors[index] = _squared_difference(without.finish()[0], expected)
        return errors

    errors, scale = [0.0] * len(blocks), 0.0
    for number, (batch, expected) in enumerate(zip(calibration, original, strict=True)):
        scale += _squares(expected)
        found = keep(number, partial(measured, batch, expected))
        errors = [total + error for total, error in zip(errors, found, strict=True)]
    return [error / scale if scale > 0 else error for error in errors]


def similarity_scores(graph: Graph, blocks: Sequence[Block], calibration: Calibration, keep: Keep) -> list[float]:
    """For each block 1 - cosine of its entry and exit, averaged over samples. `keep` gets what is found for each batch."""
    wanted = {value for block in blocks for value in (block.entry, block.exit)}

    def measured(batch: Batch) -> list[float]:
        kept: dict[Value, torch.Tensor] = {}
        for _ in _walk(graph, batch, wanted, kept):
            pass
        found: list[float] = []
        count = 0
        for block in blocks:
            before, after = (torch.atleast_2d(kept[value]).flatten(1).double() for value in (block.entry, block.exit))
            cosine = torch.nn.functional.cosine_similarity(before, after, dim=1)
            found.append(float((1 - cosine).sum()))
            count = len(cosine)
        return [*found, float(count)]

    totals, samples = [0.0] * len(blocks), 0.0
    for number, batch in enumerate(calibration):
        *found, count = keep(number, partial(measured, batch))
        totals = [total + part for total, part in zip(totals, found, strict=True)]
        samples += count
    return [total / max(samples, 1) for total in totals]


def _walk(graph: Graph, batch: Batch, wanted: Set[Value], kept: dict[Value, torch.Tensor]) -> Iterator[tuple[Node, Stream]]:
    """Each node with a stream of one batch that has just computed it; the values that are `wanted` are put into `kept`."""
    stream = Stream(graph, [batch.inputs])
    kept.update((value, stream.operand(0, value)) for value in graph.inputs if value in wanted)
    for node in graph.nodes:
        stream.step(node)
        kept.update((result, stream.operand(0, result)) for result in node.results if result in wanted)
        yield node, stream


def _squares(outputs: Sequence[torch.Tensor]) -> float:
    return sum(float(output.double().square().sum()) for output in outputs)


def _squared_difference(outputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    return sum(float((left.double() - right.double()).square().sum()) for left, right in zip(outputs, expected, strict=True))
