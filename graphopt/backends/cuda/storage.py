"""Where the elements of a value lie.

    b3 f16[1,64,56,56] channels last

A value is a strided view of a buffer: element (i, j, ...) is at `offset + i * strides[0] + j * strides[1] + ...`, all
counted in elements. With strides alone this tells contiguous (NCHW) and channels-last (NHWC) images, slices,
transposes and broadcasts (stride 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from graphopt.backends.planning.strides import row_major, split, stretches
from graphopt.errors import BackendError
from graphopt.ir.types import DType

__all__ = ["Storage", "channels_last", "contiguous", "dense_in_order"]


@dataclass(frozen=True, slots=True)
class Storage:
    """A strided view of a buffer; `dtype` is that of the buffer, all counts are elements."""

    buffer: str
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def elements(self) -> int:
        """Number of elements of the value (not of the buffer)."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size of the value."""
        return self.elements * self.dtype.bytes

    @property
    def is_contiguous(self) -> bool:
        """True when the elements follow each other in the order of the axes."""
        return self._follows(range(self.rank))

    @property
    def is_channels_last(self) -> bool:
        """True when the elements follow each other with axis 1 innermost, and not in the order of the axes."""
        return self.rank >= 3 and not self.is_contiguous and self._follows((0, *range(2, self.rank), 1))

    @property
    def is_dense(self) -> bool:
        """True when the elements fill a stretch of memory without gaps or repetition, in whatever order of axes."""
        return self._follows(self.order)

    @property
    def order(self) -> tuple[int, ...]:
        """The axes from the outermost (largest stride) to the innermost."""
        return tuple(sorted(range(self.rank), key=lambda axis: (-self.strides[axis], -self.shape[axis], axis)))

    @property
    def extent(self) -> int:
        """Elements of buffer from its beginning that a view with strides of at least 0 needs."""
        if not self.elements:
            return 0
        return self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)) + 1

    def _follows(self, order: Sequence[int]) -> bool:
        wanted = row_major([self.shape[axis] for axis in order])
        return self.elements == 0 or all(
            self.shape[axis] == 1 or self.strides[axis] == want for axis, want in zip(order, wanted, strict=True)
        )

    def moved(self, buffer: str, offset: int | None = None) -> Storage:
        """The same strides in another buffer."""
        return replace(self, buffer=buffer, offset=self.offset if offset is None else offset)

    # ---- views: another way to look at the same elements, or None where strides can't tell it ----

    def permute(self, axes: Sequence[int]) -> Storage:
        """Axis i of the view is axis axes[i] of this."""
        return replace(self, shape=tuple(self.shape[axis] for axis in axes), strides=tuple(self.strides[axis] for axis in axes))

    def slice(self, axis: int, start: int, stop: int, step: int = 1) -> Storage:
        """Every step-th element of start to stop."""
        size = max(0, -(-(stop - start) // step))
        return replace(
            self,
            shape=(*self.shape[:axis], size, *self.shape[axis + 1 :]),
            strides=(*self.strides[:axis], self.strides[axis] * step, *self.strides[axis + 1 :]),
            offset=self.offset + (start * self.strides[axis] if size else 0),
        )

    def select(self, axis: int, index: int) -> Storage:
        """One element along an axis, which goes."""
        return replace(
            self,
            shape=(*self.shape[:axis], *self.shape[axis + 1 :]),
            strides=(*self.strides[:axis], *self.strides[axis + 1 :]),
            offset=self.offset + index * self.strides[axis],
        )

    def expand(self, shape: Sequence[int]) -> Storage:
        """Axes of size 1 repeated with stride 0, new axes first.

        Raises:
            BackendError: this does not broadcast to `shape`.
        """
        new = len(shape) - self.rank
        sizes, steps = (1,) * new + self.shape, (0,) * new + self.strides
        if new < 0 or any(have not in (1, want) for have, want in zip(sizes, shape, strict=True)):
            raise BackendError(f"{self.text} does not broadcast to {list(shape)}")
        strides = tuple(stride if have == want else 0 for have, want, stride in zip(sizes, shape, steps, strict=True))
        return replace(self, shape=tuple(shape), strides=strides)

    def reshape(self, shape: Sequence[int]) -> Storage | None:
        """The same elements in the same order under another shape; None when no strides do it.

        Raises:
            BackendError: the numbers of elements differ.
        """
        if prod(shape) != self.elements:
            raise BackendError(f"can't view {list(self.shape)} as {list(shape)}: the numbers of elements differ")
        if self.elements == 0:
            return replace(self, shape=tuple(shape), strides=row_major(shape))
        strides: list[int] = []
        for axes, into in stretches(self.shape, shape):
            parts = split([self.shape[axis] for axis in axes], [self.strides[axis] for axis in axes], [shape[axis] for axis in into])
            if parts is None:
                return None
            strides += parts
        return replace(self, shape=tuple(shape), strides=tuple(strides))

    @property
    def layout(self) -> str:
        """`contiguous`, `channels last`, or the strides."""
        if self.is_contiguous:
            return "contiguous"
        return "channels last" if self.is_channels_last else f"strides({','.join(map(str, self.strides))})"

    @property
    def type_text(self) -> str:
        """Type and layout, without the buffer; contiguous goes without saying."""
        body = f"{self.dtype.text}[{','.join(map(str, self.shape))}]"
        return body if self.is_contiguous else f"{body} {self.layout}"

    @property
    def text(self) -> str:
        """For people: buffer, type, and what is not contiguous about it."""
        return f"{self.buffer}{f'+{self.offset}' if self.offset else ''} {self.type_text}"

    def __str__(self) -> str:
        return self.text


def contiguous(buffer: str, dtype: DType, shape: Sequence[int]) -> Storage:
    """Elements in the order of the axes."""
    return Storage(buffer, dtype, tuple(shape), row_major(shape))


def dense_in_order(buffer: str, dtype: DType, shape: Sequence[int], order: Sequence[int]) -> Storage:
    """Elements without gaps, axes from the outermost to the innermost as `order` says."""
    steps = row_major([shape[axis] for axis in order])
    strides = [0] * len(shape)
    for axis, step in zip(order, steps, strict=True):
        strides[axis] = step
    return Storage(buffer, dtype, tuple(shape), tuple(strides))


def channels_last(buffer: str, dtype: DType, shape: Sequence[int]) -> Storage:
    """[N, C, ...] with axis 1 innermost: NHWC, as torch.channels_last lays it out."""
    return dense_in_order(buffer, dtype, shape, (0, *range(2, len(shape)), 1))
