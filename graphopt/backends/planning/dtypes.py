"""The dtype in which an elementwise node computes, by the rules of `torch.result_type`.

f32[3] + i64[3]  ->  f32        lt(i32[3], 0.5)  ->  compared as f32, the result is bool
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.dims import Expression
from graphopt.ir.graph import Node, Value
from graphopt.ir.types import DType
from graphopt.ops.families import COMPARISONS
from graphopt.ops.promotion import promote

__all__ = ["KEEPS_OPERAND", "common_dtype", "computed_dtype"]

KEEPS_OPERAND = frozenset({"cast", "isnan", "isinf", "logical_not"})
"""Ops that look at their operand in its own dtype."""
_LOGICAL = frozenset({"logical_and", "logical_or", "logical_xor"})


def common_dtype(operands: Sequence[object]) -> DType:
    """The dtype in which IR operands (values and numbers) meet, by the rules of `torch.result_type`."""
    found: list[DType | None] = [None, None, None]  # tensors with axes, without axes, numbers
    for operand in operands:
        match operand:
            case Value():
                place, dtype = (0 if operand.type.rank else 1), operand.type.dtype
            case bool():
                place, dtype = 2, DType.boolean
            case int() | Expression():
                place, dtype = 2, DType.i64
            case float():
                place, dtype = 2, DType.f32
            case _:
                continue
        before = found[place]
        found[place] = dtype if before is None else promote(before, dtype)
    result: DType | None = None
    for dtype in reversed(found):
        result = _raised(dtype, result)
    assert result is not None, "there is an operand"
    return result


_CATEGORY = {"bool": 0, "int": 1, "float": 2, "complex": 3}


def _raised(higher: DType | None, lower: DType | None) -> DType | None:
    if higher is None or lower is None:
        return higher or lower
    return lower if _CATEGORY[lower.kind] > _CATEGORY[higher.kind] else higher


def computed_dtype(node: Node) -> DType:
    """The dtype in which an elementwise node of the IR computes: what its operands are converted to."""
    if node.op in COMPARISONS:
        return common_dtype(node.operands)
    if node.op in _LOGICAL:
        return DType.boolean
    if node.op in KEEPS_OPERAND:
        operand = node.operands[0]
        assert isinstance(operand, Value), f"{node.op} has a tensor operand"
        return operand.type.dtype
    return node.results[0].type.dtype
