"""Saves an executable as a folder and loads it again, without torch where every node is native.

    graph.gir         "graphopt-ir 1", then the graph as text
    segment0.onnx     one model per native segment; weights above 1 KiB stand in
    weights.bin       the numbers, each array once, at multiples of 64 bytes
    executable.json   the steps, where each state lies in weights.bin, options and versions
    manifest.json     size and SHA-256 of the others

Nothing is stored twice: a state whose axes ONNX wants permuted is stored so, and permuted back when the
graph of a loaded executable asks for its numbers. Loading trusts no file: hashes are compared, ONNX
Runtime gets bytes that we own, and a model that refers to any other file is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphopt.backends.onnxruntime.document import Document, StepEntry, parse_document
from graphopt.backends.onnxruntime.dtypes import numpy_dtype, tensor_to_array
from graphopt.backends.onnxruntime.executable import OnnxRuntimeExecutable
from graphopt.backends.onnxruntime.inspect import external_weights
from graphopt.backends.onnxruntime.model import WEIGHTS_LOCATION, Layout
from graphopt.backends.onnxruntime.options import SessionOptions
from graphopt.backends.onnxruntime.records import Array, Initializer
from graphopt.backends.onnxruntime.session import Session
from graphopt.backends.onnxruntime.steps import ForeignStep, NativeStep, Step, array_to_tensor
from graphopt.backends.onnxruntime.versions import IR_VERSION, OPSET
from graphopt.errors import ArtifactError, BackendError, IRError
from graphopt.ir.artifact import ArtifactReader, ArtifactWriter, void, write_artifact
from graphopt.ir.graph import Graph, GraphEditor
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from graphopt.ir.state import State
from graphopt.ir.types import TensorType
from graphopt.ir.verifier import verify_structure

if TYPE_CHECKING:
    import torch

__all__ = ["DOCUMENT", "ArrayData", "is_executable", "load", "save"]

DOCUMENT = "executable.json"
"""The file that tells a saved executable from a saved graph."""

_GRAPH = "graph.gir"
_TEXT_HEADER = "graphopt-ir 1\n"
_SEGMENT = re.compile(r"segment[0-9]{1,5}\.onnx\Z")
_MOST_TEXT_BYTES = 1 << 29
_MOST_MODEL_BYTES = (1 << 31) - 1
_CHUNK = 1 << 24


class ArrayData:
    """Numbers of a state of a loaded executable: a view of the weights file in memory, axes permuted back."""

    __slots__ = ("_array", "_permutation")

    def __init__(self, array: Array, permutation: Sequence[int] | None) -> None:
        self._array = array
        self._permutation = permutation

    def tensor(self) -> torch.Tensor:
        """The tensor in its declared dtype; shares memory with the session, never write to it."""
        tensor: torch.Tensor = array_to_tensor(self._array)
        if self._permutation is None:
            return tensor
        return tensor.permute([int(axis) for axis in np.argsort(self._permutation)]).contiguous()

    def precise(self) -> torch.Tensor:
        """The tensor in float64 when it is floating point, else itself."""
        tensor = self.tensor()
        return tensor.double() if tensor.is_floating_point() else tensor


def is_executable(path: Path) -> bool:
    """True when a folder looks like a saved executable."""
    return (path / DOCUMENT).is_file()


# Saving


def save(executable: OnnxRuntimeExecutable, path: Path) -> None:
    """Write the folder; it appears as a whole or not at all, and replaces an executable that stands there.

    Raises:
        ArtifactError: something else stands at `path`, a state has no numbers, or the disk refuses.
    """
    layout, states = _complete_layout(executable)
    natives = [step for step in executable.steps if isinstance(step, NativeStep)]
    files = {f"segment{index}.onnx": step for index, step in enumerate(natives)}
    document = {
        "backend": "onnxruntime",
        "format": "graphopt-executable",
        "ir_version": IR_VERSION,
        "opset": OPSET,
        "options": executable.options.to_json(),
        "states": states,
        "steps": _steps(executable, {id(step): name for name, step in files.items()}),
        "version": 1,
        "versions": {name: _version(name) for name in ("graphopt", "numpy", "onnx", "onnxruntime")},
    }
    text = _TEXT_HEADER + show(executable.graph, sources=True)
    names = {_GRAPH, DOCUMENT, WEIGHTS_LOCATION, *files}
    with write_artifact(path, names | _old_segments(path)) as writer:
        writer.write(_GRAPH, lambda emit: void(emit(text.encode("ascii"))))
        writer.write(WEIGHTS_LOCATION, layout.write)
        for name, step in files.items():
            _write_model(writer, name, step.session.model)
        content = json.dumps(document, indent=1, sort_keys=True) + "\n"
        writer.write(DOCUMENT, lambda emit: void(emit(content.encode())))


def _write_model(writer: ArtifactWriter, name: str, model: bytes) -> None:
    writer.write(name, lambda emit: void(emit(model)))


def _old_segments(path: Path) -> set[str]:
    """Files of an older executable at the same place, which may have had more segments."""
    try:
        return {name for name in os.listdir(path) if _SEGMENT.match(name)}
    except OSError:
        return set()


def _complete_layout(executable: OnnxRuntimeExecutable) -> tuple[Layout, dict[str, object]]:
    """The sessions' layout with every state in it that they do not read from the file."""
    arrays = {id(step): step.session.weights for step in executable.steps if isinstance(step, NativeStep)}
    held = {name: array for weights in arrays.values() for name, (array, _) in weights.items()}
    entries = [(offset, _holding(made, held.get(made.name))) for offset, made in executable.layout.entries]
    layout = Layout.of(entries, executable.layout.size)
    states: dict[str, object] = {}
    for state in executable.graph.states.values():
        place = layout.find(state.name)
        if place is None:
            if state.data is None:
                raise ArtifactError(f"%{state.name} has no numbers", fix="load the graph from its folder, or capture it from the model")
            place = (layout.place(_of_state(state)), None)
        states[state.name] = [place[0], None if place[1] is None else list(place[1])]
    return layout, states


def _holding(made: Initializer, array: Array | None) -> Initializer:
    """The initializer with the array that the session holds, instead of computing it again."""
    return made if array is None else replace(made, array=lambda: array)


def _of_state(state: State) -> Initializer:
    data = state.data
    assert data is not None, "checked by the caller"
    return Initializer(
        state.name, state.type.dtype, state.type.static_shape, lambda: tensor_to_array(data.tensor(), state.type.dtype), state.name
    )


def _steps(executable: OnnxRuntimeExecutable, files: Mapping[int, str]) -> list[dict[str, object]]:
    positions = {node: index for index, node in enumerate(executable.graph.nodes)}
    steps: list[dict[str, object]] = []
    for step in executable.steps:
        if isinstance(step, ForeignStep):
            nodes = [[positions[node], reason] for node, reason in zip(step.nodes, step.reasons, strict=True)]
            steps.append({"kind": "foreign", "nodes": nodes})
            continue
        steps.append(
            {
                "kind": "native",
                "file": files[id(step)],
                "inputs": [[value.name, name] for value, name in step.inputs],
                "outputs": [[value.name, name] for value, name in step.outputs],
                "symbols": [[symbol, name] for symbol, name in step.symbols],
            }
        )
    return steps


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


# Loading


def load(path: str | Path, **options: Any) -> OnnxRuntimeExecutable:
    """Read a folder that `save` wrote. `options` replace those that were saved, such as `threads`.

    Raises:
        ArtifactError: the folder is missing, damaged, of a newer version, or unsafe to read; nothing of it ran.
        BackendError: an option or a provider is not there on this machine.
    """
    reader = ArtifactReader(Path(path))
    content = reader.manifest()
    listed = content.get("files")
    names = set(listed) if isinstance(listed, dict) else set[str]()
    segments = {name for name in names if _SEGMENT.match(name)}
    reader.check({_GRAPH, DOCUMENT, WEIGHTS_LOCATION, *segments})
    document = parse_document(reader.read(DOCUMENT, 1 << 28), str(reader.folder))
    chosen = SessionOptions.parse({**document.options, **options})
    graph = _read_graph(reader)
    buffer = _read_weights(reader, listed)
    placed = _attach(graph, document, buffer, reader)
    try:
        steps = [_step(reader, graph, entry, buffer, chosen, placed) for entry in document.steps]
    except IRError as error:
        raise reader.error(DOCUMENT, error.what) from None
    return OnnxRuntimeExecutable(graph, steps, Layout.of(sorted(placed.items(), key=lambda item: item[0]), buffer.nbytes), chosen)


def _read_graph(reader: ArtifactReader) -> Graph:
    raw = reader.read(_GRAPH, _MOST_TEXT_BYTES)
    try:
        text = raw.decode("ascii")
        if not text.startswith(_TEXT_HEADER):
            raise reader.error(_GRAPH, f"the first line is {text[:40]!r}, needs {_TEXT_HEADER.strip()!r}", "update graphopt")
        graph = parse("\n" + text.removeprefix(_TEXT_HEADER))
        verify_structure(graph)
    except UnicodeDecodeError as error:
        raise reader.error(_GRAPH, f"not ASCII: byte {error.start}") from None
    except IRError as error:
        raise reader.error(_GRAPH, error.what) from None
    return graph


def _read_weights(reader: ArtifactReader, listed: object) -> Array:
    """The weights file in memory of our own, hashed as it was read."""
    with reader.open(WEIGHTS_LOCATION) as file:
        size = os.fstat(file.fileno()).st_size
        buffer = np.empty(size, dtype=np.uint8)
        view, digest, filled = buffer.data, hashlib.sha256(), 0
        while filled < size:
            count = file.readinto(view[filled : filled + _CHUNK])  # pyright: ignore[reportAttributeAccessIssue]  # a buffered reader has it
            if not count:
                break
            digest.update(view[filled : filled + count])
            filled += count
    entry = listed.get(WEIGHTS_LOCATION) if isinstance(listed, dict) else None
    if not isinstance(entry, dict) or digest.hexdigest() != entry.get("sha256"):
        raise reader.error(WEIGHTS_LOCATION, "changed while it was read")
    return buffer


def _attach(graph: Graph, document: Document, buffer: Array, reader: ArtifactReader) -> dict[int, Initializer]:
    """Give every state its place in the weights; returns what lies where."""
    placed: dict[int, Initializer] = {}
    if document.states.keys() != graph.states.keys():
        odd = sorted(document.states.keys() ^ graph.states.keys())[:3]
        raise reader.error(DOCUMENT, f"its states are not those of the graph: {odd}")
    editor = GraphEditor(graph)
    for state in tuple(graph.states.values()):
        offset, permutation = document.states[state.name]
        type_ = state.type
        if not type_.is_static or (permutation is not None and sorted(permutation) != list(range(type_.rank))):
            raise reader.error(DOCUMENT, f"%{state.name}: {type_.text} can't have the permutation {permutation}")
        stored = type_ if permutation is None else TensorType(type_.dtype, tuple(type_.shape[axis] for axis in permutation))
        array = _view(buffer, offset, stored, reader, state.name)
        editor.update_state(replace(state, data=ArrayData(array, permutation)))
        placed[offset] = _placed(state.name, stored, array, state.name, permutation)
    return placed


def _placed(name: str, type_: TensorType, array: Array, state: str | None, permutation: tuple[int, ...] | None = None) -> Initializer:
    return Initializer(name, type_.dtype, type_.static_shape, lambda: array, state, permutation)


def _view(buffer: Array, offset: int, type_: TensorType, reader: ArtifactReader, name: str) -> Array:
    size = type_.bytes
    assert isinstance(size, int), "a static type has a known size"
    if offset < 0 or offset + size > buffer.nbytes:
        raise reader.error(WEIGHTS_LOCATION, f"'{name}' takes the bytes {offset} to {offset + size}, the file has {buffer.nbytes}")
    return buffer[offset : offset + size].view(numpy_dtype(type_.dtype)).reshape(type_.static_shape)


def _step(
    reader: ArtifactReader, graph: Graph, entry: StepEntry, buffer: Array, options: SessionOptions, placed: dict[int, Initializer]
) -> Step:
    if entry.file is None:
        nodes = list(graph.nodes)
        for position, _ in entry.nodes:
            if not 0 <= position < len(nodes):
                raise reader.error(DOCUMENT, f"there is no node {position}, the graph has {len(nodes)}")
        return ForeignStep(graph, [nodes[position] for position, _ in entry.nodes], [reason for _, reason in entry.nodes])
    raw = reader.read(entry.file, _MOST_MODEL_BYTES)
    try:
        proto = onnx.load_model_from_string(raw)
    except Exception as error:  # noqa: BLE001  # protobuf's errors have no common base but this
        raise reader.error(entry.file, f"no ONNX model: {error}") from None
    places = external_weights(proto, reader, entry.file)
    weights = {name: (_view(buffer, offset, type_, reader, name), type_.dtype) for name, (offset, type_) in places.items()}
    for name, (offset, type_) in places.items():
        placed.setdefault(offset, _placed(name, type_, weights[name][0], None))
    try:
        session = Session(raw, weights, options)
    except BackendError as error:
        raise reader.error(entry.file, error.what) from None
    inputs = [(graph.value(value), name) for value, name in entry.inputs]
    outputs = [(graph.value(value), name) for value, name in entry.outputs]
    wanted = ({name for _, name in (*entry.inputs, *entry.symbols)}, {name for _, name in entry.outputs})
    if wanted != ({name for name, _ in session.inputs}, {name for name, _ in session.outputs}):
        raise reader.error(DOCUMENT, f"its inputs and outputs are not those of {entry.file}")
    return NativeStep(session, inputs, outputs, entry.symbols)
