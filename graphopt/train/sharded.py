"""Parameters that are spread over processes, as `fully_shard` (FSDP) leaves them: which of their numbers are zero is one thing for all.

    whole(parameter)          the numbers of all processes, on each of them; a parameter that is not spread, itself
    spread_like(mask, p)      each process keeps the part of a mask that belongs to its part of the parameter

All processes have to call both at the same place, as they do with a step. Each then has the same mask, so that it can be ranked over the
whole weight, whatever part of it lies where.
"""

from __future__ import annotations

import torch

__all__ = ["spread_like", "whole"]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All numbers of a tensor, gathered where processes have parts of it."""
    if not _is_spread(tensor):
        return tensor
    from torch.distributed.tensor import DTensor

    assert isinstance(tensor, DTensor), "as was just seen"
    return tensor.full_tensor()


def spread_like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A tensor of the parameter's shape, which all processes have, on its device and spread as it is."""
    if not _is_spread(parameter) or _is_spread(tensor):
        return tensor.to(parameter.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor), "as was just seen"
    there = tensor.to(parameter.device)
    return distribute_tensor(there, parameter.device_mesh, parameter.placements, src_data_rank=None)  # no process sends anything


def _is_spread(tensor: torch.Tensor) -> bool:
    if type(tensor) in (torch.Tensor, torch.nn.Parameter) or not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
