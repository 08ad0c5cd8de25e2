"""Pools.

torch's `ceil_mode` lets a last window hang over the end. Where sizes are known it becomes explicit padding
at the end, so that no two definitions of ceil_mode can differ.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.backends.onnxruntime.emit.conv import static_sizes
from graphopt.backends.onnxruntime.records import Array
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Node
from graphopt.ir.types import DType
from graphopt.ops import call_of

__all__ = ["EMITTERS", "pooling_matrix"]


class _Window:
    """Attributes of a pool, with what the last window hangs over each end."""

    def __init__(self, node: Node, spatial: int) -> None:
        self.kernel = static_sizes(node, "kernel")
        self.stride = static_sizes(node, "stride")
        self.padding = static_sizes(node, "padding")
        self.dilation = static_sizes(node, "dilation") if "dilation" in node.attrs else (1,) * spatial
        self.overhang = (0,) * spatial
        self.unbatched = node.value(0).type.rank == spatial + 1
        if node.attrs["ceil_mode"]:
            self.overhang = tuple(self._over(node, index, spatial) for index in range(spatial))

    def _over(self, node: Node, index: int, spatial: int) -> int:
        axis = node.result.type.rank - spatial + index
        size, count = node.value(0).shape[axis], node.result.shape[axis]
        if not (isinstance(size, int) and isinstance(count, int)):
            raise UnsupportedNodeError(f"ceil_mode on axis {axis} of symbolic size {size}")
        covered = (count - 1) * self.stride[index] + self.dilation[index] * (self.kernel[index] - 1) + 1
        return max(covered - size - 2 * self.padding[index], 0)

    def check_filled(self, node: Node) -> None:
        """Check that every window of a dilated pool holds an element: of none, torch's largest is -inf.

        Raises:
            UnsupportedNodeError: one lies in the padding alone.
        """
        spatial = len(self.kernel)
        for index in range(spatial):
            size, count = node.value(0).shape[index - spatial], node.result.shape[index - spatial]
            if self.dilation[index] == 1 or not (isinstance(size, int) and isinstance(count, int)):
                continue
            for start in range(-self.padding[index], count * self.stride[index] - self.padding[index], self.stride[index]):
                if all(not 0 <= start + self.dilation[index] * tap < size for tap in range(self.kernel[index])):
                    raise UnsupportedNodeError(f"max pool with a window that lies in the padding alone, on axis {index - spatial}")

    @property
    def pads(self) -> tuple[int, ...]:
        """Begins, then ends."""
        ends = (pad + over for pad, over in zip(self.padding, self.overhang, strict=True))
        return (*self.padding, *ends)


def _with_batch(context: Context, node: Node, unbatched: bool) -> str:
    x = context.read(node.operands[0])
    return context.unsqueeze(x, 0) if unbatched else x


def _max_pool(spatial: int) -> Emitter:
    def emit(context: Context, node: Node) -> str:
        window = _Window(node, spatial)
        window.check_filled(node)
        x = _with_batch(context, node, window.unbatched)

        def pooled(name: str) -> str:
            return context.add(
                "MaxPool", name, kernel_shape=window.kernel, strides=window.stride, pads=window.pads, dilations=window.dilation
            )

        result = _keep_nan(context, node, x, pooled(x), pooled) if context.strict_nan else pooled(x)
        return context.squeeze(result, 0) if window.unbatched else result

    return emit


def _keep_nan(context: Context, node: Node, x: str, found: str, pooled: Callable[[str], str]) -> str:
    """NaN where the window holds one; ONNX Runtime's MaxPool overlooks it."""
    dtype = context.target(node)
    flags = pooled(context.cast(context.add("IsNaN", x), DType.boolean, dtype))
    return context.add("Where", context.add("Greater", flags, context.scalar(0, dtype)), context.scalar(float("nan"), dtype), found)


def _avg_pool(spatial: int) -> Emitter:
    def emit(context: Context, node: Node) -> str:
        window = _Window(node, spatial)
        x = _with_batch(context, node, window.unbatched)
        divisor = node.attrs["divisor_override"]
        if divisor is not None and not isinstance(divisor, int):
            raise UnsupportedNodeError(f"divisor_override {divisor} is symbolic")
        counts_padding = bool(node.attrs["count_include_pad"])
        pads = window.pads
        if divisor is None and counts_padding and any(window.overhang):
            # Padding counts, what hangs over does not: pad first, so that the padding is part of the operand.
            front = (0, 0, *window.padding)
            if any(window.padding):
                x = context.add("Pad", x, context.integers((*front, *front)))
            pads, counts_padding = ((0,) * spatial + window.overhang), False
        counted = divisor is not None or counts_padding
        result = context.add("AveragePool", x, kernel_shape=window.kernel, strides=window.stride, pads=pads, count_include_pad=int(counted))
        if divisor is not None:
            scale = float(np.prod(window.kernel)) / divisor
            result = context.add("Mul", result, context.scalar(scale, context.target(node)))
        return context.squeeze(result, 0) if window.unbatched else result

    return emit


def pooling_matrix(size: int, count: int) -> Array:
    """[count, size]: row i averages elements floor(i size / count) to ceil((i + 1) size / count)."""
    matrix = np.zeros((count, size))
    for row in range(count):
        start, stop = row * size // count, -(-(row + 1) * size // count)
        matrix[row, start:stop] = 1.0 / (stop - start)
    return matrix


def _adaptive(kind: str, spatial: int) -> Emitter:
    def emit(context: Context, node: Node) -> str:
        operand = node.value(0)
        unbatched = operand.type.rank == spatial + 1
        sizes, counts = operand.shape[-spatial:], node.result.shape[-spatial:]
        x = _with_batch(context, node, unbatched)
        result = _adapted(context, node, x, kind, sizes, counts)
        return context.squeeze(result, 0) if unbatched else result

    return emit


def _adapted(context: Context, node: Node, x: str, kind: str, sizes: tuple[Dim, ...], counts: tuple[Dim, ...]) -> str:
    if sizes == counts:
        return x
    if all(count == 1 for count in counts):
        return context.add("GlobalAveragePool" if kind == "avg" else "GlobalMaxPool", x)
    pairs = [(size, count) for size, count in zip(sizes, counts, strict=True) if isinstance(size, int) and isinstance(count, int)]
    if len(pairs) != len(sizes):
        raise UnsupportedNodeError(f"adaptive pool of symbolic sizes {sizes} to {counts}")
    if all(count and size % count == 0 for size, count in pairs):
        kernel = tuple(size // count for size, count in pairs)
        return context.add("AveragePool" if kind == "avg" else "MaxPool", x, kernel_shape=kernel, strides=kernel)
    for index, (size, count) in enumerate(pairs):
        if size != count:
            axis = 2 + index
            x = _largest_of_axis(context, x, axis, size, count) if kind == "max" else _mean_of_axis(context, node, x, axis, size, count)
    return x


def _largest_of_axis(context: Context, x: str, axis: int, size: int, count: int) -> str:
    """Windows gathered into an axis of their own, short ones filled up with their last element."""
    starts = [(row * size // count, -(-(row + 1) * size // count)) for row in range(count)]
    longest = max(stop - start for start, stop in starts)
    positions = np.array([[min(start + offset, stop - 1) for offset in range(longest)] for start, stop in starts])
    windows = context.add("Gather", x, context.constant(positions, DType.i64), axis=axis)
    return context.add("ReduceMax", windows, context.integers([axis + 1]), keepdims=0)


def _mean_of_axis(context: Context, node: Node, x: str, axis: int, size: int, count: int) -> str:
    """An adaptive average is linear along its axis: a product with a constant matrix."""
    matrix, dtype = pooling_matrix(size, count), context.target(node)
    rank = 2 + len(call_of(node).dims("output_size"))
    if axis == rank - 1:
        return context.add("MatMul", x, context.constant(matrix.T, dtype))
    if axis == rank - 2:
        return context.add("MatMul", context.constant(matrix, dtype), x)
    order = [*(other for other in range(rank) if other != axis), axis]
    moved = context.add("MatMul", context.add("Transpose", x, perm=order), context.constant(matrix.T, dtype))
    return context.add("Transpose", moved, perm=[int(place) for place in np.argsort(order)])


_RANKS = (1, 2, 3)

EMITTERS: dict[str, Emitter] = {
    **{f"max_pool{rank}d": _max_pool(rank) for rank in _RANKS},
    **{f"avg_pool{rank}d": _avg_pool(rank) for rank in _RANKS},
    **{f"adaptive_{kind}_pool{rank}d": _adaptive(kind, rank) for kind in ("avg", "max") for rank in _RANKS},
}
