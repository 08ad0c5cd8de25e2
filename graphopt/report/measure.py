"""Latency of executables of one model on the same inputs. How it is measured stands in `graphopt.backends.timing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.backends.timing import Latency, Runnable, Timing, environment, interleave
from graphopt.ir.graph import Graph

__all__ = ["Latency", "Runnable", "Timing", "compare", "environment", "interleave"]


def compare(variants: Mapping[str, Runnable], graph: Graph, *, rounds: int = 20, inputs: Sequence[Any] | None = None) -> Latency:
    """Measure executables of one model on the same flat inputs, random ones for `graph` by default.

    Raises:
        UsageError: no variant, or fewer than 3 rounds.
    """
    from graphopt.pipeline.probes import random_inputs

    given = tuple(inputs) if inputs is not None else random_inputs(graph)
    return interleave({name: lambda variant=variant: variant.run(given) for name, variant in variants.items()}, rounds=rounds)
