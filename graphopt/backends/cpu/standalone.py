"""Writes a network as a folder that a C++ programmer compiles and runs, without Python.

    CMakeLists.txt   a library and an example, for several instruction sets in one binary
    network.h        the C interface
    network.cpp      the network; *.hpp are the templates that it calls
    dispatch.cpp     picks the instruction set when the program starts
    main.cpp         the example
    weights.bin      packed weights, then 64 bytes that say which export they belong to
    plan.txt         the plan, for people
    README.md, manifest.json

`name` stands before every name of the C interface (`resnet_create`) and in every namespace, so several exports
can be linked into one program.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy
from numpy.typing import NDArray

from graphopt.analysis.table import counted
from graphopt.backends.cpu.emit import emit, weight_chunks
from graphopt.backends.cpu.isa import ISAS, machine_flags
from graphopt.backends.cpu.library import allocate
from graphopt.backends.cpu.lowering import NativeSegment, plan, reader
from graphopt.backends.cpu.options import CpuOptions
from graphopt.backends.cpu.plan import Plan
from graphopt.backends.cpu.storage import Storage
from graphopt.backends.cpu.toolchain import FLAGS
from graphopt.errors import BackendError, LoweringError
from graphopt.ir.artifact import void, write_artifact
from graphopt.ir.graph import Graph, Value

__all__ = ["TEMPLATES", "export_standalone"]

TEMPLATES = ("CMakeLists.txt", "README.md", "dispatch.cpp", "main.cpp")

_UNITS = 4
_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}\Z")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,63}\Z")
_HEADER = re.compile(r"[a-z_]+\.(hpp|h)\Z")
_TRAILER = struct.Struct("<16sIIQQ24x")
"""Magic, version, reserved, bytes of the weights, number of the export: `WeightsTrailer` in memory.hpp."""


def export_standalone(
    graph: Graph, path: str | Path, *, name: str = "model", isas: Sequence[str] = ISAS, options: CpuOptions | None = None
) -> None:
    """Write the folder; it appears as a whole or not at all, and replaces an export that stands there.

    `name` stands before the names of the C interface. The options decide the plan: which kernels are measured, and
    for how many threads; the code runs with any number.

    Raises:
        LoweringError: a node has no kernel, a size is symbolic, or an output is no result of a node.
        BackendError: a name or an instruction set makes no sense.
        ArtifactError: something else stands at `path`, or the disk refuses.
    """
    if not _NAME.match(name):
        raise BackendError(f"name is {name[:60]!r}, needs a small letter, then small letters, digits and '_'")
    unknown = [isa for isa in isas if isa not in ISAS]
    if unknown or not isas:
        raise BackendError(f"isas is {list(isas)}, needs some of {', '.join(ISAS)}")
    target = Path(path)
    segment = _whole(graph, options or CpuOptions())
    ordered, labels = _ordered(graph, segment)
    weights = _weights(graph, segment)
    number = int.from_bytes(hashlib.sha256(weights.data).digest()[:8], "little") or 1
    sources = emit(ordered, units=_UNITS, labels=labels)
    files = dict(sources.files)
    files["network.cpp"] = f"#define GRAPHOPT_WEIGHTS_ID {number:#018x}u  // that of weights.bin\n{files['network.cpp']}"
    files |= _templates(ordered, labels, list(isas), sources.units, weights.nbytes)
    files = {file: _renamed(text, name) for file, text in files.items()}
    files["plan.txt"] = ordered.text
    trailer = _TRAILER.pack(b"graphopt weights", 1, 0, weights.nbytes, number)
    with write_artifact(target, {"weights.bin", *files, *_old_headers(target)}) as writer:
        writer.write("weights.bin", lambda emit: void((emit(weights.data), emit(trailer))))
        for file in sorted(files):
            content = files[file].encode()
            writer.write(file, lambda emit, content=content: void(emit(content)))


def _whole(graph: Graph, options: CpuOptions) -> NativeSegment:
    """The graph as one native segment.

    Raises:
        LoweringError: it is none.
    """
    if graph.symbols:
        names = ", ".join(sorted(graph.symbols))
        raise LoweringError(
            f"{graph.name} has symbolic sizes ({names}), standalone code has fixed ones", fix="capture it without dynamic axes"
        )
    program = plan(graph, {}, options)
    if program.foreign:
        name, op, reason = program.foreign[0]
        more = f" and {counted(len(program.foreign) - 1, 'more node')}" if len(program.foreign) > 1 else ""
        raise LoweringError(
            f"%{name} = {op}{more} can't be exported: {reason}",
            fix="lower it with target='cpu', which runs such nodes in the reference interpreter",
        )
    if len(program.segments) != 1 or not isinstance(program.segments[0], NativeSegment):
        raise LoweringError(f"{graph.name} has no nodes to compile")
    return program.segments[0]


def _ordered(graph: Graph, segment: NativeSegment) -> tuple[Plan, dict[str, str]]:
    """The plan with inputs and outputs in the order of the graph, and what they are called.

    Raises:
        LoweringError: the graph returns something that no node makes, or the same twice.
    """
    returned = [operand for operand in graph.outputs if isinstance(operand, Value)]
    if len(returned) != len(graph.outputs) or len(set(returned)) != len(returned) or set(returned) != set(segment.outputs):
        raise LoweringError(f"{graph.name} returns an input, a constant or a value twice", fix="return each result of a layer once")
    taken = [value for value in graph.inputs if value in segment.inputs]
    plan, buffers = segment.plan, dict(segment.plan.buffers)
    labels: dict[str, str] = {}
    for kind, order, values in (("input", taken, segment.inputs), ("output", returned, segment.outputs)):
        for old, value in enumerate(values):
            new = order.index(value)
            buffers[f"{kind}{old}"] = replace(buffers[f"{kind}{old}"], index=new)
            if _LABEL.match(value.name) and value.name not in labels.values():
                labels[f"{kind}{new}"] = value.name
    inputs = tuple(plan.inputs[segment.inputs.index(value)] for value in taken)
    outputs = tuple(plan.outputs[segment.outputs.index(value)] for value in returned)
    return replace(plan, inputs=inputs, outputs=outputs, buffers=buffers), labels


def _weights(graph: Graph, segment: NativeSegment) -> NDArray[numpy.uint8]:
    weights = allocate(segment.plan.weights_bytes)
    for offset, array in weight_chunks(segment.plan, reader(graph, segment.derived)):
        weights[offset : offset + array.nbytes] = array.reshape(-1).view(numpy.uint8)
    return weights


def _templates(plan: Plan, labels: Mapping[str, str], isas: Sequence[str], units: int, weights_bytes: int) -> dict[str, str]:
    folder = resources.files("graphopt.backends.cpu") / "templates"
    texts = {file: (folder / file).read_text() for file in TEMPLATES}
    tensors = [*_rows("input", plan.inputs, labels), *_rows("output", plan.outputs, labels)]
    unit_list = " ".join(map(str, range(units)))
    texts["README.md"] = _filled(
        texts["README.md"],
        {
            "ISAS": ", ".join(isas),
            "PLAIN_FLAGS": " ".join(FLAGS),
            "TENSORS": "\n".join(tensors),
            "UNITS": unit_list,
            "WEIGHTS": str(weights_bytes),
        },
    )
    texts["CMakeLists.txt"] = _filled(
        texts["CMakeLists.txt"],
        {
            "FLAGS": " ".join(flag for flag in FLAGS if not flag.startswith("-std=")),
            "FLAGS_AVX2": " ".join(machine_flags("avx2")),
            "FLAGS_AVX512": " ".join(machine_flags("avx512")),
            "ISAS": ";".join(isas),
            "UNITS": unit_list,
        },
    )
    return texts


def _rows(kind: str, storages: Sequence[Storage], labels: Mapping[str, str]) -> list[str]:
    """Rows of the table of inputs and outputs."""
    rows: list[str] = []
    for index, storage in enumerate(storages):
        label = labels.get(f"{kind}{index}", f"{kind}{index}")
        rows.append(f"| {kind} {index} | `{label}` | `{storage.dtype.text}[{', '.join(map(str, storage.shape))}]` |")
    return rows


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"@([A-Z0-9_]+)@", lambda found: values[found[1]], text)


def _renamed(text: str, name: str) -> str:
    """The text with `name` for graphopt in names of the C interface, macros and libraries."""
    return text.replace("GRAPHOPT_", f"{name.upper()}_").replace("graphopt_", f"{name}_")


def _old_headers(path: Path) -> set[str]:
    """Headers of an older export at the same place, which may have needed others."""
    try:
        return {item.name for item in path.iterdir() if _HEADER.match(item.name)}
    except OSError:
        return set()
