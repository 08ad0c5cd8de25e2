"""Finds the first value at which two versions of a graph part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.ir.graph import Graph, Operand, Value
from graphopt.pipeline.compare import Mismatch, compare
from graphopt.pipeline.passes import NumericClass
from graphopt.pipeline.recording import Probe, Recording, as_tensor, record

if TYPE_CHECKING:
    import torch

__all__ = ["Divergence", "diverging_pairs", "earliest", "first_divergence"]


@dataclass(frozen=True, slots=True)
class Divergence:
    """A value that is not what it was: the old and the new one, and how they differ.

    `same_value` marks a node that was changed in place, so that its value may have been meant to change.
    """

    old: Value
    new: Operand
    mismatch: Mismatch
    same_value: bool = False


def diverging_pairs(
    graph: Graph,
    recording: Recording,
    pairs: Sequence[tuple[Value, Operand]],
    fresh: Sequence[Mapping[Value, torch.Tensor]],
    numeric: NumericClass,
) -> tuple[float, list[Divergence]]:
    """The largest error over pairs (old value, what stands in its place), and the pairs that break the class."""
    worst = 0.0
    broken: dict[Value, Divergence] = {}
    for run, values in zip(recording.runs, fresh, strict=True):
        if run.probe.special and numeric is not NumericClass.EXACT:
            continue
        for old, new in pairs:
            before = run.values.get(old)
            if before is None or old in broken:
                continue
            after = as_tensor(recording.lookup(graph, new, run, values), before)
            if after is before:
                continue
            error, mismatch = compare(before, after, numeric)
            worst = max(worst, error)
            if mismatch is not None:
                broken[old] = Divergence(old, new, mismatch, new is old)
    return worst, list(broken.values())


def earliest(graph: Graph, divergences: Sequence[Divergence]) -> Divergence:
    """The divergence whose new value is computed first."""
    order = {node: position for position, node in enumerate(graph.nodes)}

    def position(divergence: Divergence) -> int:
        producer = divergence.new.producer if isinstance(divergence.new, Value) else None
        return order.get(producer, -1) if producer is not None else -1

    return min(divergences, key=position)


def first_divergence(before: Graph, after: Graph, probe: Probe, numeric: NumericClass) -> Divergence | None:
    """The first value of `after`, in execution order, that differs from the value of that name in `before`.

    Rewrites hand names on, so equal names mean values that should be equal; those of other shape are passed over.
    """
    keys = {value: value for graph in (before, after) for value in graph.values}
    old = record(before, [probe], 1 << 62, keys).runs[0].values
    new = record(after, [probe], 1 << 62, keys).runs[0].values
    by_name = {value.name: value for value in old}
    for node in after.nodes:
        for value in node.results:
            counterpart = by_name.get(value.name)
            if counterpart is None or value not in new or old[counterpart].shape != new[value].shape:
                continue
            mismatch = compare(old[counterpart], new[value], numeric)[1]
            if mismatch is not None:
                return Divergence(counterpart, value, mismatch, same_value=False)
    return None
