"""Runs a graph as the torch module that `to_module` makes, by itself or through `torch.compile`.

    lower(graph, "torch")                               the generated forward
    lower(graph, "torch", compile=True, mode="max-autotune")

A saved executable is a folder of `graph/`, as `Graph.save` writes it, and `torch.json` with the options;
loading builds the module again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch

from graphopt.analysis.table import counted
from graphopt.backends.base import Backend, Executable
from graphopt.backends.reference.binding import bind_dims, check_inputs
from graphopt.capture.module import to_module
from graphopt.errors import ArtifactError, BackendError
from graphopt.ir.graph import Graph

__all__ = ["Mode", "TorchBackend", "TorchExecutable"]

Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
"""Modes of `torch.compile`."""

_OPTIONS_FILE = "torch.json"
_GRAPH_FOLDER = "graph"
_LARGEST_OPTIONS = 4096


class TorchExecutable(Executable):
    """The graph as a module in eval mode, which takes the flat inputs and shares the graph's numbers."""

    def __init__(self, graph: Graph, *, compile: bool = False, mode: Mode = "default") -> None:  # noqa: A002  # torch's name for it
        how = f"torch.compile in mode {mode}" if compile else "torch"
        super().__init__(graph, (f"{counted(graph.node_count, 'node')} run by {how}",))
        self._options = {"compile": compile, "mode": mode}
        module = to_module(graph, flat=True)
        self._function: Any = torch.compile(module, mode=mode) if compile else module

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The flat outputs for flat inputs."""
        check_inputs(self.graph, inputs)
        bind_dims(self.graph, inputs)
        with torch.no_grad():
            return tuple(self._function(*inputs))

    def save(self, path: str | Path) -> None:
        """Write the graph and the options to a folder."""
        folder = Path(path)
        self.graph.save(folder / _GRAPH_FOLDER)
        (folder / _OPTIONS_FILE).write_text(json.dumps(self._options, indent=2) + "\n", encoding="utf-8")


class TorchBackend(Backend):
    """`lower(graph, "torch", compile=False, mode="default")`."""

    name: ClassVar[str] = "torch"

    def lower(self, graph: Graph, *, compile: bool = False, mode: Mode = "default", **options: Any) -> Executable:  # noqa: A002
        """Make the graph ready to run; compilation happens on the first run.

        Raises:
            BackendError: an option is unknown or has a bad value.
        """
        if options:
            raise BackendError(f"backend 'torch' has no option {', '.join(sorted(options))}", fix="its options are compile and mode")
        if mode not in get_args(Mode):
            raise BackendError(f"mode is {mode!r}, needs one of {', '.join(get_args(Mode))}")
        return TorchExecutable(graph, compile=compile, mode=mode)

    def load(self, path: str | Path) -> Executable:
        """Read a saved graph and its options and build the module again.

        Raises:
            ArtifactError: the folder is missing or damaged.
        """
        from graphopt.ir.store import load_graph

        options = _read_options(Path(path) / _OPTIONS_FILE)
        return self.lower(load_graph(Path(path) / _GRAPH_FOLDER), **options)


def _read_options(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ArtifactError(f"no {_OPTIONS_FILE} in the folder", where=str(file.parent), fix="save it with executable.save(folder)")
    if file.stat().st_size > _LARGEST_OPTIONS:
        raise ArtifactError(f"{_OPTIONS_FILE} has {file.stat().st_size} bytes, needs at most {_LARGEST_OPTIONS}", where=str(file))
    try:
        options = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{_OPTIONS_FILE} can't be read: {error}", where=str(file)) from error
    wanted = {"compile": bool, "mode": str}
    if not isinstance(options, dict) or {name: type(value) for name, value in options.items()} != wanted:
        raise ArtifactError(f"{_OPTIONS_FILE} holds {options!r}, needs compile (a bool) and mode (a string)", where=str(file))
    if options["mode"] not in get_args(Mode):
        raise ArtifactError(f"{_OPTIONS_FILE} has the mode {options['mode']!r}, needs one of {', '.join(get_args(Mode))}", where=str(file))
    return options
