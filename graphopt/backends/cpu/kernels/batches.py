"""Batch axes of several operands as few numbers: axes that run together in all of them become one.

sizes (1, 12), strides of q (0, 64), of mask (0, 0)  ->  sizes (12,), strides (64,), (0,)
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["collapse_batch"]


def collapse_batch(sizes: Sequence[int], operands: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """(sizes, strides of each operand) without axes of size 1, neighbours merged; one axis of size 1 when none is left."""
    merged: list[int] = []
    strides: list[list[int]] = [[] for _ in operands]
    for axis, size in enumerate(sizes):
        if size == 1:
            continue
        steps = [operand[axis] for operand in operands]
        if merged and all(found[-1] == step * size for found, step in zip(strides, steps, strict=True)):
            merged[-1] *= size
            for found, step in zip(strides, steps, strict=True):
                found[-1] = step
        else:
            merged.append(size)
            for found, step in zip(strides, steps, strict=True):
                found.append(step)
    if not merged:
        return (1,), [(0,) for _ in operands]
    return tuple(merged), [tuple(found) for found in strides]
