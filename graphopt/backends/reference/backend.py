"""The reference interpreter as a backend: slow, exact, and able to run every graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from graphopt.analysis.table import counted
from graphopt.backends.base import Backend, Executable
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import BackendError
from graphopt.ir.graph import Graph

__all__ = ["ReferenceBackend", "ReferenceExecutable"]


class ReferenceExecutable(Executable):
    """Runs the graph op by op."""

    def __init__(self, graph: Graph, *, precise: bool = False) -> None:
        super().__init__(graph, (f"{counted(graph.node_count, 'node')} run one by one through torch{' in float64' if precise else ''}",))
        self._interpreter = Interpreter(graph, precise=precise)

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The flat outputs for flat inputs."""
        return self._interpreter.run(*inputs)

    def save(self, path: str | Path) -> None:
        """Write the graph to a folder."""
        self.graph.save(path)


class ReferenceBackend(Backend):
    """`lower(graph, "reference", precise=False)`; `precise` runs in float64."""

    name: ClassVar[str] = "reference"

    def lower(self, graph: Graph, *, precise: bool = False, **options: Any) -> Executable:
        """Make the graph ready to run.

        Raises:
            BackendError: an option is unknown.
        """
        if options:
            raise BackendError(f"backend 'reference' has no option {', '.join(sorted(options))}", fix="its option is precise")
        return ReferenceExecutable(graph, precise=precise)

    def load(self, path: str | Path) -> Executable:
        """Read a saved graph and make it ready to run.

        Raises:
            ArtifactError: the folder is missing or damaged.
        """
        from graphopt.ir.store import load_graph

        return ReferenceExecutable(load_graph(path))
