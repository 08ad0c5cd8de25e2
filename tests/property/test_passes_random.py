"""Every registered lossless pass on random graphs: numbers by class, types, idempotence, and that it fires at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest

from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.ops import verify
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.passes import NumericClass, Pass
from graphopt.pipeline.registry import available, find
from tests.support.pass_constructs import construct_graph
from tests.support.random_graphs import random_graph

_SEEDS = 4


def _passes() -> list[str]:
    """Names of the registered lossless passes of this project; presets are pipelines and have tests of their own."""
    found = [(name, find(name)) for name, registration in available().items() if registration.entry.value.startswith("graphopt.passes.")]
    return sorted(name for name, value in found if isinstance(value, type) and value.numeric is not NumericClass.LOSSY)


def _corpus(seed: int) -> list[Graph]:
    """Constructs that passes look for, with a fixed and a symbolic batch, and graphs that nobody wrote for them."""
    return [
        construct_graph(seed),
        construct_graph(seed, symbolic=True),
        random_graph(seed, nodes=20, symbolic=seed % 2 == 0, with_data=True),
    ]


@cache
def _graphs() -> tuple[Graph, ...]:
    return tuple(graph for seed in range(_SEEDS) for graph in _corpus(seed))


@pytest.mark.parametrize("name", _passes())
def test_pass_keeps_its_promise_and_comes_to_rest(name: str) -> None:
    manager = PassManager(name, strict=True)
    fired = 0
    for graph in _graphs():
        result = manager.run(graph)
        assert all(record.status in ("applied", "unchanged") for record in result.records)
        fired += sum(record.rewritten for record in result.records)
        verify(result.graph)
        again = _make(name).run(result.graph.clone())
        assert again.rewritten == 0, f"{name} fires again on its own result"
        text = show(result.graph)
        assert show(parse(text)) == text
    assert fired, f"{name} never fires on {len(_graphs())} graphs"


def _make(name: str) -> Pass:
    found = find(name)
    assert isinstance(found, type)
    make: Callable[[], Pass] = found
    return make()


def test_lossless_preset_is_right_on_random_graphs() -> None:
    manager = PassManager("lossless", strict=True)
    counts: Counter[str] = Counter()
    for seed in range(3):
        for graph in _corpus(100 + seed):
            result = manager.run(graph)
            assert result.graph.node_count <= graph.node_count
            for record in result.records:
                counts[record.name] += record.rewritten
    assert len([name for name, count in counts.items() if count]) > 20
