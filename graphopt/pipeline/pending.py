"""Comparisons put off to the end: expensive new nodes are believed for now, and run once, with the final graph.

    fold-batch-norm makes %b = conv2d(...) in the place of a batch norm. Running that convolution costs as much
    as running the model, so its value is taken to be the recorded one, and the final float64 run, which
    computes %b anyway, is compared with it there.

When one of them turns out wrong, the pipeline runs again with nothing put off, so that the pass can be
rolled back at its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.ir.dims import evaluate_dim
from graphopt.ir.graph import Node, Operand, Value
from graphopt.ops.registry import call_of, definition, is_canonical
from graphopt.pipeline.compare import Mismatch, compare
from graphopt.pipeline.passes import NumericClass, Pass
from graphopt.pipeline.recording import Run

if TYPE_CHECKING:
    import torch

__all__ = ["Pending", "PutOff", "assumed_values"]

_EXPENSIVE = 10_000_000
"""Floating-point operations from which a node is put off; about a millisecond of one core in float64."""


@dataclass(frozen=True, slots=True)
class PutOff:
    """A value that is believed to equal an old one: the pass, the old value, its numbers on each probe."""

    pass_: Pass
    old: Value
    numbers: tuple[torch.Tensor, ...]


class Pending:
    """Comparisons that wait for the next run of the whole graph."""

    def __init__(self) -> None:
        self._waiting: dict[Value, list[PutOff]] = {}
        self.errors: dict[str, float] = {}
        """Largest error seen so far, by the text of the pass."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, value: Value, put_off: PutOff) -> None:
        """Compare `value` later."""
        self._waiting.setdefault(value, []).append(put_off)

    def clear(self) -> None:
        """Forget all."""
        self._waiting.clear()

    def rename(self, mapping: Mapping[Value, Value]) -> None:
        """Move to a copy of the graph; values that the copy lacks are dropped."""
        self._waiting = {mapping[value]: waiting for value, waiting in self._waiting.items() if value in mapping}

    def judge(self, value: Value, tensor: torch.Tensor, probe: int) -> tuple[PutOff, Mismatch] | None:
        """Compare a value of the run on probe number `probe`, if it waits for that."""
        for put_off in self._waiting.get(value, ()):
            error, mismatch = compare(put_off.numbers[probe], tensor, NumericClass.ROUNDING)
            self.errors[repr(put_off.pass_)] = max(error, self.errors.get(repr(put_off.pass_), 0.0))
            if mismatch is not None:
                return put_off, mismatch
        return None


def assumed_values(nodes: Sequence[Node], pairs: Sequence[tuple[Value, Operand]], runs: Sequence[Run]) -> dict[Value, Value]:
    """New values of expensive nodes that stand for recorded ones: new -> old. The nodes need not run now."""
    stands_for = {new: old for old, new in pairs if isinstance(new, Value) and new is not old and all(old in run.values for run in runs)}
    assumed: dict[Value, Value] = {}
    for node in nodes:
        if node.results and all(result in stands_for for result in node.results) and _flops(node, runs[0].dims) > _EXPENSIVE:
            assumed.update((result, stands_for[result]) for result in node.results)
    return assumed


def _flops(node: Node, dims: Mapping[str, int]) -> int:
    if not is_canonical(node.op):
        return 0
    count = evaluate_dim(definition(node.op).flops(call_of(node), tuple(result.type for result in node.results)), dims)
    return count if isinstance(count, int) else 0
