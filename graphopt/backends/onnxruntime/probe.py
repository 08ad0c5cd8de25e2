"""Asks ONNX Runtime itself whether it has kernels for a few nodes, with a model of those nodes alone.

Which kernels exist for which dtypes differs from version to version and is written down nowhere that can be
read; making a session of a node takes about a millisecond, and the answer is kept for the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnxruntime
from onnx import helper, numpy_helper

from graphopt.backends.onnxruntime.dtypes import onnx_dtype
from graphopt.backends.onnxruntime.records import Array, OnnxNode
from graphopt.backends.onnxruntime.versions import IR_VERSION, OPSET
from graphopt.ir.types import DType

if TYPE_CHECKING:
    from graphopt.backends.onnxruntime.context import Context

__all__ = ["missing_kernel"]

_ANSWERS: dict[object, str | None] = {}


def missing_kernel(context: Context, start: int) -> str | None:
    """None when ONNX Runtime can run the nodes from number `start` on, else its reason."""
    nodes = context.nodes[start:]
    if not nodes or any(node.op == "If" for node in nodes):
        return None
    numbers: dict[str, int] = {"": -1}
    made = {name for node in nodes for name in node.outputs}
    inputs = list(dict.fromkeys(name for node in nodes for name in node.inputs if name and name not in made))
    types = {name: context.types[name] for name in inputs}
    for name in (*inputs, *(name for node in nodes for name in node.outputs)):
        numbers.setdefault(name, len(numbers))
    known = _known_sizes(context, nodes, inputs)
    key = (tuple(types.values()), tuple(_signature(node, numbers) for node in nodes), tuple(array.tobytes() for array in known.values()))
    if key not in _ANSWERS:
        _ANSWERS[key] = _ask(nodes, types, known)
    return _ANSWERS[key]


def _known_sizes(context: Context, nodes: list[OnnxNode], inputs: list[str]) -> dict[str, Array]:
    """Constants that Resize wants to see when the model is made; everything else is probed as an input."""
    if not any(node.op == "Resize" for node in nodes):
        return {}
    return {name: context.initializers[name].array() for name in inputs if name in context.initializers}


def _signature(node: OnnxNode, numbers: dict[str, int]) -> object:
    attributes = tuple(sorted((name, str(value)) for name, value in node.attributes.items()))
    return (node.op, attributes, tuple(numbers[name] for name in node.inputs), len(node.outputs))


def _ask(nodes: list[OnnxNode], types: dict[str, tuple[DType, int]], known: dict[str, Array]) -> str | None:
    inputs = [
        helper.make_tensor_value_info(name, onnx_dtype(dtype), [None] * rank) for name, (dtype, rank) in types.items() if name not in known
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for node in nodes for name in node.outputs]
    constants = [numpy_helper.from_array(array, name) for name, array in known.items()]
    graph = helper.make_graph([node.proto() for node in nodes], "probe", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  # its errors have no common base but this; any of them is the answer
        return " ".join(str(error).split())[:300]
    return None
