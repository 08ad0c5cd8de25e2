"""Graphs before and after a cut, calibration data for them, and how far apart they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.analysis.axes import AxisGroup
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.graph import Graph
from graphopt.ops import verify
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.rewrite.cut import CutRecord
from tests.support.cutting import cut_group

__all__ = ["calibration_of", "context_of", "cut", "numbers_of", "relative_difference"]


def cut(graph: Graph, group: AxisGroup, gone: Sequence[int]) -> tuple[Graph, CutRecord]:
    before = graph.clone()
    return before, cut_group(graph, group, gone)


def context_of(shape: Sequence[int], *, batches: int = 4, dtype: torch.dtype = torch.float64, seed: int = 3) -> Context:
    generator = torch.Generator().manual_seed(seed)
    return Context(calibration=Calibration([Batch((torch.randn(tuple(shape), generator=generator, dtype=dtype),)) for _ in range(batches)]))


def numbers_of(graph: Graph, name: str) -> torch.Tensor:
    data = graph.states[name].data
    assert data is not None
    return data.precise()


def relative_difference(before: Graph, after: Graph, shape: Sequence[int]) -> float:
    """Relative difference of the first outputs, on data that no fit has seen."""
    verify(after)
    (fresh,) = next(iter(calibration_of(context_of(shape, batches=1, seed=99)))).inputs
    old, new = (Interpreter(graph, precise=True).run(fresh)[0] for graph in (before, after))
    return float((old - new).norm() / old.norm())


def calibration_of(context: Context) -> Calibration:
    assert context.calibration is not None
    return context.calibration
