"""Resampling of images: family `image`.

%y: f32[batch,3,64,64] = resize(%x) {align_corners=false, mode="linear", scales=none, size=(64, 64)}
"""

from __future__ import annotations

from graphopt.ir.dims import Dim, product
from graphopt.ir.types import TensorType
from graphopt.ops.axes.windows import col2im_axes, grid_sample_axes, im2col_axes, resize_axes
from graphopt.ops.checks import known_different, require_count, require_float, require_same_dtype
from graphopt.ops.kinds import BOOL, DIMS, choice, dims, ints, numbers, optional
from graphopt.ops.registry import Call, OpDef, register
from graphopt.ops.windows import convolved

__all__: list[str] = []


def _resize(call: Call) -> tuple[TensorType, ...]:
    found, size, mode = call.type(0), call.dims("size"), call.text("mode")
    if mode not in ("nearest", "nearest_exact"):
        require_float(call)
    if found.rank not in (3, 4, 5) or len(size) != found.rank - 2:
        raise call.fail(f"x has {found.rank} axes, size has {len(size)} numbers, needs 3 to 5 axes and one number per spatial axis")
    if mode == "cubic" and found.rank != 4:
        raise call.fail(f'mode "cubic" needs 4 axes, x has {found.rank}')
    scales = call.attrs["scales"]
    if isinstance(scales, tuple) and len(scales) != len(size):
        raise call.fail(f"scales has {len(scales)} numbers, size has {len(size)}")
    for axis, dim in enumerate(size):
        require_count(call, f"axis {axis} of size", dim, minimum=1)
    return (found.with_shape((*found.shape[:2], *size)),)


def _grid_sample(call: Call) -> tuple[TensorType, ...]:
    found, grid = require_float(call), call.type(1)
    require_same_dtype(call)
    if found.rank not in (4, 5) or grid.rank != found.rank:
        raise call.fail(f"x has {found.rank} axes, grid has {grid.rank}, needs 4 or 5, the same")
    if known_different(found.shape[0], grid.shape[0]) or known_different(grid.shape[-1], found.rank - 2):
        raise call.fail(f"grid {grid.text} needs the batch size {found.shape[0]} on axis 0 and {found.rank - 2} on the last axis")
    return (found.with_shape((*found.shape[:2], *grid.shape[1:-1])),)


def _blocks(call: Call, size: tuple[Dim, ...], first_axis: int) -> Dim:
    """Number of windows on an image of a size."""
    kernel, dilation, padding, stride = (call.integers(name) for name in ("kernel", "dilation", "padding", "stride"))
    for i in range(2):
        for name, number in (("kernel", kernel[i]), ("dilation", dilation[i]), ("stride", stride[i])):
            require_count(call, name, number, minimum=1)
        require_count(call, "padding", padding[i])
    counts = [convolved(call, first_axis + i, size[i], kernel[i], stride[i], padding[i], dilation[i]) for i in range(2)]
    return counts[0] * counts[1]


def _im2col(call: Call) -> tuple[TensorType, ...]:
    found = call.type(0)
    if found.rank not in (3, 4):
        raise call.fail(f"x has {found.rank} axes, needs 4 (batch, channels, height, width) or 3")
    blocks = _blocks(call, found.shape[-2:], found.rank - 2)
    return (found.with_shape((*found.shape[:-3], found.shape[-3] * product(call.dims("kernel")), blocks)),)


def _col2im(call: Call) -> tuple[TensorType, ...]:
    found, size = call.type(0), call.dims("output_size")
    if found.rank not in (2, 3):
        raise call.fail(f"x has {found.rank} axes, needs 3 (batch, channels * kernel, windows) or 2")
    blocks, area = _blocks(call, size, 0), product(call.dims("kernel"))
    rows = found.shape[-2]
    if isinstance(rows, int) and isinstance(area, int) and rows % area:
        raise call.fail(f"axis {found.rank - 2} has the size {rows}, which the {area} elements of the kernel do not divide")
    if known_different(found.shape[-1], blocks):
        raise call.fail(f"axis {found.rank - 1} has the size {found.shape[-1]}, output_size has {blocks} windows")
    return (found.with_shape((*found.shape[:-2], rows // area, *size)),)


_NEIGHBOURS = {"nearest": 0, "nearest_exact": 0, "linear": 2, "bilinear": 2, "cubic": 4, "bicubic": 4}
"""How many neighbours along each axis an interpolation mixes."""


def _interpolation_flops(call: Call, results: tuple[TensorType, ...]) -> Dim:
    """A multiply-add for each neighbour; the weights, shared by all channels, are not counted."""
    neighbours: int = _NEIGHBOURS[call.text("mode")] ** (results[0].rank - 2)
    return 2 * neighbours * results[0].elements


def _fold_flops(call: Call, results: tuple[TensorType, ...]) -> Dim:
    return call.type(0).elements


_WINDOW = {"kernel": ints(2), "dilation": ints(2), "padding": ints(2), "stride": ints(2)}

register(
    OpDef(
        "resize",
        "image",
        ("x",),
        _resize,
        _interpolation_flops,
        "interpolate to a size; scales, where given, replace the ratio of the sizes",
        kinds={
            "size": DIMS,
            "mode": choice("nearest", "nearest_exact", "linear", "cubic"),
            "align_corners": BOOL,
            "scales": optional(numbers()),
        },
        axes=resize_axes,
    )
)
register(
    OpDef(
        "grid_sample",
        "image",
        ("x", "grid"),
        _grid_sample,
        _interpolation_flops,
        "x at the positions in grid, -1 to 1 along each axis, last coordinate first",
        kinds={
            "mode": choice("bilinear", "nearest", "bicubic"),
            "padding_mode": choice("zeros", "border", "reflection"),
            "align_corners": BOOL,
        },
        axes=grid_sample_axes,
    )
)
register(OpDef("im2col", "image", ("x",), _im2col, lambda call, results: 0, "each window as a column", kinds=_WINDOW, axes=im2col_axes))
register(
    OpDef(
        "col2im",
        "image",
        ("x",),
        _col2im,
        _fold_flops,
        "columns added back into an image",
        kinds={"output_size": dims(2), **_WINDOW},
        axes=col2im_axes,
    )
)
