"""Calibration batches, one after the other, with what was found for each: a file per batch where there is a checkpoint.

A backward pass of a large network takes minutes, so a run that is killed goes on with the batch that it was at. What is
found for a batch is small: a number per unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from graphopt.analysis.axes import AxisGroup, AxisGroups
from graphopt.ir.graph import Graph
from graphopt.passes.finished import Finished
from graphopt.passes.shrink.importance.members import Scores
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context

__all__ = ["KeptBatches"]


class KeptBatches:
    """The batches of one importance of one graph; `notes` gets what there is to say of the files once all batches are through."""

    def __init__(self, context: Context, calibration: Calibration, method: str, graph: Graph, groups: AxisGroups, notes: list[str]) -> None:
        self._notes = notes
        self._groups = groups
        self._calibration = calibration
        self._method = method
        self._progress = context.progress
        options = {"groups": tuple((group.name, group.kind, group.size) for group in groups)}
        self._finished = Finished(context, f"importance-{method}", options, graph, calibration, several=True, seeded=method != "activation")

    def __len__(self) -> int:
        return len(self._calibration)

    @property
    def samples(self) -> int:
        """Rows of the first input over all batches."""
        return self._calibration.samples

    def each(self, find: Callable[[int, Batch], dict[str, Any]]) -> Iterator[tuple[Batch, dict[str, Any]]]:
        """Each batch and what `find` gives for it and its index: numbers, texts, tensors, lists and dicts of these.

        Raises:
            PassError: the checkpoint can't be written.
        """
        for index, batch in enumerate(self._calibration):
            if self._progress is not None:
                self._progress(f"importance {self._method}, batch {index + 1} of {len(self)}", index / len(self))

            def found(index: int = index, batch: Batch = batch) -> dict[str, Any]:
                return find(index, batch)

            yield batch, self._finished.result(f"batch-{index + 1:05}", found)
        self._notes += self._finished.notes

    @staticmethod
    def packed(scores: Mapping[AxisGroup, Scores]) -> dict[str, torch.Tensor]:
        """Scores by the names of groups, as `find` may give them."""
        return {group.name: torch.from_numpy(numbers) for group, numbers in scores.items()}

    def scores(self, packed: Mapping[str, torch.Tensor]) -> dict[AxisGroup, Scores]:
        """The other way round."""
        return {group: packed[group.name].numpy() for group in self._groups}
