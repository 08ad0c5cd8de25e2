"""Axis rules of pools and of ops on images: batch and channels stay, what a window slides over is fixed."""

from __future__ import annotations

import math
from collections.abc import Iterator

from graphopt.ops.axes.links import AxisLink, Choice, Fix, Place, Product, Tie, operand, result
from graphopt.ops.registry import Call

__all__ = ["col2im_axes", "grid_sample_axes", "im2col_axes", "pool_axes", "resize_axes"]


def pool_axes(call: Call, spatial: int, results: int = 1) -> Iterator[AxisLink]:
    """A window slides over the last axes."""
    return _spatial(call, spatial, "slides a window over it", results)


def resize_axes(call: Call) -> Iterator[AxisLink]:
    """All axes behind the channels get other sizes."""
    return _spatial(call, call.type(0).rank - 2, "resamples it", 1)


def _spatial(call: Call, spatial: int, reason: str, results: int) -> Iterator[AxisLink]:
    rank = call.type(0).rank
    for axis in range(rank):
        if axis >= rank - spatial:
            yield Fix(operand(0, axis), reason)
        for index in range(results):
            yield Fix(result(axis, index), reason) if axis >= rank - spatial else Tie(operand(0, axis), result(axis, index))


def grid_sample_axes(call: Call) -> Iterator[AxisLink]:
    """Batch and channels stay."""
    yield from (Tie(operand(0, 0), result(0)), Tie(operand(0, 1), result(1)), Tie(operand(1, 0), result(0)))
    for axis in range(2, call.type(0).rank):
        yield from (Fix(operand(0, axis), "samples it"), Fix(result(axis), "samples it"), Fix(operand(1, axis - 1), "takes it as places"))


def im2col_axes(call: Call) -> Iterator[AxisLink]:
    """A channel becomes as many rows as the kernel has elements."""
    rank = call.type(0).rank
    if rank == 4:
        yield Tie(operand(0, 0), result(0))
    for axis in (rank - 2, rank - 1):
        yield Fix(operand(0, axis), "slides a window over it")
    yield Fix(result(rank - 2), "slides a window over it")
    yield from _rows(call, operand(0, rank - 3), result(rank - 3), call.type(0).shape[rank - 3])


def col2im_axes(call: Call) -> Iterator[AxisLink]:
    """As many rows as the kernel has elements become a channel."""
    rank = call.type(0).rank
    if rank == 3:
        yield Tie(operand(0, 0), result(0))
    yield Fix(operand(0, rank - 1), "slides a window over it")
    for axis in (rank - 1, rank):
        yield Fix(result(axis), "slides a window over it")
    rows, area = call.type(0).shape[rank - 2], math.prod(call.integers("kernel"))
    yield from _rows(call, result(rank - 2), operand(0, rank - 2), rows // area if isinstance(rows, int) else 0)


def _rows(call: Call, channels: Place, rows: Place, count: object) -> Iterator[AxisLink]:
    area = math.prod(call.integers("kernel"))
    if isinstance(count, int) and count > 0:
        yield Choice(((Product((count, area), ((channels, (0,)), (rows, (0, 1))), 0),),))
