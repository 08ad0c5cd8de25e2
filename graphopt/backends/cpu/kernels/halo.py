"""Code that zeroes the halo of a buffer; the emitter adds it where a buffer gets its value."""

from __future__ import annotations

from math import prod

from graphopt.backends.cpu.kernels.loops import Axis, merged
from graphopt.backends.cpu.storage import LANES, Storage

__all__ = ["halo_code"]


def halo_code(storage: Storage, pointer: str) -> str:
    """Statements that zero the border of `storage`, which covers its buffer; `pointer` is its first element, writable."""
    if storage.halo == (0, 0) or storage.elements == 0:
        return ""
    axes = [Axis(size, (stride,)) for size, stride in zip(storage.shape[:-2], storage.strides[:-2], strict=True)]
    column = storage.strides[-1]
    width = 1
    if storage.blocked_axis is not None:
        axes[storage.blocked_axis] = Axis(-(-storage.shape[storage.blocked_axis] // LANES), (storage.block_stride,))
        width = LANES
    else:
        for axis in axes:  # channels last: the channels of a pixel lie side by side
            if axis.size > 1 and axis.strides == (1,) and column >= axis.size:
                width = axis.size
                axes.remove(axis)
                break
    axes = merged([axis for axis in axes if axis.size != 1])
    outer, inner = ([Axis(1, (0,)), Axis(1, (0,)), *axes])[-2:]
    height_width = f"{storage.shape[-2]}, {storage.shape[-1]}, {storage.halo[0]}, {storage.halo[1]}"
    row = storage.strides[-2]
    if len(axes) <= 2:
        call = f"zero_halo<{outer.size}, {inner.size}, {height_width}, {width}>"
        return f"{call}(worker, {pointer}, {outer.strides[0]}, {inner.strides[0]}, {row}, {column});"
    lines = ["{", f"  auto* image = {pointer};"]
    rest = axes[:-2]
    for number, axis in enumerate(rest):
        lines.append(f"  for (long i{number} = 0; i{number} < {axis.size}; ++i{number})")
    shift = " + ".join(f"i{number} * {axis.strides[0]}L" for number, axis in enumerate(rest))
    lines += [
        f"    zero_halo<{outer.size}, {inner.size}, {height_width}, {width}>"
        f"(worker, image + {shift}, {outer.strides[0]}, {inner.strides[0]}, {row}, {column});",
        "}",
    ]
    assert prod(axis.size for axis in rest) > 1, "axes of size 1 were dropped"
    return "\n".join(lines)
