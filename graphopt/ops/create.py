"""Ops that make tensors from attributes alone: family `create`.

%ones: f32[batch,16] = full() {dtype=f32, shape=(batch, 16), value=1.0}
"""

from __future__ import annotations

import math

from graphopt.ir.dims import Dim, Expression
from graphopt.ir.types import DType, TensorType
from graphopt.ops.axes.control import counting_axes, full_axes
from graphopt.ops.checks import require_count
from graphopt.ops.flops import zero
from graphopt.ops.kinds import DIM, DIMS, DTYPE, NUMBER, SCALAR
from graphopt.ops.registry import Call, OpDef, register

__all__: list[str] = []


def _full(call: Call) -> tuple[TensorType, ...]:
    shape = call.dims("shape")
    for axis, dim in enumerate(shape):
        require_count(call, f"axis {axis} of shape", dim)
    return (TensorType(call.dtype("dtype"), shape),)


def _arange(call: Call) -> tuple[TensorType, ...]:
    start, stop, step = (call.attrs[name] for name in ("start", "stop", "step"))
    if step == 0:
        raise call.fail("step is 0, needs another number")
    return (TensorType(call.dtype("dtype"), (_arange_length(call, start, stop, step),)),)


def _arange_length(call: Call, start: object, stop: object, step: object) -> Dim:
    if isinstance(start, int | float) and isinstance(stop, int | float) and isinstance(step, int | float):
        if (stop < start and step > 0) or (stop > start and step < 0):
            raise call.fail(f"goes from {start} to {stop} in steps of {step}, which never arrives")
        if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
            return -((start - stop) // step)
        if not all(math.isfinite(number) for number in (start, stop, step)):
            raise call.fail(f"goes from {start} to {stop} in steps of {step}, needs finite numbers")
        return math.ceil((stop - start) / step)
    if isinstance(start, int | Expression) and isinstance(stop, int | Expression) and isinstance(step, int):
        return -((start - stop) // step)
    raise call.fail("a symbolic start or stop needs an integer step, and no floats")


def _eye(call: Call) -> tuple[TensorType, ...]:
    shape = (call.dim("rows"), call.dim("columns"))
    require_count(call, "rows", shape[0])
    require_count(call, "columns", shape[1])
    return (TensorType(call.dtype("dtype"), shape),)


def _linspace(call: Call) -> tuple[TensorType, ...]:
    steps = call.dim("steps")
    require_count(call, "steps", steps)
    dtype = call.dtype("dtype")
    if dtype is DType.boolean:
        raise call.fail("dtype is bool, needs a number")
    return (TensorType(dtype, (steps,)),)


register(
    OpDef(
        "full",
        "create",
        (),
        _full,
        zero,
        "every element is value; also zeros, ones",
        kinds={"shape": DIMS, "value": SCALAR, "dtype": DTYPE},
        axes=full_axes,
    )
)
register(
    OpDef(
        "arange",
        "create",
        (),
        _arange,
        zero,
        "start, start + step, ... below stop",
        kinds={"start": NUMBER, "stop": NUMBER, "step": NUMBER, "dtype": DTYPE},
        axes=counting_axes,
    )
)
register(
    OpDef(
        "eye",
        "create",
        (),
        _eye,
        zero,
        "ones on the diagonal, zeros elsewhere",
        kinds={"rows": DIM, "columns": DIM, "dtype": DTYPE},
        axes=counting_axes,
    )
)
register(
    OpDef(
        "linspace",
        "create",
        (),
        _linspace,
        zero,
        "steps numbers from start to stop, both ends included",
        kinds={"start": NUMBER, "stop": NUMBER, "steps": DIM, "dtype": DTYPE},
        axes=counting_axes,
    )
)
