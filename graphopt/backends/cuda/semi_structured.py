"""Weights of which at most two in any four consecutive inputs are not zero, as sparse tensor cores read them.

[K, C]  ->  values [K, C / 2], the two that are kept of each four; metadata i16[K, C / 16], two bits for the place of each

The layout is that of CUTLASS, which `torch.sparse.SparseSemiStructuredTensorCUTLASS` uses, and packing is torch's own: it runs on
CPU tensors too, unlike that class.
"""

from __future__ import annotations

import torch
from torch.sparse._semi_structured_conversions import (  # no public name packs without a GPU
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from graphopt.backends.cuda.device import has_device

__all__ = ["COLUMNS", "ROWS", "is_two_of_four", "multiplies_2_4", "pack", "unpack"]

ROWS, COLUMNS = 32, 64
"""Multiples that a weight's shape has to be of, for 16-bit floats."""


def multiplies_2_4(device: str) -> bool:
    """True where torch's CUTLASS kernels run: on GPUs of compute capability 8.x, and unpacked on a CPU. True also without a GPU, where
    plans are made to be read."""
    return device == "cpu" or not has_device() or torch.cuda.get_device_capability()[0] == 8


def is_two_of_four(weight: torch.Tensor) -> bool:
    """True where the numbers themselves keep to the pattern, along axis 1."""
    return bool(((weight.reshape(len(weight), -1, 4) != 0).sum(-1) <= 2).all())


def pack(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """`values` in the weight's dtype, and `metadata`. Only zeros are left out where `is_two_of_four`.

    The places depend on which numbers are zero, so a weight is packed in the dtype in which it is multiplied.
    """
    values, metadata = sparse_semi_structured_from_dense_cutlass(weight.contiguous())
    return {"values": values, "metadata": metadata}


def unpack(values: torch.Tensor, metadata: torch.Tensor) -> torch.Tensor:
    """The dense weight [K, C]."""
    return sparse_semi_structured_to_dense_cutlass(values, metadata)
