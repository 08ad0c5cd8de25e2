"""Lowers a graph to ONNX Runtime: emit, cut, build sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from graphopt.backends.base import Backend
from graphopt.backends.onnxruntime.context import Context
from graphopt.backends.onnxruntime.executable import OnnxRuntimeExecutable
from graphopt.backends.onnxruntime.model import Layout, SegmentModel, build_segment
from graphopt.backends.onnxruntime.options import SessionOptions
from graphopt.backends.onnxruntime.partition import Partition, partition
from graphopt.backends.onnxruntime.session import Session
from graphopt.backends.onnxruntime.steps import ForeignStep, NativeStep, Step
from graphopt.errors import BackendError
from graphopt.ir.graph import Graph, Value

__all__ = ["OnnxRuntimeBackend"]


class OnnxRuntimeBackend(Backend):
    """ONNX written straight from the IR, run by ONNX Runtime. Options are those of `SessionOptions`."""

    name: ClassVar[str] = "onnxruntime"

    def lower(self, graph: Graph, **options: Any) -> OnnxRuntimeExecutable:
        """Make the graph ready to run. Nodes without a form in ONNX run in the reference interpreter, and the
        executable's report says so.

        Raises:
            BackendError: an option is unknown or has a bad value, or ONNX Runtime refuses a segment.
            LoweringError: a state has no numbers.
        """
        chosen = SessionOptions.parse(options)
        parts = partition(graph, chosen)
        layout = Layout()
        steps: list[Step] = []
        outputs = parts.native_outputs()
        for stage in range(max(len(parts.natives), len(parts.foreigns))):
            if stage < len(parts.natives):
                steps += _native_step(parts, stage, outputs[stage], layout, chosen)
            if stage < len(parts.foreigns) and parts.foreigns[stage]:
                foreign = parts.foreigns[stage]
                steps.append(ForeignStep(graph, [entry.node for entry in foreign], [entry.reason for entry in foreign]))
        return OnnxRuntimeExecutable(graph, steps, layout, chosen)

    def load(self, path: str | Path) -> OnnxRuntimeExecutable:
        """Read back what `OnnxRuntimeExecutable.save` wrote.

        Raises:
            ArtifactError: the folder is missing, damaged, of a newer version, or unsafe to read.
        """
        from graphopt.backends.onnxruntime.artifact import load

        return load(Path(path))


def _native_step(parts: Partition, stage: int, outputs: list[Value], layout: Layout, options: SessionOptions) -> list[Step]:
    if not outputs:
        return []
    context: Context = parts.natives[stage]
    segment = build_segment(context, outputs, layout, name=parts.graph.name)
    return [NativeStep(session_of(segment, options), segment.inputs, segment.outputs, segment.symbols)]


def session_of(segment: SegmentModel, options: SessionOptions) -> Session:
    """The session of a segment, on the memory of the states themselves.

    Raises:
        BackendError: ONNX Runtime refuses the model.
    """
    weights = {entry.name: (entry.array(), entry.dtype) for entry in segment.weights}
    try:
        return Session(segment.proto.SerializeToString(), weights, options)
    except ValueError as error:
        raise BackendError(f"the model can't be serialised: {error}") from error
