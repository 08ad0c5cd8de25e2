"""Writes a graph as a plain ONNX file, for any runtime."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

import onnx
from onnx import ModelProto

from graphopt.analysis.table import counted
from graphopt.backends.onnxruntime.model import Layout, SegmentModel, build_segment
from graphopt.backends.onnxruntime.options import SessionOptions
from graphopt.backends.onnxruntime.partition import partition
from graphopt.errors import ArtifactError, LoweringError
from graphopt.ir.graph import Graph, Value

__all__ = ["EXTERNAL_DATA_BYTES", "export_onnx", "to_onnx"]

EXTERNAL_DATA_BYTES = (1 << 31) - (1 << 24)
"""Weights above this size go into a second file: protobuf ends at 2 GiB."""


def to_onnx(graph: Graph, *, decompose_attention: bool = False) -> ModelProto:
    """The graph as one ONNX model with all weights inside; standard ops only.

    Raises:
        LoweringError: a node has no form in ONNX, a state has no numbers, or the weights exceed 2 GiB.
    """
    segment, layout = _whole(graph, decompose_attention)
    total = layout.size
    if total > EXTERNAL_DATA_BYTES:
        fix = "use export_onnx, which writes a second file"
        raise LoweringError(f"the weights take {total} bytes, one ONNX model holds 2 GiB", fix=fix)
    _embed(segment)
    return segment.proto


def export_onnx(
    graph: Graph, path: str | Path, *, external_data_bytes: int = EXTERNAL_DATA_BYTES, decompose_attention: bool = False
) -> None:
    """Write the graph as `path`, and weights above `external_data_bytes` as `path` with `.data` behind it.

    Inputs, outputs and symbolic dimensions keep their names. The file is checked by onnx before it takes its place.

    Raises:
        LoweringError: a node has no form in ONNX (the message names it), or a state has no numbers.
        ArtifactError: the file can't be written.
    """
    target = Path(path)
    segment, layout = _whole(graph, decompose_attention)
    external = layout.size > external_data_bytes
    beside = target.with_name(f"{target.name}.data")
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
    fresh_data = target.with_name(f".{beside.name}.{secrets.token_hex(8)}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if external:
            _write_beside(segment, layout, fresh_data, beside.name)
        else:
            _embed(segment)
            onnx.checker.check_model(segment.proto)
        fresh.write_bytes(segment.proto.SerializeToString())
        if external:
            os.replace(fresh_data, beside)
        os.replace(fresh, target)
        if external:
            onnx.checker.check_model(str(target))
    except OSError as error:
        raise ArtifactError(f"can't write {target.name}: {error.strerror or error}", where=str(error.filename or target)) from error
    finally:
        for left in (fresh, fresh_data):
            with suppress(OSError):
                left.unlink()


def _whole(graph: Graph, decompose_attention: bool) -> tuple[SegmentModel, Layout]:
    parts = partition(graph, SessionOptions(decompose_attention=decompose_attention))
    foreign = parts.foreign_nodes
    if foreign:
        first = foreign[0]
        more = f" and {counted(len(foreign) - 1, 'more node')}" if len(foreign) > 1 else ""
        raise LoweringError(
            f"%{first.node.name} = {first.node.op}{more} can't be exported: {first.reason}",
            where=str(first.node.source),
            fix="lower it with target='onnxruntime', which runs such nodes in the reference interpreter",
        )
    outputs = [output for output in graph.outputs if isinstance(output, Value)]
    if len(outputs) != len(graph.outputs):
        raise LoweringError("the graph returns a number, and ONNX models return tensors", fix="return tensors")
    layout = Layout()
    return build_segment(parts.natives[0], outputs, layout, all_inputs=graph.inputs, name=graph.name), layout


def _embed(segment: SegmentModel) -> None:
    """Put the weights into the model."""
    beside = {entry.name: entry for entry in segment.weights}
    for proto in segment.proto.graph.initializer:
        entry = beside.get(proto.name)
        if entry is not None:
            proto.CopyFrom(entry.inline())


def _write_beside(segment: SegmentModel, layout: Layout, path: Path, location: str) -> None:
    """Write the weights one by one, and say in the model where they are."""
    for proto in segment.proto.graph.initializer:
        for entry in proto.external_data:
            if entry.key == "location":
                entry.value = location
    with path.open("xb") as file:
        layout.write(file.write)
