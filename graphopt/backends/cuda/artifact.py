"""Saves an executable as a folder, and loads it by planning and emitting anew.

    graph.gir             the graph as text, with a SHA-256 for each state
    weights.safetensors   the numbers of the states
    cuda.json             options, the ways that were chosen, on which GPU, versions
    plan.txt              the plans, for people
    network.py            the emitted module of the first plan, network1.py of the second, for people
    manifest.json         size and SHA-256 of the others

Loading reads the graph, its numbers and the choices. It never reads the plan, and never imports the modules: kernels are
emitted by this graphopt, and go through this user's own cache. Choices are names that pick among the ways that are listed
anew, and only count on the kind of GPU and the versions where they were measured.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from graphopt.backends.cuda.device import device_name
from graphopt.backends.cuda.executable import CudaExecutable, Sizes
from graphopt.backends.cuda.options import CudaOptions
from graphopt.backends.document import read_frame
from graphopt.errors import ArtifactError, VerifyError
from graphopt.ir.artifact import ArtifactReader, ArtifactWriter, void, write_artifact
from graphopt.ir.graph import Graph
from graphopt.ir.store import GRAPH_FILE, WEIGHTS_FILE, load_graph, write_graph
from graphopt.ops import verify

__all__ = ["DOCUMENT", "load", "read_graph", "save"]

DOCUMENT = "cuda.json"
"""The file that tells a saved executable of this backend."""

_PLAN = "plan.txt"
_SOURCE = re.compile(r"network[0-9]{0,5}\.py\Z")
_MOST_DOCUMENT_BYTES = 1 << 26
_VERSION = 1


def save(executable: CudaExecutable, path: Path) -> None:
    """Write the folder; it appears as a whole or not at all, and replaces an executable that stands there.

    Raises:
        ArtifactError: something else stands at `path`, a state has no numbers, or the disk refuses.
    """
    programs = executable.programs
    sources = {f"network{number or ''}.py": program.source for number, program in enumerate(programs.values()) if program.source}
    document = {
        "backend": "cuda",
        "choices": [{"sizes": dict(sizes), "ways": list(program.chosen)} for sizes, program in programs.items()],
        "format": "graphopt-executable",
        "machine": _machine(),
        "options": executable.options.to_json(),
        "version": _VERSION,
    }
    names = {GRAPH_FILE, WEIGHTS_FILE, DOCUMENT, _PLAN, *sources}
    with write_artifact(path, names | _old_sources(path)) as writer:
        write_graph(executable.graph, writer)
        _write_text(writer, _PLAN, executable.plan)
        for name, text in sources.items():
            _write_text(writer, name, text)
        _write_text(writer, DOCUMENT, json.dumps(document, indent=1, sort_keys=True) + "\n")


def _write_text(writer: ArtifactWriter, name: str, text: str) -> None:
    writer.write(name, lambda emit: void(emit(text.encode())))


def _old_sources(path: Path) -> set[str]:
    """Files of an older executable at the same place, which may have had more plans."""
    try:
        return {name for name in os.listdir(path) if _SOURCE.match(name)}
    except OSError:
        return set()


def _machine() -> dict[str, str]:
    """What the choices were made for."""
    return {"gpu": device_name(), **{name: _installed(name) for name in ("graphopt", "torch", "triton")}}


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def load(path: Path) -> CudaExecutable:
    """Read a folder that `save` wrote; a GPU is needed only for runs.

    Raises:
        ArtifactError: the folder is missing, damaged, of a newer version, or unsafe to read; nothing of it ran.
        BackendError: a saved option makes no sense.
    """
    reader = ArtifactReader(path)
    graph = read_graph(path)
    reader.manifest()
    document = _parse_document(reader)
    choices = document.choices if document.machine == _machine() else {}
    return CudaExecutable(graph, CudaOptions.parse(document.options), choices)


def read_graph(path: Path) -> Graph:
    """The graph of a saved executable, without planning it; types are inferred again, none is believed.

    Raises:
        ArtifactError: the folder is missing, damaged, of a newer version, or unsafe to read.
    """
    listed = ArtifactReader(path).manifest().get("files")
    names = set(listed) if isinstance(listed, dict) else set[str]()
    graph = load_graph(path, (DOCUMENT, _PLAN, *sorted(name for name in names if _SOURCE.match(str(name)))))
    try:
        verify(graph)
    except VerifyError as error:
        raise ArtifactError(f"{GRAPH_FILE}: {error.what}", where=error.where or str(path), fix=error.fix) from None
    return graph


@dataclass(frozen=True, slots=True)
class _Document:
    options: Mapping[str, Any]
    machine: Mapping[str, object]
    choices: Mapping[Sizes, Sequence[str]]


def _parse_document(reader: ArtifactReader) -> _Document:
    options, machine, choices = read_frame(reader, DOCUMENT, "cuda", _VERSION, _MOST_DOCUMENT_BYTES)
    try:
        return _Document(options, machine, dict(_choice(entry) for entry in choices))
    except ValueError as error:
        raise reader.error(DOCUMENT, str(error)) from None


def _choice(entry: object) -> tuple[Sizes, tuple[str, ...]]:
    match entry:
        case {"sizes": dict(sizes), "ways": [*ways]} if all(type(size) is int and size >= 0 for size in sizes.values()):
            if all(isinstance(way, str) for way in ways):
                return tuple(sorted((str(name), size) for name, size in sizes.items())), tuple(str(way) for way in ways)
        case _:
            pass
    raise ValueError(f"a choice is {str(entry)[:80]}, needs sizes and names of ways")
