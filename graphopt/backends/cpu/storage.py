"""Where the elements of a value lie.

    arena:b3 f32[1,64,56,56] lanes 1, block 3136x16, halo 1x1

A value is a view of a buffer: offset and strides, in elements. One axis may be *blocked*: its elements
lie side by side in groups of 16, so that element c is at `(c // 16) * block_stride + c % 16`. With
strides alone this tells all layouts that kernels work on:

| layout | strides of [N, C, H, W] | block |
|---|---|---|
| plain | C*H*W, H*W, W, 1 | |
| blocked (NCHWc16) | ..., 1, W*16, 16 | H*W*16 |
| channels last | H*W*C, 1, W*C, C | 16 |

A *halo* is a border of zeros around the last two axes that a kernel may read instead of testing for the
edge of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from graphopt.backends.planning.strides import row_major, split, stretches
from graphopt.errors import BackendError
from graphopt.ir.types import DType

__all__ = ["LANES", "Storage", "blocked", "channels_last", "plain"]

LANES = 16
"""Elements side by side in a blocked layout, on every machine."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A view of a buffer; see the module's text. `strides` of the blocked axis is 1 (between lanes)."""

    buffer: str
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    blocked_axis: int | None = None
    block_stride: int = 0
    halo: tuple[int, int] = (0, 0)

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def elements(self) -> int:
        """Number of elements of the value (not of the buffer)."""
        return prod(self.shape)

    @property
    def is_plain(self) -> bool:
        """True when the value is contiguous in its own order of axes, as torch lays it out."""
        if self.blocked_axis is not None:
            return False
        return all(size == 1 or stride == want for size, stride, want in zip(self.shape, self.strides, row_major(self.shape), strict=True))

    @property
    def extent(self) -> int:
        """Elements of buffer from `offset - halo` to the end that an allocation for this value alone needs."""
        last = self.offset
        for axis, (size, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            if axis == self.blocked_axis:
                last += (-(-size // LANES) - 1) * self.block_stride + LANES - 1
            else:
                last += (size - 1) * stride
        if self.halo != (0, 0):
            last += self.halo[0] * self.strides[-2] + self.halo[1] * self.strides[-1]
        return last + 1 if self.elements else 0

    def lanes(self, axis: int) -> int | None:
        """Distance of two groups of 16 along `axis`, or None when its elements do not lie side by side."""
        if axis == self.blocked_axis:
            return self.block_stride
        return LANES if self.blocked_axis is None and (self.strides[axis] == 1 or self.shape[axis] == 1) else None

    def moved(self, buffer: str, offset: int | None = None) -> Storage:
        """The same layout in another buffer."""
        return replace(self, buffer=buffer, offset=self.offset if offset is None else offset)

    # ---- views: another way to look at the same elements, or None where strides can't tell it ----

    def permute(self, axes: Sequence[int]) -> Storage:
        """Axis i of the view is axis axes[i] of this."""
        blocked_axis = None if self.blocked_axis is None else list(axes).index(self.blocked_axis)
        return replace(
            self,
            shape=tuple(self.shape[axis] for axis in axes),
            strides=tuple(self.strides[axis] for axis in axes),
            blocked_axis=blocked_axis,
            halo=self.halo if self.rank >= 2 and tuple(axes[-2:]) == (self.rank - 2, self.rank - 1) else (0, 0),
        )

    def slice(self, axis: int, start: int, stop: int, step: int = 1) -> Storage | None:
        """Every step-th element of start to stop."""
        size = max(0, -(-(stop - start) // step))
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        if axis == self.blocked_axis:
            if step != 1 or start % LANES:
                return None
            return replace(self, shape=shape, offset=self.offset + start // LANES * self.block_stride)
        strides = (*self.strides[:axis], self.strides[axis] * step, *self.strides[axis + 1 :])
        halo = (0, 0) if axis >= self.rank - 2 and (start, size) != (0, self.shape[axis]) else self.halo
        return replace(self, shape=shape, strides=strides, offset=self.offset + start * self.strides[axis], halo=halo)

    def select(self, axis: int, index: int) -> Storage | None:
        """One element along an axis, which goes."""
        if axis == self.blocked_axis:
            return None
        offset = self.offset + index * self.strides[axis]
        keep = [other for other in range(self.rank) if other != axis]
        blocked_axis = None if self.blocked_axis is None else keep.index(self.blocked_axis)
        return Storage(
            self.buffer,
            self.dtype,
            tuple(self.shape[k] for k in keep),
            tuple(self.strides[k] for k in keep),
            offset,
            blocked_axis,
            self.block_stride,
            self.halo if axis < self.rank - 2 else (0, 0),
        )

    def expand(self, shape: Sequence[int]) -> Storage | None:
        """Axes of size 1 repeated, new axes first."""
        new = len(shape) - self.rank
        sizes, steps = (1,) * new + self.shape, (0,) * new + self.strides
        strides = tuple(stride if have == want else 0 for have, want, stride in zip(sizes, shape, steps, strict=True))
        blocked_axis = None if self.blocked_axis is None else self.blocked_axis + new
        if blocked_axis is not None and sizes[blocked_axis] != shape[blocked_axis]:
            return None
        return replace(
            self,
            shape=tuple(shape),
            strides=strides,
            blocked_axis=blocked_axis,
            halo=self.halo if new + self.rank == len(shape) else (0, 0),
        )

    def reshape(self, shape: Sequence[int]) -> Storage | None:
        """The same elements in the same order under another shape; None when no strides do it."""
        if prod(shape) != self.elements:
            raise BackendError(f"can't view {list(self.shape)} as {list(shape)}: the numbers of elements differ")
        if self.elements == 0:
            return replace(self, shape=tuple(shape), strides=row_major(shape), blocked_axis=None, block_stride=0, halo=(0, 0))
        if self.blocked_axis is not None and self.shape[self.blocked_axis] == 1:
            return replace(self, blocked_axis=None, block_stride=0).reshape(shape)
        strides: list[int] = []
        blocked_axis: int | None = None
        for axes, into in stretches(self.shape, shape):
            if self.blocked_axis in axes:
                # the blocked axis stays as it is, next to axes of size 1
                wide = [axis for axis in into if shape[axis] != 1]
                if len(wide) != 1 or any(self.shape[axis] != 1 for axis in axes if axis != self.blocked_axis):
                    return None
                blocked_axis = wide[0]
                strides += [1] * len(into)
                continue
            parts = split([self.shape[axis] for axis in axes], [self.strides[axis] for axis in axes], [shape[axis] for axis in into])
            if parts is None:
                return None
            strides += parts
        same_image = (
            self.halo != (0, 0) and self.rank >= 2 and tuple(shape[-2:]) == self.shape[-2:] and tuple(strides[-2:]) == self.strides[-2:]
        )
        return replace(
            self,
            shape=tuple(shape),
            strides=tuple(strides),
            blocked_axis=blocked_axis,
            block_stride=self.block_stride if blocked_axis is not None else 0,
            halo=self.halo if same_image else (0, 0),
        )

    @property
    def text(self) -> str:
        """For people: buffer, type, and what is not plain about it."""
        body = f"{self.buffer}{f'+{self.offset}' if self.offset else ''} {self.dtype.text}[{','.join(map(str, self.shape))}]"
        if self.blocked_axis is not None:
            body += f" blocked({self.blocked_axis})"
        elif not self.is_plain:
            body += f" strides({','.join(map(str, self.strides))})"
        return body + (f" halo {self.halo[0]}x{self.halo[1]}" if self.halo != (0, 0) else "")

    def __str__(self) -> str:
        return self.text


def plain(buffer: str, dtype: DType, shape: Sequence[int], halo: tuple[int, int] = (0, 0)) -> Storage:
    """Row-major, with a halo around the last two axes where asked (planes for a first convolution)."""
    padded = list(shape)
    offset = 0
    if halo != (0, 0):
        padded[-2] += 2 * halo[0]
        padded[-1] += 2 * halo[1]
        offset = halo[0] * padded[-1] + halo[1]
    return Storage(buffer, dtype, tuple(shape), row_major(padded), offset, halo=halo)


def blocked(buffer: str, dtype: DType, shape: Sequence[int], halo: tuple[int, int] = (0, 0)) -> Storage:
    """[N, C, H, W] as [N, C / 16, H, W, 16] with a halo; channels are padded to full groups."""
    n, channels, height, width = shape
    row = (width + 2 * halo[1]) * LANES
    plane = (height + 2 * halo[0]) * row
    groups = -(-channels // LANES)
    offset = halo[0] * row + halo[1] * LANES
    return Storage(buffer, dtype, (n, channels, height, width), (groups * plane, 1, row, LANES), offset, 1, plane, halo)


def channels_last(buffer: str, dtype: DType, shape: Sequence[int], halo: tuple[int, int] = (0, 0)) -> Storage:
    """[N, C, H, W] as [N, H, W, C] with a halo."""
    n, channels, height, width = shape
    row = (width + 2 * halo[1]) * channels
    plane = (height + 2 * halo[0]) * row
    offset = halo[0] * row + halo[1] * channels
    return Storage(buffer, dtype, (n, channels, height, width), (plane, 1, row, channels), offset, None, 0, halo)
