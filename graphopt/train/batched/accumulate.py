"""The gradients of a large batch from small pieces of it.

    d/dw mean over rows of loss  =  sum over pieces of (rows of the piece / rows) d/dw loss(piece)

Equal up to the order of sums, also where the last piece is smaller. Only for losses that are means over rows, and
networks that treat rows apart: a batch norm in train mode does not, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from graphopt.errors import UsageError
from graphopt.train.batched.mixing import mixing_part

__all__ = ["accumulate_gradients", "row_count"]


def accumulate_gradients(
    module: nn.Module,
    loss: Callable[[Any, Any], torch.Tensor],
    inputs: Sequence[torch.Tensor],
    target: torch.Tensor | None,
    *,
    micro_batch: int,
) -> torch.Tensor:
    """Add the gradients of `loss(module(*inputs), target)` to the parameters, `micro_batch` rows at a time; returns the loss.

    Raises:
        UsageError: rows differ, there are none, or the module has batch norms that compute with the batch's own statistics.
    """
    rows = row_count(inputs, target)
    if micro_batch < 1:
        raise UsageError(f"micro_batch is {micro_batch}, needs at least 1")
    if micro_batch < rows:
        norm = mixing_part(module)
        if norm is not None:
            raise UsageError(
                f"'{norm}' is a batch norm with statistics of the batch it sees, whose gradients are other than those of pieces of it",
                fix="call module.eval() first, or give the whole batch at once",
            )
    total: torch.Tensor | None = None
    for start in range(0, rows, micro_batch):
        stop = min(start + micro_batch, rows)
        part = loss(module(*(given[start:stop] for given in inputs)), None if target is None else target[start:stop]) * (
            (stop - start) / rows
        )
        part.backward()
        total = part.detach() if total is None else total + part.detach()
    assert total is not None, "row_count found rows"
    return total


def row_count(inputs: Sequence[torch.Tensor], target: torch.Tensor | None) -> int:
    """The size of axis 0 that all have.

    Raises:
        UsageError: they differ or there are no rows, or the inputs are a tensor and no sequence of them.
    """
    if isinstance(inputs, torch.Tensor):  # its rows would be taken for arguments
        raise UsageError(f"inputs is a tensor of shape {list(inputs.shape)}, needs the module's arguments in a tuple", fix="inputs=(x,)")
    given = [*inputs, *([] if target is None else [target])]
    sizes = [int(tensor.shape[0]) if tensor.dim() else 0 for tensor in given]
    if not sizes or min(sizes) < 1 or min(sizes) != max(sizes):
        raise UsageError(f"inputs and targets have {sizes} rows, need one number of at least 1")
    return sizes[0]
