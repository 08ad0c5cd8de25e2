"""Small public functions that join two rooms: reading text with verification, and loading saved folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.ir.graph import Graph

if TYPE_CHECKING:
    from graphopt.backends.base import Executable

__all__ = ["load", "parse"]

_EXECUTABLES = {"cpu.json": "cpu", "cuda.json": "cuda", "executable.json": "onnxruntime", "torch.json": "torch"}
"""The file that only executables of a backend have, and the name of the backend."""


def parse(text: str) -> Graph:
    """The graph that a text describes, verified; its states have no data.

    Raises:
        ParseError: the text does not follow the grammar; with line and column.
        VerifyError: the graph breaks an invariant or a type is not what the op's rule gives.
    """
    from graphopt.ir.parser import parse as parse_text
    from graphopt.ops import verify

    graph = parse_text(text)
    verify(graph)
    return graph


def load(path: str | Path) -> Graph | Executable:
    """What was saved in a folder: the graph that `graph.save(path)` wrote, verified, or the executable that
    `executable.save(path)` wrote. Loading never runs code of the folder, and an executable whose nodes are all native needs no
    torch. One of the backends cpu and cuda is made anew for this machine.

    Raises:
        ArtifactError: the folder is missing, damaged, of a newer version, or unsafe to read, or the types in
            it are not what the ops' rules give.
    """
    from graphopt.errors import ArtifactError, VerifyError
    from graphopt.ir.store import load_graph
    from graphopt.ops import verify

    for file, target in _EXECUTABLES.items():
        if (Path(path) / file).is_file():
            from graphopt.backends.base import backend

            return backend(target).load(path)
    graph = load_graph(path)
    try:
        verify(graph)
    except VerifyError as error:
        raise ArtifactError(f"the saved graph is wrong: {error.what}", where=error.where or str(path), fix=error.fix) from error
    return graph
