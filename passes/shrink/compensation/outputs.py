"""How far the outputs of two graphs are apart on held-out samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.passes.shrink.compensation.held_out import first_held, holds_batches

__all__ = ["output_error"]


def output_error(wanted: Sequence[Sequence[torch.Tensor]], found: Sequence[Sequence[torch.Tensor]]) -> float:
    """|found - wanted| / |wanted| over all batches, the root mean over floating-point outputs of its square.

    The samples (axis 0) that were held out count; all of them, where too few batches of one sample leave none to hold out.
    Infinite where a number is not finite.
    """
    errors: dict[int, float] = {}
    sizes: dict[int, float] = {}
    for batch, (old, new) in enumerate(zip(wanted, found, strict=True)):
        for index, (left, right) in enumerate(zip(old, new, strict=True)):
            if not left.is_floating_point() or left.shape != right.shape:
                continue
            if left.dim() and (left.shape[0] > 1 or holds_batches(len(wanted))):
                first = first_held(left.shape[0], batch, len(wanted))
                left, right = left[first:], right[first:]
            left = left.to(torch.float64)
            errors[index] = errors.get(index, 0.0) + float((right.to(torch.float64) - left).square().sum())
            sizes[index] = sizes.get(index, 0.0) + float(left.square().sum())
    relative = [error / sizes[index] if sizes[index] > 0 else error for index, error in errors.items()]
    mean = sum(relative) / max(len(relative), 1)
    return mean**0.5 if mean == mean else float("inf")
