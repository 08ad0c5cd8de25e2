"""Control flow: `cond` is an If whose branches read what they need from outside, as ONNX branches do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import GraphProto, helper

from graphopt.backends.onnxruntime.context import Context, Emitter, RegionContext, UnsupportedNodeError
from graphopt.backends.onnxruntime.dtypes import onnx_dtype
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import DType

__all__ = ["cond_emitter"]


def cond_emitter(emit_node: Callable[[Context, Node], None]) -> Emitter:
    """The emitter of `cond`; `emit_node` writes the nodes of its regions."""

    def emit(context: Context, node: Node) -> Sequence[str]:
        predicate = context.read(node.operands[0], DType.boolean)
        if node.value(0).type.rank:
            predicate = context.add("Reshape", predicate, context.integers([]))
        names = []
        for operand in node.operands[1:]:
            if not isinstance(operand, Value):
                raise UnsupportedNodeError("cond hands a number to its regions")
            names.append(context.name(operand))
        then, otherwise = (_branch(context, emit_node, region, names) for region in node.regions)
        return context.add_many("If", (predicate,), len(node.results), then_branch=then, else_branch=otherwise)

    return emit


def _branch(context: Context, emit_node: Callable[[Context, Node], None], region: Graph, names: Sequence[str]) -> GraphProto:
    inner = RegionContext(context, region)
    for value, name in zip(region.inputs, names, strict=True):
        inner.bind(value, name)
    for node in region.nodes:
        emit_node(inner, node)
    outputs = []
    for output in region.outputs:
        assert isinstance(output, Value), "regions return tensors"
        name = inner.add("Identity", inner.name(output))  # a branch may not return what is defined outside
        outputs.append(helper.make_tensor_value_info(name, onnx_dtype(output.type.dtype), None))
    return helper.make_graph([made.proto() for made in inner.nodes], context.namer.name(region.name), [], outputs)
