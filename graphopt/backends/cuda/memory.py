"""Tensors that are views of buffers, as emitted code says them."""

from __future__ import annotations

import torch

__all__ = ["at", "laid_out", "part", "view"]


def at(buffer: torch.Tensor, offset: int) -> torch.Tensor:
    """A tensor whose data pointer is element `offset` of the buffer's memory, for a kernel's argument."""
    if not buffer.untyped_storage().nbytes():
        return buffer  # nothing is there, and nothing is read
    return torch.as_strided(buffer, (1,), (1,), buffer.storage_offset() + offset)


def view(buffer: torch.Tensor, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> torch.Tensor:
    """A strided view of a buffer, counted in elements from the buffer's beginning."""
    return torch.as_strided(buffer, shape, strides, buffer.storage_offset() + offset)


def laid_out(tensor: torch.Tensor, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> torch.Tensor:
    """The result of a library call with the dtype and the strides that the plan says: itself, or a copy where the library chose others.

    A tensor whose storage is longer than the plan's view of it (a result that is itself a view of more) is copied too.
    """
    wanted = getattr(torch, dtype)
    same = all(size == 1 or have == want for size, have, want in zip(shape, tensor.stride(), strides, strict=True))
    if tensor.dtype is wanted and same and tuple(tensor.shape) == shape:
        return tensor
    made = torch.empty_strided(shape, strides, dtype=wanted, device=tensor.device)
    return made.copy_(tensor)


def part(arena: torch.Tensor, offset: int, dtype: torch.dtype, elements: int) -> torch.Tensor:
    """A flat tensor inside an arena of bytes, at a byte offset."""
    return arena[offset : offset + elements * dtype.itemsize].view(dtype)
