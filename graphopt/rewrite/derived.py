"""Tensors that a pass computes from others, such as a convolution's weight with a batch norm folded in.

They are computed late. While a pipeline runs, `precise()` derives them again in float64 from float64
sources, so that a check at 1e-9 sees the algebra of a pass and not the rounding of its weights. At the
end `freeze()` computes the numbers once, rounds them to the declared dtype and forgets the sources.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from graphopt.ir.data import Data
from graphopt.ir.types import DType

if TYPE_CHECKING:
    import torch

__all__ = ["DerivedData", "LateData"]


class LateData(ABC):
    """Data (see `graphopt.ir.data`) that is computed when it is first asked for, from sources that it keeps until `freeze`."""

    __slots__ = ()

    @abstractmethod
    def tensor(self) -> torch.Tensor:
        """The numbers in the declared dtype."""

    @abstractmethod
    def precise(self) -> torch.Tensor:
        """The numbers in float64, derived from float64 sources as long as those are known."""

    @abstractmethod
    def freeze(self) -> None:
        """Compute the numbers in the declared dtype and forget the sources."""


class DerivedData(LateData):
    """Numbers computed from other numbers by a pure function of tensors.

    With `exact`, `tensor()` calls the function on the sources in their declared dtypes, which gives the
    bits that the model itself would have computed (constant folding). Otherwise it calls it on float64
    sources and rounds once, which is more accurate than the model (weight algebra).
    """

    __slots__ = ("_dtype", "_exact", "_function", "_result", "_sources")

    def __init__(self, function: Callable[..., torch.Tensor], sources: Sequence[Data], dtype: DType, *, exact: bool) -> None:
        self._function: Callable[..., torch.Tensor] | None = function
        self._sources = tuple(sources)
        self._dtype = dtype
        self._exact = exact
        self._result: torch.Tensor | None = None

    def tensor(self) -> torch.Tensor:
        """The numbers in the declared dtype; computed once."""
        import torch

        if self._result is None:
            assert self._function is not None, "frozen data has a result"
            dtype = getattr(torch, self._dtype.torch_name)
            with torch.no_grad():
                inputs = [source.tensor() if self._exact else source.precise() for source in self._sources]
                self._result = self._function(*inputs).to(dtype).contiguous()
        return self._result

    def precise(self) -> torch.Tensor:
        """The numbers in float64, derived from float64 sources as long as those are known."""
        import torch

        if self._function is None:
            tensor = self.tensor()
            return tensor.double() if tensor.is_floating_point() else tensor
        with torch.no_grad():
            precise = self._function(*[source.precise() for source in self._sources])
            if self._result is None and not self._exact:  # what freeze needs is at hand here
                self._result = precise.to(getattr(torch, self._dtype.torch_name)).contiguous()
            return precise

    def freeze(self) -> None:
        """Compute the numbers and forget function and sources."""
        self.tensor()
        self._function = None
        self._sources = ()
