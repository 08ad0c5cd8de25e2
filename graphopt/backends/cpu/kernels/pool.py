"""Pools (`window_pool.hpp`, `global_pool.hpp`): windows of any kind, adaptive windows, and whole images.

Read x in any layout with 16 channels side by side; its halo is not needed and never read.

Numeric class: maxima are exact, NaN where one is NaN. Means are the sum over kh, kw in this order, divided at the end.
Global means add up 8 partial sums over the pixels in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Code, Kernel, Pointers
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, chain_operands, epilogue_code
from graphopt.backends.cpu.kernels.layers import NO_CHAIN
from graphopt.backends.cpu.kernels.shape_code import Value, shape_code
from graphopt.backends.cpu.kernels.tilings import is_long
from graphopt.backends.cpu.kernels.windows import Window, bands, even_tile, is_padded, known_strides
from graphopt.backends.cpu.storage import LANES, Storage

__all__ = ["AdaptivePool", "GlobalPool", "WindowPool", "adaptive_candidates", "global_candidates", "pool_candidates"]

COLUMNS = 14
"""Of a tile: results in registers."""


class _Pool(Kernel):
    """What all pools share."""

    x: Storage
    y: Storage
    chain: Chain

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chain reads."""
        return (self.x, *chain_operands(self.chain))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)


def _strides(x: Storage, y: Storage, frame: Frame, y_frame: Frame) -> dict[str, Value | tuple[Value, str]]:
    return {
        "X": (known_strides(x, frame), "n, group of 16 channels, row, column"),
        "X_PADDED": (is_padded(x), "the last group of channels is whole in memory"),
        "Y": known_strides(y, y_frame),
        "Y_PADDED": is_padded(y),
    }


def _pixels(frame: Frame, storage: Storage) -> str:
    n, c, h, w = frame.sizes(storage.shape)
    return f"{c} @{f'{n}x' if n != 1 else ''}{h}x{w}"


@dataclass(frozen=True)
class WindowPool(_Pool):
    """y = chain(largest or mean of each window). `frame` holds for x and y.

    Of a mean, padding counts as zeros where `counts_padding` is set; `divisor` replaces the number of elements.
    """

    x: Storage
    y: Storage
    window: Window
    frame: Frame
    maximum: bool
    band: int
    counts_padding: bool = True
    divisor: int | None = None
    chain: Chain = NO_CHAIN

    algorithm: ClassVar[str] = "pool"
    headers: ClassVar[tuple[str, ...]] = ("window_pool.hpp", *CHAIN_HEADERS)

    @property
    def flops(self) -> int:
        """One per element of each window."""
        return self.y.elements * self.window.elements

    def describe(self) -> str:
        """`max 3x3 stride 2 64 @56x56 + relu`."""
        kernel, stride = self.window.kernel, self.window.stride
        body = f"{'max' if self.maximum else 'mean'} {kernel[0]}x{kernel[1]}"
        if stride != (1, 1):
            body += f" stride {stride[0] if stride[0] == stride[1] else f'{stride[0]}x{stride[1]}'}"
        return f"{body} {_pixels(self.frame, self.y)}{self.chain.text}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `window_pool`."""
        inputs, outputs = self.frame.sizes(self.x.shape), self.frame.sizes(self.y.shape)
        shape = shape_code(
            {
                "IMAGES": outputs[0],
                "CHANNELS": outputs[1],
                **self.window.constants(inputs[2:], outputs[2:]),
                "MAXIMUM": (self.maximum, "else the mean"),
                "COUNTS_PADDING": self.counts_padding,
                "DIVISOR": (self.divisor or 0, "0: as many as there are"),
                **_strides(self.x, self.y, self.frame, self.frame),
                "TILE": (even_tile(outputs[3], COLUMNS), "columns of a row that are made at a time"),
                "BAND": (self.band, "rows before the next 16 channels"),
                "BUFFERED": is_long(self.chain),
            }
        )
        epilogue, made = epilogue_code(self.chain, self.frame, outputs, pointers)
        return Code(f"{shape}{epilogue}", f"window_pool<S>(worker, {pointers.read(self.x)}, {pointers.write(self.y)}, {made});")


@dataclass(frozen=True)
class AdaptivePool(_Pool):
    """y = chain(largest or mean of the pieces that x is cut into). `frame` holds for x and y."""

    x: Storage
    y: Storage
    frame: Frame
    maximum: bool
    chain: Chain = NO_CHAIN

    algorithm: ClassVar[str] = "pool"
    headers: ClassVar[tuple[str, ...]] = ("window_pool.hpp", *CHAIN_HEADERS)

    @property
    def flops(self) -> int:
        """About one per element."""
        return self.x.elements

    def describe(self) -> str:
        """`adaptive mean 64 @7x7`."""
        return f"adaptive {'max' if self.maximum else 'mean'} {_pixels(self.frame, self.y)}{self.chain.text}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `adaptive_pool`."""
        inputs, outputs = self.frame.sizes(self.x.shape), self.frame.sizes(self.y.shape)
        shape = shape_code(
            {
                "IMAGES": outputs[0],
                "CHANNELS": outputs[1],
                "IN_HEIGHT": inputs[2],
                "IN_WIDTH": inputs[3],
                "OUT_HEIGHT": outputs[2],
                "OUT_WIDTH": outputs[3],
                "MAXIMUM": (self.maximum, "else the mean"),
                **_strides(self.x, self.y, self.frame, self.frame),
                "TILE": 1,
                "BAND": 1,
            }
        )
        epilogue, made = epilogue_code(self.chain, self.frame, outputs, pointers)
        return Code(f"{shape}{epilogue}", f"adaptive_pool<S>(worker, {pointers.read(self.x)}, {pointers.write(self.y)}, {made});")


@dataclass(frozen=True)
class GlobalPool(_Pool):
    """y[n, c] = chain(largest, mean or sum of all pixels). `frame` is of x, `y_frame` of y, whose h and w have size 1.

    The chain is of y. `divisor` is what the sum is divided by; None: the number of pixels.
    """

    x: Storage
    y: Storage
    frame: Frame
    y_frame: Frame
    maximum: bool
    divisor: int | None = None
    chain: Chain = NO_CHAIN

    algorithm: ClassVar[str] = "global"
    headers: ClassVar[tuple[str, ...]] = ("global_pool.hpp", *CHAIN_HEADERS)

    @property
    def flops(self) -> int:
        """One per element."""
        return self.x.elements

    def describe(self) -> str:
        """`mean of 1280 @7x7`."""
        what = "max" if self.maximum else "sum" if self.divisor == 1 else "mean"
        return f"{what} of {_pixels(self.frame, self.x)}{self.chain.text}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `global_pool`."""
        n, channels, height, width = self.frame.sizes(self.x.shape)
        x = self.frame.strides(self.x)
        neighbours = x is not None and x.block == LANES and channels > LANES
        shape = shape_code(
            {
                "IMAGES": n,
                "CHANNELS": channels,
                "HEIGHT": height,
                "WIDTH": width,
                "MAXIMUM": self.maximum,
                "DIVISOR": height * width if self.divisor is None else self.divisor,
                **_strides(self.x, self.y, self.frame, self.y_frame),
                "VECTORS": (4 if neighbours else 1, "groups of channels at a time"),
            }
        )
        epilogue, made = epilogue_code(self.chain, self.y_frame, self.y_frame.sizes(self.y.shape), pointers)
        return Code(f"{shape}{epilogue}", f"global_pool<S>(worker, {pointers.read(self.x)}, {pointers.write(self.y)}, {made});")


def _readable(x: Storage, y: Storage, frame: Frame, y_frame: Frame) -> bool:
    found, made = frame.strides(x), y_frame.strides(y)
    return found is not None and found.lane == 1 and made is not None and made.lane == 1


def pool_candidates(
    x: Storage,
    y: Storage,
    window: Window,
    frame: Frame,
    maximum: bool,
    counts_padding: bool = True,
    divisor: int | None = None,
    chain: Chain = NO_CHAIN,
) -> list[Kernel]:
    """Kernels worth measuring for max_pool and avg_pool, best guess first; none where strides can't tell."""
    found = frame.strides(x)
    if found is None or not _readable(x, y, frame, frame):
        return []
    inputs, outputs = frame.sizes(x.shape), frame.sizes(y.shape)
    if window.kernel == inputs[2:] and window.padding == (0, 0) and outputs[2:] == (1, 1):
        return global_candidates(x, y, frame, frame, maximum, divisor, chain)
    choices = bands(found, inputs[2] * inputs[3], inputs[1], outputs[2])
    return [WindowPool(x, y, window, frame, maximum, band, counts_padding, divisor, chain) for band in choices]


def adaptive_candidates(x: Storage, y: Storage, frame: Frame, maximum: bool, chain: Chain = NO_CHAIN) -> list[Kernel]:
    """Kernels for adaptive_avg_pool and adaptive_max_pool: plain windows where the sizes divide."""
    if not _readable(x, y, frame, frame):
        return []
    inputs, outputs = frame.sizes(x.shape)[2:], frame.sizes(y.shape)[2:]
    if outputs == (1, 1):
        return global_candidates(x, y, frame, frame, maximum, None, chain)
    if all(size % count == 0 for size, count in zip(inputs, outputs, strict=True)):
        size = (inputs[0] // outputs[0], inputs[1] // outputs[1])
        return pool_candidates(x, y, Window(size, size), frame, maximum, chain=chain)
    return [AdaptivePool(x, y, frame, maximum, chain)]


def global_candidates(
    x: Storage, y: Storage, frame: Frame, y_frame: Frame, maximum: bool, divisor: int | None = None, chain: Chain = NO_CHAIN
) -> list[Kernel]:
    """Kernels for the mean (divisor None), sum (divisor 1) or maximum over h and w of `frame`, which y has no more."""
    return [GlobalPool(x, y, frame, y_frame, maximum, divisor, chain)] if _readable(x, y, frame, y_frame) else []
