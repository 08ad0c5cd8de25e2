"""Checks that many type rules share; each failure names the op, its operands, and both sides."""

from __future__ import annotations

from graphopt.ir.dims import Dim, Expression
from graphopt.ir.types import DType, TensorType
from graphopt.ops.registry import Call

__all__ = [
    "axis_of",
    "known_different",
    "require_count",
    "require_dtype",
    "require_float",
    "require_rank",
    "require_same_dtype",
    "require_shape",
    "unique_axes",
]


def axis_of(call: Call, name: str, rank: int) -> int:
    """Attribute `name` as an axis of a tensor with `rank` axes; a tensor without axes accepts axis 0, as in torch.

    Raises:
        TypeInferenceError: there is no such axis.
    """
    axis = call.integer(name)
    if not 0 <= axis < max(rank, 1):
        raise call.fail(f"{name} is {axis}, the operand has {rank} axes", fix=f"use 0 to {max(rank, 1) - 1}")
    return axis


def unique_axes(call: Call, name: str, rank: int) -> tuple[int, ...]:
    """Attribute `name` as axes of a tensor with `rank` axes, each at most once.

    Raises:
        TypeInferenceError: an axis does not exist or is named twice.
    """
    axes = call.integers(name)
    if len(set(axes)) != len(axes):
        raise call.fail(f"{name} is {axes}, an axis is named twice")
    for axis in axes:
        if not 0 <= axis < max(rank, 1):
            raise call.fail(f"{name} is {axes}, the operand has {rank} axes", fix=f"use 0 to {max(rank, 1) - 1}")
    return axes


def require_rank(call: Call, index: int, *ranks: int) -> TensorType:
    """Operand `index`, which has to be a tensor of one of these ranks.

    Raises:
        TypeInferenceError: it has another number of axes.
    """
    found = call.type(index)
    if found.rank not in ranks:
        raise call.fail(f"operand {index} has {found.rank} axes, needs {' or '.join(map(str, ranks))}")
    return found


def require_float(call: Call, index: int = 0) -> TensorType:
    """Operand `index`, which has to be floating point (or complex).

    Raises:
        TypeInferenceError: it holds integers or booleans.
    """
    found = call.type(index)
    if found.dtype.kind not in ("float", "complex"):
        raise call.fail(f"operand {index} is {found.dtype.text}, needs floating point", fix="cast it first")
    return found


def require_dtype(call: Call, index: int, *dtypes: DType) -> TensorType:
    """Operand `index`, which has to have one of these dtypes.

    Raises:
        TypeInferenceError: it has another one.
    """
    found = call.type(index)
    if found.dtype not in dtypes:
        raise call.fail(f"operand {index} is {found.dtype.text}, needs {' or '.join(dtype.text for dtype in dtypes)}")
    return found


def require_same_dtype(call: Call) -> DType:
    """The dtype of all tensor operands.

    Raises:
        TypeInferenceError: two of them differ.
    """
    types = call.tensor_types()
    for found in types:
        if found.dtype is not types[0].dtype:
            raise call.fail(f"dtypes differ: {types[0].dtype.text} and {found.dtype.text}", fix="cast one operand")
    return types[0].dtype


def known_different(left: Dim, right: Dim) -> bool:
    """True when two dimensions differ for all (positive) sizes of their symbols, as far as we can tell.

    `4` and `5` do, `b` and `b + 1` do, `3*b` and `4*b` do; `b` and `4` may turn out equal.
    """
    if left == right:
        return False
    if isinstance(left - right, int):
        return True
    return (
        isinstance(left, Expression)
        and isinstance(right, Expression)
        and len(left.terms) == len(right.terms) == 1
        and left.terms[0][0] == right.terms[0][0]
    )


def require_shape(call: Call, index: int, shape: tuple[Dim, ...], meaning: str) -> None:
    """Check an optional operand's shape.

    Raises:
        TypeInferenceError: it is present and has another shape.
    """
    found = call.optional_type(index)
    if found is None:
        return
    if found.rank != len(shape) or any(known_different(a, b) for a, b in zip(found.shape, shape, strict=True)):
        wanted = ",".join(str(dim) for dim in shape)
        raise call.fail(f"operand {index} has the shape [{','.join(str(dim) for dim in found.shape)}], needs [{wanted}] ({meaning})")


def require_count(call: Call, meaning: str, dim: Dim, *, minimum: int = 0) -> None:
    """Check a size that is known.

    Raises:
        TypeInferenceError: it is an integer below `minimum`.
    """
    if isinstance(dim, int) and dim < minimum:
        raise call.fail(f"{meaning} is {dim}, needs at least {minimum}")
