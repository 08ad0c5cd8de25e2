"""From records to an ONNX model. Weights stand beside it: in one file `weights.bin`, or in memory under that name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, ValueInfoProto, helper

from graphopt.backends.onnxruntime.context import Context
from graphopt.backends.onnxruntime.dtypes import onnx_dtype
from graphopt.backends.onnxruntime.records import INLINE_BYTES, Initializer, OnnxNode
from graphopt.backends.onnxruntime.versions import IR_VERSION, OPSET
from graphopt.ir.graph import Value
from graphopt.ir.types import DType

__all__ = ["ALIGNMENT", "WEIGHTS_LOCATION", "Layout", "SegmentModel", "build_segment"]

WEIGHTS_LOCATION = "weights.bin"
ALIGNMENT = 64


class Layout:
    """Places in the weights file, each array once however many segments read it."""

    def __init__(self) -> None:
        self.size = 0
        self.entries: list[tuple[int, Initializer]] = []
        self._places: dict[object, int] = {}

    @staticmethod
    def of(entries: Sequence[tuple[int, Initializer]], size: int) -> Layout:
        """The layout of a file that exists."""
        layout = Layout()
        layout.entries = list(entries)
        layout.size = size
        return layout

    def place(self, made: Initializer) -> int:
        """Where the numbers of an initializer start."""
        key = made.name if made.state is None else (made.state, made.permutation)
        if key not in self._places:
            offset = -(-self.size // ALIGNMENT) * ALIGNMENT
            self._places[key] = offset
            self.entries.append((offset, made))
            self.size = offset + made.bytes
        return self._places[key]

    def write(self, emit: Callable[[bytes | memoryview], object]) -> None:
        """Write all arrays in order, with zeros in the gaps."""
        position = 0
        for offset, made in sorted(self.entries, key=lambda entry: entry[0]):
            emit(bytes(offset - position))
            array = np.ascontiguousarray(made.array())
            emit(array.reshape(-1).view(np.uint8).data)
            position = offset + array.nbytes

    def find(self, state: str) -> tuple[int, tuple[int, ...] | None] | None:
        """Place and permutation of a state, if it is in the file; unpermuted is preferred."""
        best: tuple[int, tuple[int, ...] | None] | None = None
        for offset, made in self.entries:
            if made.state == state and (best is None or made.permutation is None):
                best = (offset, made.permutation)
        return best


@dataclass(frozen=True, slots=True)
class SegmentModel:
    """An ONNX model of one segment of the graph.

    `inputs` and `outputs` are IR values with their ONNX names, `symbols` are sizes that are given as i64[1].
    `weights` are the initializers that stand beside the model.
    """

    proto: ModelProto
    inputs: tuple[tuple[Value, str], ...]
    outputs: tuple[tuple[Value, str], ...]
    symbols: tuple[tuple[str, str], ...]
    weights: tuple[Initializer, ...]


def build_segment(
    context: Context, outputs: Sequence[Value], layout: Layout, *, all_inputs: Sequence[Value] = (), name: str = "graph"
) -> SegmentModel:
    """The model of what a context holds, with large initializers placed beside it."""
    for value in all_inputs:
        context.name(value)
    renamed = _readable_names(context)
    nodes = [node.renamed(renamed) for node in context.nodes]
    made: list[tuple[Value, str]] = []
    produced = {output for node in nodes for output in node.outputs}
    for value in outputs:
        inner = context.name(value)
        current = renamed.get(inner, inner)
        if current not in produced or any(current == taken for _, taken in made):
            fresh = context.namer.name(value.name)
            nodes.append(OnnxNode("Identity", (current,), (fresh,)))
            current = fresh
        made.append((value, current))
    used = {name for node in nodes for name in (*node.inputs, *_captured(node))}
    kept = [entry for entry in context.initializers.values() if entry.name in used]
    inputs = [(value, name) for value, name in context.inputs.items() if value in all_inputs or name in used]
    if all_inputs:
        order = {value: index for index, value in enumerate(all_inputs)}
        inputs.sort(key=lambda item: order.get(item[0], len(order)))
    symbols = [(symbol, name) for symbol, name in context.symbol_inputs.items() if name in used]
    beside = [entry for entry in kept if entry.bytes > INLINE_BYTES]
    names_beside = {entry.name for entry in beside}
    initializers = [entry.external(WEIGHTS_LOCATION, layout.place(entry)) for entry in beside]
    initializers += [entry.inline() for entry in kept if entry.name not in names_beside]
    graph = helper.make_graph(
        [_with_regions(node, renamed).proto() for node in nodes],
        name,
        [*(_info(value, name) for value, name in inputs), *(_symbol_info(name) for _, name in symbols)],
        [_info(value, name) for value, name in made],
        initializers,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="graphopt")
    return SegmentModel(proto, tuple(inputs), tuple(made), tuple(symbols), tuple(beside))


def _readable_names(context: Context) -> dict[str, str]:
    """The last node of each IR value is named as the value is."""
    produced = {output for node in context.nodes for output in node.outputs}
    renamed: dict[str, str] = {}
    for value, name in context.bound():
        if name in produced and name not in renamed:
            renamed[name] = context.namer.name(value.name)
    return renamed


def _info(value: Value, name: str) -> ValueInfoProto:
    shape = [dim if isinstance(dim, int) else str(dim) for dim in value.shape]
    return helper.make_tensor_value_info(name, onnx_dtype(value.type.dtype), shape)


def _symbol_info(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx_dtype(DType.i64), [1])


def _regions(node: OnnxNode) -> list[GraphProto]:
    return [value for value in node.attributes.values() if isinstance(value, GraphProto)]


def _captured(node: OnnxNode) -> set[str]:
    """Names that the branches of a node read."""
    found: set[str] = set()
    pending = _regions(node)
    while pending:
        graph = pending.pop()
        for inner in graph.node:
            found.update(inner.input)
            pending += [attribute.g for attribute in inner.attribute if attribute.type == AttributeProto.GRAPH]
    return found


def _with_regions(node: OnnxNode, renamed: Mapping[str, str]) -> OnnxNode:
    """The node with names inside its branches renamed too."""
    pending = _regions(node)
    while pending:
        graph = pending.pop()
        for inner in graph.node:
            for index, name in enumerate(inner.input):
                inner.input[index] = renamed.get(name, name)
            pending += [attribute.g for attribute in inner.attribute if attribute.type == AttributeProto.GRAPH]
    return node
