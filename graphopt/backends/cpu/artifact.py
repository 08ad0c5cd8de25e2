"""Saves an executable as a folder, and loads it by compiling it anew for the machine at hand.

    graph.gir             the graph as text, with a SHA-256 for each state
    weights.safetensors   the numbers of the states
    cpu.json              options, the kernels that were chosen, on what machine, versions
    plan.txt              the plans, for people
    network.cpp           the C++ of the first plan, network1.cpp of the second, for people
    manifest.json         size and SHA-256 of the others

Loading reads the graph, its numbers and the choices. It never reads the plan or the C++, and there is no machine
code in the folder: the graph is verified, planned, emitted and compiled here, or found in this user's own
compile cache. The choices are hashes of descriptions of kernels. They only pick among the candidates that this
graphopt lists by itself, and only on the kind of processor where they were measured.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from graphopt.backends.cpu.arrays import map_states
from graphopt.backends.cpu.emit import emit
from graphopt.backends.cpu.executable import CpuExecutable
from graphopt.backends.cpu.isa import cpu_name, resolve, supported
from graphopt.backends.cpu.options import CpuOptions
from graphopt.backends.cpu.replay import KEY_DIGITS, SavedStep, saved_steps
from graphopt.backends.document import read_frame
from graphopt.errors import ArtifactError, IRError, VerifyError
from graphopt.ir.artifact import ArtifactReader, ArtifactWriter, void, write_artifact
from graphopt.ir.graph import Graph, GraphEditor, Value
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.ir.verifier import verify_structure
from graphopt.ir.weights import check_header, states_by_key, write_weights
from graphopt.ops import verify

__all__ = ["DOCUMENT", "load", "load_graph", "save"]

DOCUMENT = "cpu.json"
"""The file that tells a saved executable of this backend."""

_GRAPH = "graph.gir"
_WEIGHTS = "weights.safetensors"
_PLAN = "plan.txt"
_SOURCE = re.compile(r"network[0-9]{0,5}\.cpp\Z")
_TEXT_HEADER = "graphopt-ir 1\n"
_MOST_TEXT_BYTES = 1 << 29
_MOST_DOCUMENT_BYTES = 1 << 26
_VERSION = 1
_KEY = re.compile(rf"[0-9a-f]{{{KEY_DIGITS}}}\Z")

Sizes = tuple[tuple[str, int], ...]


# Saving


def save(executable: CpuExecutable, path: Path) -> None:
    """Write the folder; it appears as a whole or not at all, and replaces an executable that stands there.

    Raises:
        ArtifactError: something else stands at `path`, a state has no numbers, or the disk refuses.
    """
    graph, options = executable.graph, executable.options
    plans = [plan for program in executable.programs.values() for plan in program.plans]
    sources = {f"network{number or ''}.cpp": emit(plan).files["network.cpp"] for number, plan in enumerate(plans)}
    document = {
        "backend": "cpu",
        "choices": [
            {"sizes": dict(sizes), "steps": [[step.key, step.reason] for step in saved_steps(program.plans)]}
            for sizes, program in executable.programs.items()
        ],
        "format": "graphopt-executable",
        "machine": _machine(options),
        "options": options.to_json(),
        "version": _VERSION,
        "versions": {name: _installed(name) for name in ("graphopt", "numpy")},
    }
    names = {_GRAPH, _WEIGHTS, DOCUMENT, _PLAN, *sources}
    with write_artifact(path, names | _old_sources(path)) as writer:
        digests: dict[Value, str] = {}
        writer.write(_WEIGHTS, lambda emit: digests.update(write_weights(states_by_key(graph), emit)))
        _write_text(writer, _GRAPH, _TEXT_HEADER + show(graph, sources=True, digests=digests))
        _write_text(writer, _PLAN, executable.plan)
        for name, text in sources.items():
            _write_text(writer, name, text)
        _write_text(writer, DOCUMENT, json.dumps(document, indent=1, sort_keys=True) + "\n")


def _write_text(writer: ArtifactWriter, name: str, text: str) -> None:
    writer.write(name, lambda emit: void(emit(text.encode())))


def _machine(options: CpuOptions) -> dict[str, object]:
    """What the choices were made for."""
    return {"cpu": cpu_name(), "isa": resolve(options.isa), "threads": options.thread_count}


def _old_sources(path: Path) -> set[str]:
    """Files of an older executable at the same place, which may have had more plans."""
    try:
        return {name for name in os.listdir(path) if _SOURCE.match(name)}
    except OSError:
        return set()


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


# Loading


def load(path: str | Path, **options: Any) -> CpuExecutable:
    """Read a folder that `save` wrote, and build it for this machine. `options` replace those that were saved.

    An instruction set that was asked for by name and that this machine lacks becomes `native`.

    Raises:
        ArtifactError: the folder is missing, damaged, of a newer version, or unsafe to read; nothing of it ran.
        BackendError: an option makes no sense, or there is no compiler.
    """
    document, graph = _read(Path(path))
    chosen = CpuOptions.parse(_fitting({**document.options, **options}))
    choices = document.choices if document.machine == _machine(chosen) else {}
    return CpuExecutable(graph, chosen, choices)


def load_graph(path: str | Path) -> Graph:
    """The graph of a saved executable, without building it.

    Raises:
        ArtifactError: the folder is missing, damaged, of a newer version, or unsafe to read.
    """
    return _read(Path(path))[1]


def _read(path: Path) -> tuple[_Document, Graph]:
    reader = ArtifactReader(path)
    listed = reader.manifest().get("files")
    names = set(listed) if isinstance(listed, dict) else set[str]()
    reader.check({_GRAPH, _WEIGHTS, DOCUMENT, _PLAN, *(name for name in names if _SOURCE.match(name))})
    return _parse_document(reader), _read_graph(reader)


def _fitting(options: dict[str, Any]) -> dict[str, Any]:
    isa = options.get("isa")
    return {**options, "isa": "native"} if isa in ("avx512", "avx2") and isa not in supported() else options


def _read_graph(reader: ArtifactReader) -> Graph:
    raw = reader.read(_GRAPH, _MOST_TEXT_BYTES)
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError as error:
        raise reader.error(_GRAPH, f"not ASCII: byte {error.start}") from None
    if not text.startswith(_TEXT_HEADER):
        raise reader.error(_GRAPH, f"the first line is {text[:40]!r}, needs {_TEXT_HEADER.strip()!r}", "update graphopt")
    try:
        graph = parse("\n" + text.removeprefix(_TEXT_HEADER))
        verify_structure(graph)
        # Shapes decide what compiled code reads and writes: each is inferred again, none is believed.
        verify(graph)
    except VerifyError as error:
        raise ArtifactError(f"{_GRAPH}: {error.what}", where=error.where or str(reader.folder), fix=error.fix) from None
    except IRError as error:
        raise reader.error(_GRAPH, error.what) from None
    _attach(graph, reader)
    return graph


def _attach(graph: Graph, reader: ArtifactReader) -> None:
    """Give every state, those of regions too, its place in the weights."""
    states = states_by_key(graph)
    types: dict[str, tuple[Any, str]] = {}
    for key, state in states.items():
        if not state.type.is_static or state.digest is None:
            raise reader.error(_GRAPH, f"%{state.name}: {state.type.text} needs a static shape and a sha256")
        types[key] = state.type, state.digest
    with reader.open(_WEIGHTS) as file:
        check_header(file, os.fstat(file.fileno()).st_size, states)
    data = map_states(reader, _WEIGHTS, types)
    keys = {state.value: key for key, state in states.items()}
    pending = [graph]
    while pending:
        current = pending.pop()
        editor = GraphEditor(current)
        for state in tuple(current.states.values()):
            editor.update_state(replace(state, data=data[keys[state.value]]))
        pending.extend(region for node in current.nodes for region in node.regions)


# The document


@dataclass(frozen=True, slots=True)
class _Document:
    options: Mapping[str, Any]
    machine: Mapping[str, object]
    choices: Mapping[Sizes, tuple[SavedStep, ...]]


def _parse_document(reader: ArtifactReader) -> _Document:
    """The checked content of `cpu.json`.

    Raises:
        ArtifactError: a field is missing or of the wrong type.
    """
    options, machine, choices = read_frame(reader, DOCUMENT, "cpu", _VERSION, _MOST_DOCUMENT_BYTES)
    try:
        return _Document(options, machine, dict(_choice(entry) for entry in choices))
    except ValueError as error:
        raise reader.error(DOCUMENT, str(error)) from None


def _choice(entry: object) -> tuple[Sizes, tuple[SavedStep, ...]]:
    match entry:
        case {"sizes": dict(sizes), "steps": [*steps]} if all(type(size) is int and size >= 0 for size in sizes.values()):
            return tuple(sorted((str(name), size) for name, size in sizes.items())), tuple(_step(step) for step in steps)
        case _:
            raise ValueError(f"a choice is {str(entry)[:80]}, needs sizes and steps")


def _step(entry: object) -> SavedStep:
    match entry:
        case [str(key), str(reason)] if _KEY.match(key):
            return SavedStep(key, reason)
        case _:
            raise ValueError(f"a step is {str(entry)[:80]}, needs a hash of {KEY_DIGITS} digits and a reason")
