"""Sizes of sliding windows: convolutions and pools, with floor division on symbolic dimensions."""

from __future__ import annotations

from graphopt.ir.dims import Dim, min_dim
from graphopt.ir.types import TensorType
from graphopt.ops.registry import Call

__all__ = ["SPATIAL_NAMES", "check_window", "convolved", "spatial_type", "transposed", "window_count"]

SPATIAL_NAMES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
"""What messages call the spatial axes of 1, 2 and 3 dimensional ops."""


def spatial_type(call: Call, spatial: int) -> TensorType:
    """Operand 0 with `spatial` last axes behind channels, and maybe a batch axis before them.

    Raises:
        TypeInferenceError: another number of axes.
    """
    found = call.type(0)
    if found.rank not in (spatial + 1, spatial + 2):
        raise call.fail(
            f"operand 0 has {found.rank} axes, needs {spatial + 2} (batch, channels, {', '.join(SPATIAL_NAMES[spatial])}) or {spatial + 1}"
        )
    return found


def check_window(call: Call, axis: int, size: Dim, covered: Dim, padded: Dim) -> None:
    """Check that one window fits into the padded axis, where sizes are known.

    Raises:
        TypeInferenceError: the window is larger.
    """
    rest = padded - covered
    if isinstance(rest, int) and rest < 0:
        raise call.fail(f"the window covers {covered} on axis {axis}, the operand has {size}, with padding {padded}")


def convolved(call: Call, axis: int, size: Dim, kernel: Dim, stride: Dim, padding: Dim, dilation: Dim) -> Dim:
    """Number of windows, rounded down: `(size + 2 padding - dilation (kernel - 1) - 1) // stride + 1`."""
    covered = dilation * (kernel - 1) + 1
    padded = size + 2 * padding
    check_window(call, axis, size, covered, padded)
    return (padded - covered) // stride + 1


def window_count(call: Call, axis: int, size: Dim, kernel: Dim, stride: Dim, padding: Dim, dilation: Dim, *, ceil: bool) -> Dim:
    """Number of windows of a pool. With `ceil` a last window may reach over the end, as long as it starts
    inside the operand or its left padding.

    Raises:
        TypeInferenceError: no window fits.
    """
    if not ceil:
        return convolved(call, axis, size, kernel, stride, padding, dilation)
    covered = dilation * (kernel - 1) + 1
    count = (size + 2 * padding - covered + stride - 1) // stride + 1
    if isinstance(count, int) and count < 1:
        raise call.fail(f"the window covers {covered} on axis {axis}, the operand has {size}, with padding {size + 2 * padding}")
    reach = padding + stride - covered
    if isinstance(reach, int) and reach <= 0:
        return count  # the last window always starts inside
    return min_dim(count, (size + padding + stride - 1) // stride)


def transposed(call: Call, axis: int, size: Dim, kernel: Dim, stride: int, padding: int, output_padding: int, dilation: int) -> Dim:
    """Size that a convolution would have shrunk to `size`.

    Raises:
        TypeInferenceError: it is not positive, or output_padding is not smaller than stride or dilation.
    """
    if output_padding >= max(stride, dilation):
        raise call.fail(f"output_padding is {output_padding} on axis {axis}, needs less than stride {stride} or dilation {dilation}")
    result = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    if isinstance(result, int) and result < 1:
        raise call.fail(f"axis {axis} would get the size {result}")
    return result
