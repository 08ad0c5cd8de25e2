"""What rides on which kernels of the CUDA backend."""

from __future__ import annotations

from graphopt.backends.cuda.chain import Argument, Constant, Operation, TheValue
from graphopt.backends.cuda.kernel import TRITON_TYPES, Unsupported
from graphopt.backends.cuda.kernels.expressions import expression
from graphopt.backends.cuda.storage import contiguous
from graphopt.backends.planning.dtypes import computed_dtype
from graphopt.backends.planning.groups import Group, Rules, form_groups
from graphopt.backends.planning.shapes import Shapes
from graphopt.ir.dims import Expression
from graphopt.ir.graph import Node, Operand, Value
from graphopt.ir.types import DType
from graphopt.ops.families import ELEMENTWISE

__all__ = ["ANCHORS", "groups_of", "is_elementwise", "is_inference_norm", "number_of", "operation_of"]

ANCHORS = frozenset(
    {
        "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "matmul",
        "scaled_dot_product_attention", "softmax", "log_softmax", "layer_norm", "rms_norm", "group_norm", "instance_norm",
        "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
        "sum", "mean", "prod", "amax", "amin", "var", "std", "vector_norm", "logsumexp",
    }
)  # fmt: skip
"""Ops whose steps take a chain; elementwise nodes begin a group of their own."""


def number_of(operand: Operand, shapes: Shapes) -> bool | int | float:
    """A literal operand as a number; a symbolic dimension has its size."""
    return shapes.dim(operand) if isinstance(operand, Expression) else operand if isinstance(operand, (bool, int, float)) else 0


def operation_of(node: Node, arguments: tuple[Argument, ...]) -> Operation:
    """An elementwise node as an operation of a chain."""
    return Operation(node.op, arguments, computed_dtype(node), node.results[0].type.dtype, tuple(sorted(node.attrs.items())))


def is_elementwise(node: Node) -> bool:
    """True for a node that has an expression in Triton, with the dtypes that it has."""
    if node.op not in ELEMENTWISE or len(node.results) != 1:
        return False
    values = [operand for operand in node.operands if isinstance(operand, Value)]
    if not values or any(value.type.dtype.text not in TRITON_TYPES for value in (*values, *node.results)):
        return False
    if any(operand is None for operand in node.operands):
        return False
    arguments: list[Argument] = [
        TheValue() if isinstance(operand, Value) else Constant(operand if isinstance(operand, (bool, int, float)) else 1)
        for operand in node.operands
    ]
    texts = [("x", operand.type.dtype) if isinstance(operand, Value) else Constant(1) for operand in node.operands]
    for place, argument in enumerate(arguments):
        if isinstance(argument, Constant):
            texts[place] = argument
    try:
        expression(operation_of(node, tuple(arguments)), texts)
    except Unsupported:
        return False
    return True


def is_inference_norm(node: Node) -> bool:
    """True for a batch norm with stored statistics, which is a multiplication and an addition for each channel."""
    if node.op != "batch_norm" or node.attrs["mode"] == "train" or node.results[0].type.dtype is not DType.f32 or node.graph is None:
        return False
    numbers = node.operands[1:5]
    known = all(operand is None or (isinstance(operand, Value) and node.graph.state_of(operand) is not None) for operand in numbers)
    return known and len(numbers) == 4 and None not in numbers[2:]


def groups_of(nodes: list[Node], shapes: Shapes) -> list[Group]:
    """The groups in order of execution, by what the GPU's kernels can do."""

    def rides(node: Node) -> bool:
        return is_elementwise(node) or is_inference_norm(node)

    return form_groups(
        nodes,
        shapes,
        Rules(
            rides=rides,
            carries=lambda node: node.op in ANCHORS or rides(node),
            hands_on=lambda value: value.type.dtype.is_float or value.type.dtype is DType.boolean,
            contiguous=lambda shape: contiguous("seen", DType.f32, shape),
        ),
    )
