"""Where the numbers of a parameter, buffer or constant are.

The IR never looks inside: a `State` holds a `Data`, and whoever needs numbers calls `tensor()`. So a
graph can be cloned, printed and rewritten without touching, copying or even loading the weights.
Kinds of data: a tensor in memory (`TensorData`), a tensor in a file (`graphopt.ir.store`), a tensor that
a pass derives from others (`graphopt.rewrite.derived`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

__all__ = ["Data", "TensorData"]


@runtime_checkable
class Data(Protocol):
    """Numbers of one state."""

    def tensor(self) -> torch.Tensor:
        """The tensor in its declared dtype. Shared, not copied: never write to it."""
        ...

    def precise(self) -> torch.Tensor:
        """The tensor as the float64 world sees it: floating-point data is converted to float64, and data
        that was derived from other data is derived again in float64, without rounding in between."""
        ...


class TensorData:
    """A tensor in memory, shared with whoever made it."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def tensor(self) -> torch.Tensor:
        """The tensor itself."""
        return self._tensor

    def precise(self) -> torch.Tensor:
        """The tensor in float64 when it is floating point, else itself."""
        return self._tensor.double() if self._tensor.is_floating_point() else self._tensor
