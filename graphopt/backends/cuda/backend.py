"""Lowers a graph to Triton kernels and library calls for one GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from graphopt.backends.base import Backend
from graphopt.backends.cuda.executable import CudaExecutable
from graphopt.backends.cuda.options import CudaOptions
from graphopt.ir.graph import Graph

__all__ = ["CudaBackend"]


class CudaBackend(Backend):
    """Triton kernels, cuDNN, cuBLASLt and flash attention, captured as one CUDA graph. Options are those of `CudaOptions`."""

    name: ClassVar[str] = "cuda"

    def lower(self, graph: Graph, **options: Any) -> CudaExecutable:
        """Plan and emit; works without a GPU. What has neither a kernel nor a library call runs by the reference lowering on the
        device, and the report says so.

        Raises:
            BackendError: an option is unknown or has a bad value.
        """
        return CudaExecutable(graph, CudaOptions.parse(options))

    def load(self, path: str | Path) -> CudaExecutable:
        """Read back what `CudaExecutable.save` wrote; plan and kernels are made anew.

        Raises:
            ArtifactError: the folder is missing, damaged, of a newer version, or unsafe to read.
        """
        from graphopt.backends.cuda.artifact import load

        return load(Path(path))
