"""Interpolation of images: nearest, nearest_exact, linear, cubic, with torch's positions and weights.

    y[h, w] = sum over i, j of row weight[h, i] * column weight[w, j] * x[row[h, i], column[w, j]]

Positions and weights are computed here in f32, as torch does, and packed as tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy
from numpy.typing import NDArray

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame, Strides, image_frame
from graphopt.backends.cpu.kernel import Code, Kernel, Packed, Pointers, ReadState
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, chain_fits, epilogue_code
from graphopt.backends.cpu.storage import LANES, Storage
from graphopt.ir.types import DType

__all__ = ["Resize", "resize_candidates", "taps"]

_TAPS = {"nearest": 1, "nearest_exact": 1, "linear": 2, "cubic": 4}
_F32 = numpy.float32


def taps(
    size: int, result: int, mode: str, *, align_corners: bool = False, scale: float | None = None
) -> tuple[NDArray[numpy.int32], NDArray[numpy.float32]]:
    """Positions and weights, [result, taps] each, of one axis of `size` elements resized to `result`.

    `scale` replaces the ratio of the sizes. Source: ATen/native/UpSample.h.
    """
    places = numpy.arange(result, dtype=_F32)
    if mode.startswith("nearest"):
        step = _F32(1.0 / scale) if scale is not None and scale > 0 else _F32(size) / _F32(result)
        exact = places + _F32(0.5) if mode == "nearest_exact" else places
        position = numpy.minimum(numpy.floor(exact * step).astype(numpy.int32), size - 1)
        return position[:, None], numpy.ones((result, 1), dtype=_F32)
    if align_corners:
        step = _F32(size - 1) / _F32(result - 1) if result > 1 else _F32(0)
        real = places * step
    else:
        step = _F32(1.0 / scale) if scale is not None and scale > 0 else _F32(size) / _F32(result)
        real = step * (places + _F32(0.5)) - _F32(0.5)
        real = real if mode == "cubic" else numpy.maximum(real, _F32(0))
    if mode == "cubic":
        first = numpy.floor(real).astype(numpy.int32)
        t = real - first.astype(_F32)
        position = numpy.clip(first[:, None] + numpy.arange(-1, 3, dtype=numpy.int32), 0, size - 1)
        return position.astype(numpy.int32), _cubic(t)
    if result == size and scale is None:
        real = places
    first = numpy.minimum(real.astype(numpy.int32), size - 1)
    share = numpy.clip(real - first.astype(_F32), _F32(0), _F32(1))
    position = numpy.stack([first, numpy.minimum(first + 1, size - 1)], axis=1)
    return position.astype(numpy.int32), numpy.stack([_F32(1) - share, share], axis=1).astype(_F32)


def _cubic(t: NDArray[numpy.float32]) -> NDArray[numpy.float32]:
    """Weights of four neighbours by the convolution kernel with a = -3/4 (Keys 1981)."""
    a = _F32(-0.75)

    def near(x: NDArray[numpy.float32]) -> NDArray[numpy.float32]:
        return ((a + _F32(2)) * x - (a + _F32(3))) * x * x + _F32(1)

    def far(x: NDArray[numpy.float32]) -> NDArray[numpy.float32]:
        return ((a * x - _F32(5) * a) * x + _F32(8) * a) * x - _F32(4) * a

    return numpy.stack([far(t + _F32(1)), near(t), near(_F32(1) - t), far(_F32(2) - t)], axis=1).astype(_F32)


@dataclass(frozen=True)
class Resize(Kernel):
    """y = x [N, C, (D,) (H,) W] interpolated to the size of y. `in_channels` puts 16 channels in a vector (4 axes, f32)."""

    x: Storage
    y: Storage
    mode: str
    align_corners: bool = False
    scales: tuple[float | None, ...] | None = None
    in_channels: bool = False
    chain: Chain = field(default_factory=Chain)

    algorithm: ClassVar[str] = "resize"
    headers: ClassVar[tuple[str, ...]] = ("resize.hpp", *CHAIN_HEADERS)

    def __post_init__(self) -> None:
        if self.mode not in _TAPS or (self.mode == "cubic" and self.x.rank != 4):
            raise ValueError(f"resize of {self.x.text}: no mode {self.mode}")
        fits = self.y.dtype is DType.f32 and self._strides(self.x) is not None and self._strides(self.y) is not None
        if self.in_channels and not (fits and chain_fits(self.chain, self._frame)):
            raise ValueError(f"{self.describe()}: channels do not lie side by side")
        if not self.in_channels and (self.chain or self.x.blocked_axis is not None or self.y.blocked_axis is not None):
            raise ValueError(f"{self.describe()}: planes take no chain and no blocked storage")
        if not self.in_channels and self.mode in ("linear", "cubic") and not self.y.dtype.is_float:
            raise ValueError(f"{self.describe()}: {self.y.dtype.text} can't be interpolated")

    @property
    def _frame(self) -> Frame:
        return image_frame(self.y.rank)

    def _strides(self, storage: Storage) -> Strides | None:
        found = self._frame.strides(storage) if storage.rank in (3, 4) else None
        return found if found is not None and found.lane == 1 else None

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chain reads."""
        return (self.x, *self.chain.operands)

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def flops(self) -> int:
        """A multiply-add for each neighbour."""
        return 2 * _TAPS[self.mode] ** (self.x.rank - 2) * self.y.elements

    def describe(self) -> str:
        """Mode and sizes."""
        sizes = ["x".join(map(str, storage.shape[2:])) for storage in (self.x, self.y)]
        return f"{self.mode} {sizes[0]} -> {sizes[1]} of {self.x.shape[1]} channels{self.chain.text}"

    def _axes(self) -> list[int | None]:
        """The axes that are depth, rows and columns; None where there is none."""
        axes = list(range(2, self.x.rank))
        return [*([None] * (3 - len(axes))), *axes]

    def _taps(self) -> list[tuple[int | None, int]]:
        """Axis and number of neighbours of depths, rows and columns; vectors of channels mix as many rows as columns."""
        counts = [1 if axis is None else _TAPS[self.mode] for axis in self._axes()]
        if self.in_channels:
            counts[1] = counts[2]
        return list(zip(self._axes(), counts, strict=True))

    @property
    def packed(self) -> Sequence[Packed]:
        """Offsets and weights of depths, rows and columns."""
        arrays: list[Packed] = []
        for name, (axis, count) in zip(("depth", "row", "column"), self._taps(), strict=True):
            shape = (1 if axis is None else self.y.shape[axis], count)
            arrays += [Packed(f"{name} offsets", "i32", shape), Packed(f"{name} weights", "f32", shape)]
        return arrays

    def pack(self, read: ReadState) -> Sequence[NDArray[numpy.int32] | NDArray[numpy.float32]]:
        """The tables; offsets are in elements of x, those of columns in planes in elements of a row."""
        arrays: list[NDArray[numpy.int32] | NDArray[numpy.float32]] = []
        for number, (axis, count) in enumerate(self._taps()):
            if axis is None:
                weights = numpy.zeros((1, count), dtype=_F32)
                weights[0, 0] = 1
                arrays += [numpy.zeros((1, count), dtype=numpy.int32), weights]
                continue
            scale = None if self.scales is None else self.scales[axis - 2]
            position, weights = taps(self.x.shape[axis], self.y.shape[axis], self.mode, align_corners=self.align_corners, scale=scale)
            if number == 2 and not self.in_channels:
                arrays += [numpy.ascontiguousarray(position.T), numpy.ascontiguousarray(weights.T)]
            else:
                arrays += [(position * self.x.strides[axis]).astype(numpy.int32), weights]
        return arrays

    @property
    def scratch(self) -> int:
        """A row of x, mixed of several."""
        return 0 if self.in_channels or _TAPS[self.mode] == 1 else (self.x.shape[-1] + LANES) * self.x.dtype.bytes // 4

    def emit(self, pointers: Pointers) -> Code:
        """A struct of sizes and a call."""
        tables = [
            f"Taps<{count}>{{{pointers.packed(2 * number)}, {pointers.packed(2 * number + 1)}}}"
            for number, (_, count) in enumerate(self._taps())
        ]
        y, x = pointers.write(self.y), pointers.read(self.x)
        if self.in_channels:
            return self._channels_code(pointers, y, x, tables)
        sizes = [1 if axis is None else self.y.shape[axis] for axis in self._axes()]
        counts = [count for _, count in self._taps()]
        steps = [0 if axis is None else self.y.strides[axis] for axis in self._axes()]
        lines = [
            "struct Shape {",
            f"  static constexpr long N = {self.y.shape[0]}, C = {self.y.shape[1]}, D = {sizes[0]}, H = {sizes[1]}, W = {sizes[2]};",
            f"  static constexpr long IN_W = {self.x.shape[-1]}, X_N = {self.x.strides[0]}, X_C = {self.x.strides[1]};",
            f"  static constexpr long X_W = {self.x.strides[-1]};",
            f"  static constexpr long Y_N = {self.y.strides[0]}, Y_C = {self.y.strides[1]};",
            f"  static constexpr long Y_D = {steps[0]}, Y_H = {steps[1]}, Y_W = {steps[2]};",
            f"  static constexpr int TAPS_D = {counts[0]}, TAPS_H = {counts[1]}, TAPS_W = {counts[2]};",
            "};",
        ]
        return Code("\n".join(lines), f"resize_planes<Shape>(worker, {y}, {x}, {', '.join(tables)});")

    def _channels_code(self, pointers: Pointers, y: str, x: str, tables: Sequence[str]) -> Code:
        frame = self._frame
        n, c, h, w = frame.sizes(self.y.shape)
        strides_x, strides_y = self._strides(self.x), self._strides(self.y)
        assert strides_x is not None and strides_y is not None, "checked when it was made"  # noqa: PT018
        padded = c % LANES == 0 or (self.x.blocked_axis is not None and self.y.blocked_axis is not None)
        declaration, made = epilogue_code(self.chain, frame, (n, c, h, w), pointers)
        lines = [
            "struct Shape {",
            f"  static constexpr int N = {n}, C = {c}, H = {h}, W = {w}, TAPS = {_TAPS[self.mode]};",
            f"  static constexpr Strides X = {strides_x.code}, Y = {strides_y.code};",
            f"  static constexpr bool WHOLE = {'true' if padded else 'false'};  // all vectors may be read and written whole",
            "};",
            declaration,
        ]
        return Code("\n".join(lines), f"resize_channels<Shape>(worker, {y}, {x}, {tables[1]}, {tables[2]}, {made});")


def resize_candidates(
    x: Storage,
    y: Storage,
    mode: str,
    align_corners: bool = False,
    scales: tuple[float | None, ...] | None = None,
    chain: Chain | None = None,
) -> list[Kernel]:
    """The kernels that can do it; none where layouts differ from what they know (then copy to another layout)."""
    found: list[Kernel] = []
    for in_channels in (True, False):
        try:
            found.append(Resize(x, y, mode, align_corners, scales, in_channels, chain or Chain()))
        except ValueError:
            continue
    return found[:1]
