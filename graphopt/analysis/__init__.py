"""Answers about a graph that change nothing: cost, liveness, memory, sparsity."""

from __future__ import annotations

from graphopt.analysis.cost import Cost, NodeCost, cost
from graphopt.analysis.liveness import LiveRange, last_uses, live_ranges
from graphopt.analysis.memory import PeakMemory, peak_memory
from graphopt.analysis.sparsity import StateSparsity, sparsity, sparsity_table

__all__ = [
    "Cost",
    "LiveRange",
    "NodeCost",
    "PeakMemory",
    "StateSparsity",
    "cost",
    "last_uses",
    "live_ranges",
    "peak_memory",
    "sparsity",
    "sparsity_table",
]
