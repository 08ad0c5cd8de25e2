"""Matrix products. A linear layer is one Gemm on 2-d operands, else MatMul and Add with the weight transposed at build time."""

from __future__ import annotations

from graphopt.backends.onnxruntime.context import Context, Emitter
from graphopt.ir.graph import Node, Value
from graphopt.ops import call_of

__all__ = ["EMITTERS"]


def _linear(context: Context, node: Node) -> str:
    x, weight, bias = node.value(0), node.value(1), node.operands[2]
    dtype = context.target(node)
    if x.type.rank == 2 and weight.type.rank == 2 and dtype.is_float:
        return context.add("Gemm", context.read(x), context.read(weight), context.read(bias), transB=1)
    product = context.add("MatMul", context.read(x), _transposed(context, weight))
    return product if bias is None else context.add("Add", product, context.read(bias))


def _transposed(context: Context, weight: Value) -> str:
    if weight.type.rank < 2:
        return context.read(weight)
    if context.graph.state_of(weight) is not None and all(_wants_transposed(user, weight) for user in weight.users):
        return context.cast(context.state(weight, permutation=(1, 0)), weight.type.dtype, context.dtype(weight))
    return context.add("Transpose", context.read(weight), perm=(1, 0))


def _wants_transposed(user: Node, weight: Value) -> bool:
    """A weight that is read the other way round too, such as that of a tied embedding, is kept once as it is."""
    return user.op == "linear" and user.operands[1] is weight and user.value(0).type.rank != 2


def _matmul(context: Context, node: Node) -> str:
    dtype = context.target(node)
    return context.add("MatMul", context.read(node.operands[0], dtype), context.read(node.operands[1], dtype))


def _einsum(context: Context, node: Node) -> str:
    equation = call_of(node).text("equation").replace(" ", "")
    dtype = context.target(node)
    return context.add("Einsum", *(context.read(operand, dtype) for operand in node.operands), equation=equation)


EMITTERS: dict[str, Emitter] = {"linear": _linear, "matmul": _matmul, "einsum": _einsum}
