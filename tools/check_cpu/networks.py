"""Random networks by kind and seed."""

from __future__ import annotations

import random
from collections.abc import Callable

from graphopt.ir.graph import Graph
from tests.support.pass_constructs import construct_graph
from tests.support.random_graphs import random_graph
from tools.check_cpu.convnets import convnet
from tools.check_cpu.encoders import encoder

__all__ = ["KINDS", "make", "schedule"]


def _ops(seed: int) -> Graph:
    """Any ops in any order."""
    return random_graph(seed, nodes=random.Random(seed).randint(4, 16), with_data=True)


def _symbolic(seed: int) -> Graph:
    """The same with a dynamic batch."""
    return random_graph(seed, nodes=10, symbolic=True, with_data=True)


def _constructs(seed: int) -> Graph:
    """What the lossless passes look for."""
    return construct_graph(seed)


KINDS: dict[str, Callable[[int], Graph]] = {
    "convnet": convnet,
    "encoder": encoder,
    "ops": _ops,
    "symbolic": _symbolic,
    "constructs": _constructs,
}
"""Makers by name; each gives the same network for the same seed."""

_SHARES = ("convnet", "encoder", "ops", "convnet", "encoder", "ops", "convnet", "constructs", "convnet", "symbolic")


def make(kind: str, seed: int) -> Graph:
    """A network with numbers in every state. Every third one has gone through the lossless passes first, as users' have.

    Raises:
        KeyError: no such kind.
    """
    graph = KINDS[kind](seed)
    if seed % 3 == 0:
        from graphopt.optimize import optimize

        graph = optimize(graph, ["lossless"], check="off").graph
    return graph


def schedule(count: int, seed: int, kinds: tuple[str, ...] = ()) -> list[tuple[str, int]]:
    """`count` networks from `seed` on, in the default mix or of the given kinds in turn."""
    mix = kinds or _SHARES
    return [(mix[index % len(mix)], seed + index) for index in range(count)]
