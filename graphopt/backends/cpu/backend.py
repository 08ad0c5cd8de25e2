"""Lowers a graph to C++ of its own, compiled for this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from graphopt.backends.base import Backend
from graphopt.backends.cpu.executable import CpuExecutable
from graphopt.backends.cpu.options import CpuOptions
from graphopt.ir.graph import Graph

__all__ = ["CpuBackend"]


class CpuBackend(Backend):
    """C++ specialised to one network and one machine. Options are those of `CpuOptions`."""

    name: ClassVar[str] = "cpu"

    def lower(self, graph: Graph, **options: Any) -> CpuExecutable:
        """Plan, emit and compile. Nodes without a kernel run in the reference interpreter, and the report says so.

        Raises:
            BackendError: an option is unknown or has a bad value, or no compiler is found.
            LoweringError: a state has no numbers.
        """
        return CpuExecutable(graph, CpuOptions.parse(options))

    def load(self, path: str | Path) -> CpuExecutable:
        """Read back what `CpuExecutable.save` wrote, and build it for this machine.

        Raises:
            ArtifactError: the folder is missing, damaged, of a newer version, or unsafe to read.
        """
        from graphopt.backends.cpu.artifact import load

        return load(Path(path))
