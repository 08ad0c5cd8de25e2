"""Numbers as 0-dimensional tensors, for functions that take tensors only."""

from __future__ import annotations

from typing import Any

from graphopt.backends.reference.emitter import Emitter, Site
from graphopt.ir.dims import Expression
from graphopt.ir.graph import Operand, Value
from graphopt.ir.types import DType, TensorType

__all__ = ["literal_dtype", "tensor_operand", "tensor_operands"]


def literal_dtype(literal: Operand, other: TensorType | None) -> DType:
    """What `torch.result_type(other, literal)` is: a Python number adopts the tensor's type within its kind."""
    if isinstance(literal, bool):
        return other.dtype if other else DType.boolean
    if isinstance(literal, (int, Expression)):
        return DType.i64 if other is None or other.dtype is DType.boolean else other.dtype
    return other.dtype if other and other.dtype.kind in ("float", "complex") else DType.f32


def tensor_operand(emit: Emitter, site: Site, index: int, other: int | None = None) -> Any:
    """Operand `index`; a literal becomes a 0-dimensional tensor that promotes with operand `other` as the number would."""
    operand = site.node.operands[index]
    if operand is None or isinstance(operand, Value):
        return site[index]
    neighbour = site.node.operands[other] if other is not None and other < len(site.node.operands) else None
    dtype = literal_dtype(operand, neighbour.type if isinstance(neighbour, Value) else None)
    return emit.call("torch.full", (), site[index], dtype=emit.dtype(dtype), device=emit.device())


def tensor_operands(emit: Emitter, site: Site) -> tuple[Any, Any]:
    """Both operands of a binary op, each as a tensor."""
    return tensor_operand(emit, site, 0, 1), tensor_operand(emit, site, 1, 0)
