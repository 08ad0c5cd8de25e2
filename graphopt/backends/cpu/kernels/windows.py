"""Constants of a sliding window, as `window.hpp` wants them, and how rows of results are cut."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.cpu.frame import Frame, Strides
from graphopt.backends.cpu.kernels.shape_code import Value
from graphopt.backends.cpu.storage import LANES, Storage

__all__ = ["Window", "bands", "even_tile", "is_padded", "known_strides"]

L2_FLOATS = 192 * 1024
"""Floats of an input that stay in the second cache level next to results: 3/4 of 1 MB."""


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window over an image: pairs (h, w)."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def elements(self) -> int:
        """Pixels of one window."""
        return self.kernel[0] * self.kernel[1]

    @property
    def rows(self) -> int:
        """Rows of the input from the first of a window to the last."""
        return (self.kernel[0] - 1) * self.dilation[0] + 1

    def constants(self, inputs: tuple[int, int], outputs: tuple[int, int]) -> dict[str, Value | tuple[Value, str]]:
        """For images of so many (rows, columns)."""
        return {
            "IN_HEIGHT": inputs[0],
            "IN_WIDTH": inputs[1],
            "OUT_HEIGHT": outputs[0],
            "OUT_WIDTH": outputs[1],
            "KERNEL_H": self.kernel[0],
            "KERNEL_W": self.kernel[1],
            "STRIDE_H": self.stride[0],
            "STRIDE_W": self.stride[1],
            "DILATION_H": self.dilation[0],
            "DILATION_W": self.dilation[1],
            "PADDING_H": self.padding[0],
            "PADDING_W": self.padding[1],
        }


def known_strides(storage: Storage, frame: Frame) -> Strides:
    """Strides of an operand with 16 channels side by side, which whoever made the kernel has seen to."""
    found = frame.strides(storage)
    assert found is not None, f"strides can't tell {storage.text}"
    return found


def even_tile(total: int, most: int) -> int:
    """Size of equal tiles of at most `most` that cover `total`."""
    return -(-total // -(-total // most))


def is_padded(storage: Storage) -> bool:
    """True when all 16 channels of the last group lie in memory."""
    return storage.blocked_axis is not None


def bands(x: Strides, pixels: int, channels: int, rows: int) -> list[int]:
    """How many rows of results to make before the next 16 channels, best guess first.

    Where the pixels of 16 channels lie together: all. Where the channels of a pixel do: all as long as the image
    stays in the second cache level, else few, so that it is read in the order in which it lies.
    """
    if x.block != LANES or channels <= LANES:
        return [rows]
    few = min(2, rows)
    order = [rows, few] if pixels * channels <= L2_FLOATS else [few, rows]
    return list(dict.fromkeys(order))
