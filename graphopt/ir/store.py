"""Saves a graph as a folder and loads it again, without ever running code from it.

    graph.gir             "graphopt-ir 1" (2 with sparse tensors), then the graph as text, with source lines and a SHA-256 for each state
    weights.safetensors   the numbers of the states, tied ones once
    manifest.json         format version, and size and SHA-256 of the two

docs/format.md describes all three. Loading checks everything before it returns, and needs no torch: the
numbers stay in the file until somebody asks for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from graphopt.errors import ArtifactError, IRError
from graphopt.ir.artifact import ArtifactReader, ArtifactWriter, void, write_artifact
from graphopt.ir.graph import Graph, GraphEditor, State, Value
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.ir.sparse_storage import Encoding
from graphopt.ir.verifier import verify_structure
from graphopt.ir.weights import FileData, WeightsFile, check_header, choose_encodings, states_by_key, write_weights

__all__ = ["GRAPH_FILE", "TEXT_VERSION", "WEIGHTS_FILE", "load_graph", "save_graph", "write_graph"]

TEXT_VERSION = 2
"""Version of the text, in the first line of `graph.gir`; a reader refuses newer ones. Files without sparse tensors have 1."""

_DENSE_VERSION = 1

GRAPH_FILE = "graph.gir"
WEIGHTS_FILE = "weights.safetensors"

_MOST_TEXT_BYTES = 1 << 29
_FIRST_WORD = "graphopt-ir"


def save_graph(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write the graph to a folder; derived weights are computed and frozen on the way.

    The folder appears as a whole or not at all. An artifact that stands at `path` is replaced, anything else
    is left alone.

    Raises:
        VerifyError: the graph breaks an invariant.
        ArtifactError: a state has no numbers, something else stands at `path`, or the disk refuses.
    """
    verify_structure(graph)
    with write_artifact(Path(path), (GRAPH_FILE, WEIGHTS_FILE)) as writer:
        write_graph(graph, writer)


def write_graph(graph: Graph, writer: ArtifactWriter) -> None:
    """Write the two files of a graph into an artifact that holds others too."""
    digests: dict[Value, str] = {}
    states = states_by_key(graph, sparse=True)
    encodings = choose_encodings(states)
    if not encodings:
        states = states_by_key(graph)
    writer.write(WEIGHTS_FILE, lambda emit: digests.update(write_weights(states, emit, encodings)))
    text = f"{_FIRST_WORD} {TEXT_VERSION if encodings else _DENSE_VERSION}\n{show(graph, sources=True, digests=digests)}"
    writer.write(GRAPH_FILE, _writes(text.encode("ascii")))


def load_graph(path: str | os.PathLike[str], others: Collection[str] = ()) -> Graph:
    """Read a folder that `save_graph` wrote, or an artifact that holds `others` beside the graph's files.

    Types are not inferred again here: `graphopt.load` does that too.

    Raises:
        ArtifactError: anything about the folder is not as it should be; nothing was loaded.
    """
    reader = ArtifactReader(Path(path))
    reader.check((GRAPH_FILE, WEIGHTS_FILE, *others))
    graph, version = _read_text(reader)
    sparse = version > _DENSE_VERSION
    states = states_by_key(graph, sparse=sparse)
    for state in states.values():
        if not state.type.is_static or state.digest is None:
            raise reader.error(GRAPH_FILE, f"%{state.name}: {state.type.text} needs a static shape and a sha256")
    with reader.open(WEIGHTS_FILE) as file:
        encodings = check_header(file, os.fstat(file.fileno()).st_size, states, sparse=sparse)
    _attach(graph, states, WeightsFile(reader.path(WEIGHTS_FILE)), encodings)
    return graph


def _attach(graph: Graph, states: Mapping[str, State], weights: WeightsFile, encodings: Mapping[str, Encoding]) -> None:
    """Give every state, those of regions too, its place in the file."""
    keys = {state.value: key for key, state in states.items()}
    pending = [graph]
    while pending:
        current = pending.pop()
        editor = GraphEditor(current)
        for state in tuple(current.states.values()):
            assert state.digest is not None, "checked by load_graph"
            key = keys[state.value]
            editor.update_state(replace(state, data=FileData(weights, key, state.type, state.digest, encodings.get(key))))
        pending.extend(region for node in current.nodes for region in node.regions)


def _read_text(reader: ArtifactReader) -> tuple[Graph, int]:
    """The graph, and the version of its text."""
    raw = reader.read(GRAPH_FILE, _MOST_TEXT_BYTES)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise reader.error(GRAPH_FILE, f"not UTF-8: {error.reason} at byte {error.start}") from None
    first, _, body = text.partition("\n")
    word, _, version = first.partition(" ")
    if word != _FIRST_WORD or not version.isdecimal() or len(version) > 9:
        raise reader.error(GRAPH_FILE, f"the first line is {first[:40]!r}, needs '{_FIRST_WORD} {TEXT_VERSION}'")
    if int(version) > TEXT_VERSION:
        raise reader.error(GRAPH_FILE, f"text of version {version}, this graphopt reads up to {TEXT_VERSION}", "update graphopt")
    try:
        graph = parse("\n" + body)  # the empty line keeps the line numbers of messages right
        verify_structure(graph)
    except IRError as error:
        raise ArtifactError(f"{GRAPH_FILE}: {error.what}", where=str(reader.folder), fix=error.fix) from None
    return graph, int(version)


def _writes(content: bytes) -> Callable[[Callable[[bytes | memoryview], object]], None]:
    return lambda emit: void(emit(content))
