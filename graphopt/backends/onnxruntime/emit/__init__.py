"""Every canonical op as ONNX nodes, one file per family.

emit_node(context, node)     appends the node, or raises UnsupportedNodeError and leaves the context as it was

ONNX Runtime has few kernels for narrow dtypes. A node that it would refuse is written again with casts
around it, first in f32 and i32, then in i64; what still has no kernel is UnsupportedNodeError.
"""

from __future__ import annotations

from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.backends.onnxruntime.dtypes import onnx_dtype, widened
from graphopt.backends.onnxruntime.emit import (
    attention,
    binary,
    conv,
    create,
    dropout,
    gather,
    image,
    matmul,
    norm,
    pool,
    recurrent,
    reduce,
    shape,
    unary,
)
from graphopt.backends.onnxruntime.emit.control import cond_emitter
from graphopt.backends.onnxruntime.emit.opaque import OPAQUE
from graphopt.backends.onnxruntime.probe import missing_kernel
from graphopt.errors import LoweringError
from graphopt.ir.graph import Node, operand_values
from graphopt.ir.types import DType

__all__ = ["EMITTERS", "emit_node"]

_FAMILIES = (unary, binary, create, shape, gather, reduce, conv, pool, matmul, norm, dropout, attention, image, recurrent)


def emit_node(context: Context, node: Node) -> None:
    """Append a node and bind its results.

    Raises:
        UnsupportedNodeError: ONNX or ONNX Runtime has no form of it; the message says why.
    """
    emitter = EMITTERS.get(node.op) or OPAQUE.get(node.op)
    if emitter is None:
        raise UnsupportedNodeError(f"{node.op} has no form in ONNX")
    dtypes = {value.type.dtype for value in (*operand_values(node), *node.results)}
    _check_dtypes(dtypes)
    reason: str | None = None
    for level in _levels(dtypes):
        mark = context.mark()
        try:
            _emit_at(context, node, emitter, level)
            reason = missing_kernel(context, mark[0])
        except UnsupportedNodeError:
            context.roll_back(mark)
            raise
        if reason is None:
            return
        context.roll_back(mark)
    raise UnsupportedNodeError(f"{node.op}: {reason}")


def _check_dtypes(dtypes: set[DType]) -> None:
    for dtype in dtypes:
        try:
            onnx_dtype(dtype)
        except LoweringError as error:
            raise UnsupportedNodeError(error.what) from None


def _levels(dtypes: set[DType]) -> list[int]:
    """Levels of widening that differ from the ones before."""
    levels: list[int] = []
    seen: list[dict[DType, DType]] = []
    for level in (0, 1, 2):
        effect = {dtype: widened(dtype, level) for dtype in dtypes}
        if effect not in seen:
            seen.append(effect)
            levels.append(level)
    return levels


def _emit_at(context: Context, node: Node, emitter: Emitter, level: int) -> None:
    context.begin(node, level)
    made = emitter(context, node)
    names = (made,) if isinstance(made, str) else tuple(made)
    assert len(names) == len(node.results), f"{node.op} made {len(names)} results, needs {len(node.results)}"
    for index, (value, name) in enumerate(zip(node.results, names, strict=True)):
        if name:
            context.bind(value, context.cast(name, context.target(node, index), value.type.dtype))


EMITTERS: dict[str, Emitter] = {op: emitter for family in _FAMILIES for op, emitter in family.EMITTERS.items()}
"""Emitters by canonical op; every op of the table has one."""

EMITTERS["cond"] = cond_emitter(emit_node)
