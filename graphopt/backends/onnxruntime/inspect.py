"""What a model refers to: refuses any file but the weights that we hold, and ops that are not standard."""

from __future__ import annotations

from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from graphopt.backends.onnxruntime.dtypes import from_onnx
from graphopt.backends.onnxruntime.model import WEIGHTS_LOCATION
from graphopt.errors import LoweringError
from graphopt.ir.artifact import ArtifactReader
from graphopt.ir.types import TensorType

__all__ = ["external_weights"]

_MOST_DEPTH = 32


def external_weights(model: ModelProto, reader: ArtifactReader, name: str) -> dict[str, tuple[int, TensorType]]:
    """Offset and type of each initializer that stands in the weights file.

    Raises:
        ArtifactError: a tensor refers to another file or elsewhere than at the top, sizes do not fit, or the
            model holds functions or ops of other domains.
    """
    if model.functions or model.training_info or any(opset.domain not in ("", "ai.onnx") for opset in model.opset_import):
        raise reader.error(name, "holds functions, training information or ops of other domains")
    found: dict[str, tuple[int, TensorType]] = {}
    for tensor in model.graph.initializer:
        if _is_external(tensor):
            found[tensor.name] = _place(tensor, reader, name)
    _refuse_others(model.graph, reader, name)
    return found


def _is_external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL or bool(tensor.external_data)


def _place(tensor: TensorProto, reader: ArtifactReader, name: str) -> tuple[int, TensorType]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if entries.get("location") != WEIGHTS_LOCATION or entries.keys() - {"location", "offset", "length"}:
        raise reader.error(name, f"'{tensor.name[:80]}' refers to {str(entries)[:200]}, allowed is {WEIGHTS_LOCATION} alone")
    try:
        type_ = TensorType(from_onnx(tensor.data_type), tuple(tensor.dims))
        offset, length = int(entries["offset"]), int(entries["length"])
    except (LoweringError, KeyError, ValueError) as error:
        raise reader.error(name, f"'{tensor.name[:80]}' is no proper external tensor: {error}") from None
    if any(size < 0 for size in tensor.dims) or type_.bytes != length or offset < 0:
        raise reader.error(name, f"'{tensor.name[:80]}' has the length {length} at {offset}, {type_.text} needs {type_.bytes}")
    return offset, type_


def _refuse_others(graph: GraphProto, reader: ArtifactReader, name: str) -> None:
    pending: list[tuple[GraphProto, int]] = [(graph, 0)]
    while pending:
        current, depth = pending.pop()
        if depth > _MOST_DEPTH:
            raise reader.error(name, f"graphs are nested deeper than {_MOST_DEPTH}")
        tensors = [tensor for sparse in current.sparse_initializer for tensor in (sparse.values, sparse.indices)]
        tensors += current.initializer if depth else []
        for node in current.node:
            if node.domain not in ("", "ai.onnx"):
                raise reader.error(name, f"holds the op {node.op_type[:80]} of the domain {node.domain[:80]!r}")
            for attribute in node.attribute:
                tensors += _tensors(attribute)
                pending += [(inner, depth + 1) for inner in (attribute.g, *attribute.graphs) if inner.node or inner.initializer]
        for tensor in tensors:
            if _is_external(tensor):
                raise reader.error(name, f"'{tensor.name[:80]}' inside a node or branch refers to a file")


def _tensors(attribute: AttributeProto) -> list[TensorProto]:
    sparse = [tensor for item in (attribute.sparse_tensor, *attribute.sparse_tensors) for tensor in (item.values, item.indices)]
    return [attribute.t, *attribute.tensors, *sparse]
