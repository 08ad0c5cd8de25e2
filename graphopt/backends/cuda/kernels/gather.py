"""Elements at indices that are data.

    take      y = x along an axis at indices of any shape: embedding (axis 0), index_select
    gather    y = x at index along an axis, position by position

An index below 0 counts from the end. One that is still outside of the axis reads nothing and gives NaN (0 for integers): a kernel
raises no error, and the run must not wait for the device to look for one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cuda.chain import compute_dtype
from graphopt.backends.cuda.kernel import Code, Kernel, Launch, Unsupported
from graphopt.backends.cuda.kernels.blocks import function
from graphopt.backends.cuda.kernels.chain_code import check_dtypes
from graphopt.backends.cuda.kernels.flat import flat_blocks
from graphopt.backends.cuda.kernels.walks import joined, times
from graphopt.backends.cuda.storage import Storage
from graphopt.ir.types import DType

__all__ = ["Gather", "Take"]


class _Indexed(Kernel):
    """y = x at one index along `axis`; the other axes of x are axes of y."""

    x: Storage
    indices: Storage
    y: Storage
    axis: int

    def __post_init__(self) -> None:
        check_dtypes(self.x.dtype, self.y.dtype)
        if self.indices.dtype not in (DType.i32, DType.i64):
            raise Unsupported(f"indices are {self.indices.dtype.text}, needs i32 or i64")
        if not self._fits:
            raise Unsupported(f"{self.x.type_text} at {self.indices.type_text} along {self.axis} is not {self.y.type_text}")

    @property
    @abstractmethod
    def _fits(self) -> bool:
        """True when the shapes belong together."""

    @property
    @abstractmethod
    def _seen(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Strides of x and of the indices along the axes of y."""

    @property
    def reads(self) -> Sequence[Storage]:
        """x and the indices."""
        return (self.x, self.indices)

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def bytes(self) -> int:
        """Of x only as many elements as y has are read."""
        return self.y.elements * (self.x.dtype.bytes + self.y.dtype.bytes) + self.indices.bytes

    def describe(self) -> str:
        """What is read along which axis at how many indices."""
        return f"{self.algorithm} {self.x.type_text} along {self.axis} at {self.indices.type_text}"

    def emit(self, name: str) -> Code:
        """One kernel, one launch: blocks along y."""
        if not self.y.elements:
            return Code("", ())
        of_x, of_indices = self._seen
        shape, size = self.y.shape, self.x.shape[self.axis]
        seen = [Storage("", self.x.dtype, shape, of_x), Storage("", self.indices.dtype, shape, of_indices)]
        flat = flat_blocks([self.y, *seen])
        mask = flat.block.mask(0)
        outside = 'float("nan")' if compute_dtype(self.x.dtype).is_float else "0"
        pointer = joined("x", flat.block.offset(1), times("index", self.x.strides[self.axis]))
        lines = [
            *flat.lines,
            f"index = {flat.block.load('indices', 2, self.indices.dtype)}.to(tl.int64)",
            f"index = tl.where(index < 0, index + {size}, index)",
            f"is_there = (index >= 0) & (index < {size})",
            f"value = tl.load({pointer}, mask={f'{mask} & ' if mask else ''}is_there, other={outside})",
            flat.block.store("y", 0, "value"),
        ]
        arguments = [("x", self.x), ("indices", self.indices), ("y", self.y)]
        launch = Launch(name, (flat.programs,), (self.x, self.indices, self.y), warps=flat.warps)
        return Code(function(name, arguments, self.describe(), lines), (launch,))


@dataclass(frozen=True)
class Take(_Indexed):
    """y[i..., j..., k...] = x[i..., indices[j...], k...], i before `axis`, k behind it."""

    x: Storage
    indices: Storage
    y: Storage
    axis: int

    algorithm: ClassVar[str] = "take"

    @property
    def _fits(self) -> bool:
        return self.y.shape == (*self.x.shape[: self.axis], *self.indices.shape, *self.x.shape[self.axis + 1 :])

    @property
    def _seen(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        before, behind = self.x.strides[: self.axis], self.x.strides[self.axis + 1 :]
        of_indices = (*(0 for _ in before), *self.indices.strides, *(0 for _ in behind))
        return (*before, *(0 for _ in self.indices.strides), *behind), of_indices


@dataclass(frozen=True)
class Gather(_Indexed):
    """y[..., i, ...] = x[..., indices[..., i, ...], ...]: y has the shape of the indices."""

    x: Storage
    indices: Storage
    y: Storage
    axis: int

    algorithm: ClassVar[str] = "gather"

    @property
    def _fits(self) -> bool:
        others = [axis for axis in range(self.x.rank) if axis != self.axis]
        fits = self.x.rank == self.indices.rank > 0 and self.y.shape == self.indices.shape
        return fits and all(self.y.shape[axis] <= self.x.shape[axis] for axis in others)

    @property
    def _seen(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(0 if axis == self.axis else stride for axis, stride in enumerate(self.x.strides)), self.indices.strides
