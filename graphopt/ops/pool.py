"""Pools: family `pool`.

    %y: f32[batch,64,56,56] = max_pool2d(%x) {ceil_mode=false, dilation=(1, 1), kernel=(3, 3), padding=(1, 1), stride=(2, 2)}

Operands are channels-first, with or without a batch axis.
"""

from __future__ import annotations

import math

from graphopt.ir.dims import Dim, product
from graphopt.ir.types import TensorType
from graphopt.ops.axes.windows import pool_axes
from graphopt.ops.checks import require_count, require_float
from graphopt.ops.kinds import BOOL, DIM, Kind, dims, ints, optional
from graphopt.ops.registry import Call, OpDef, register
from graphopt.ops.windows import spatial_type, window_count

__all__: list[str] = []


def _pool(call: Call, spatial: int) -> tuple[TensorType, ...]:
    found = spatial_type(call, spatial)
    kernel, stride, padding = call.dims("kernel"), call.dims("stride"), call.dims("padding")
    dilation = call.dims("dilation") if "dilation" in call.attrs else (1,) * spatial
    if call.op.startswith("avg"):
        require_float(call)
        if call.attrs["divisor_override"] == 0:
            raise call.fail("divisor_override is 0, needs another number or none")
    sizes: list[Dim] = []
    for i, axis in enumerate(range(found.rank - spatial, found.rank)):
        for name, number in (("kernel", kernel[i]), ("stride", stride[i]), ("dilation", dilation[i])):
            require_count(call, name, number, minimum=1)
        half = kernel[i] // 2 if isinstance(kernel[i], int) else None
        if isinstance(padding[i], int) and half is not None and not 0 <= padding[i] <= half:  # pyright: ignore[reportOperatorIssue]
            raise call.fail(f"padding is {padding[i]} on axis {axis}, needs 0 to {half}, half of the kernel {kernel[i]}")
        extent, window = found.shape[axis], kernel[i]
        if call.op == "avg_pool3d" and isinstance(extent, int) and isinstance(window, int) and extent < window:
            raise call.fail(f"the kernel is {window} on axis {axis}, the operand has only {extent}; here padding does not count")
        sizes.append(
            window_count(call, axis, found.shape[axis], kernel[i], stride[i], padding[i], dilation[i], ceil=bool(call.attrs["ceil_mode"]))
        )
    return (found.with_shape((*found.shape[:-spatial], *sizes)),)


def _adaptive(call: Call, spatial: int) -> tuple[TensorType, ...]:
    found, sizes = spatial_type(call, spatial), call.dims("output_size")
    require_float(call)
    for size in sizes:
        require_count(call, "output_size", size)
    for axis in range(found.rank - spatial, found.rank):
        if found.shape[axis] == 0:
            raise call.fail(f"axis {axis} has the size 0, needs at least 1")
    return (found.with_shape((*found.shape[:-spatial], *sizes)),)


def _pool_flops(call: Call, results: tuple[TensorType, ...]) -> Dim:
    """One per element of each window, padding among them."""
    return results[0].elements * product(call.dims("kernel"))


def _adaptive_flops(call: Call, results: tuple[TensorType, ...]) -> Dim:
    """One per element of each window. Window i goes from floor(i s / c) to ceil((i + 1) s / c); neighbours share
    an element where that is not whole, so all c windows together hold s + c - gcd(s, c). With symbolic sizes
    each operand element counts once, which is exact where c divides s."""
    found, result = call.type(0), results[0]
    spatial = len(call.dims("output_size"))
    total = product(found.shape[:-spatial])
    for size, count in zip(found.shape[-spatial:], result.shape[-spatial:], strict=True):
        if isinstance(size, int) and isinstance(count, int):
            total = total * (size + count - math.gcd(size, count))
        else:
            total = total * size
    return total


def _register(spatial: int) -> None:
    sizes = dims(spatial)
    window: dict[str, Kind] = {"kernel": sizes, "stride": sizes, "padding": sizes}

    def add(name: str, summary: str, kinds: dict[str, Kind]) -> None:
        register(
            OpDef(
                f"{name}_pool{spatial}d",
                "pool",
                ("x",),
                lambda call: _pool(call, spatial),
                _pool_flops,
                summary,
                kinds=kinds,
                axes=lambda call: pool_axes(call, spatial),
            )
        )

    def add_adaptive(name: str, summary: str) -> None:
        kinds = {"output_size": sizes}
        register(
            OpDef(
                f"adaptive_{name}_pool{spatial}d",
                "pool",
                ("x",),
                lambda call: _adaptive(call, spatial),
                _adaptive_flops,
                summary,
                kinds=kinds,
                axes=lambda call: pool_axes(call, spatial),
            )
        )

    add("max", "the largest of each window; padding counts as -inf", {**window, "dilation": ints(spatial), "ceil_mode": BOOL})
    add("avg", "the mean of each window", {**window, "ceil_mode": BOOL, "count_include_pad": BOOL, "divisor_override": optional(DIM)})
    add_adaptive("avg", "the mean of windows that cut the operand into output_size pieces")
    add_adaptive("max", "the largest of windows that cut the operand into output_size pieces")


for _spatial in (1, 2, 3):
    _register(_spatial)
