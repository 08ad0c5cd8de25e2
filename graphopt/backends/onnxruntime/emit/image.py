"""Resampling of images, and windows as columns."""

from __future__ import annotations

import numpy as np

from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.backends.onnxruntime.emit.conv import static_sizes
from graphopt.ir.graph import Node
from graphopt.ir.types import DType

__all__ = ["EMITTERS"]


def _resize(context: Context, node: Node) -> str:
    x, mode, scales = node.value(0), node.attrs["mode"], node.attrs["scales"]
    name = context.read(x)
    lone = x.type.rank == 3
    if lone:
        name = context.unsqueeze(name, 2)  # ONNX Runtime resizes planes and volumes
    front = 3 if lone else 2
    attributes: dict[str, str | float] = {}
    if mode == "nearest":
        attributes |= {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    elif mode == "nearest_exact":
        attributes |= {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
    else:
        corners = "align_corners" if node.attrs["align_corners"] else "half_pixel"
        attributes |= {"mode": "linear" if mode == "linear" else "cubic", "coordinate_transformation_mode": corners}
        if mode == "cubic":
            attributes["cubic_coeff_a"] = -0.75
    shape = node.result.shape
    if isinstance(scales, tuple) and all(isinstance(scale, int | float) for scale in scales):
        factors = np.array([*([1.0] * front), *scales], dtype=np.float32)
        # Both sizes and scales can't be given: scales do, where they lead to the same size.
        if _sizes_follow(x.shape, shape, factors[-len(scales) :]):
            result = context.add("Resize", name, "", context.constant(factors, DType.f32, "scales"), **attributes)
            return context.squeeze(result, 2) if lone else result
        raise UnsupportedNodeError(f"resize by {scales} to another size than they lead to, {shape}")
    sizes = (*x.shape[:2], 1, *shape[2:]) if lone else (*x.shape[:2], *shape[2:])
    if not all(isinstance(dim, int) for dim in x.shape[:2]):
        # The batch is copied by naming only the spatial axes.
        spatial = tuple(range(front, front + len(shape) - 2))
        result = context.add("Resize", name, "", "", context.dims(shape[2:]), axes=spatial, **attributes)
    else:
        result = context.add("Resize", name, "", "", context.dims(sizes), **attributes)
    return context.squeeze(result, 2) if lone else result


def _sizes_follow(have: tuple[object, ...], want: tuple[object, ...], factors: np.ndarray[tuple[int], np.dtype[np.float32]]) -> bool:
    for size, made, factor in zip(have[2:], want[2:], factors, strict=True):
        if isinstance(size, int) and isinstance(made, int):
            if int(np.floor(np.float32(size) * factor)) != made:
                return False
        elif float(factor) != int(factor):
            return False
    return True


def _grid_sample(context: Context, node: Node) -> str:
    mode = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}[str(node.attrs["mode"])]
    return context.add(
        "GridSample",
        context.read(node.operands[0]),
        context.read(node.operands[1]),
        mode=mode,
        padding_mode=str(node.attrs["padding_mode"]),
        align_corners=int(bool(node.attrs["align_corners"])),
    )


def _im2col(context: Context, node: Node) -> str:
    """A Gather with constant positions out of the flattened image: exact for NaN and infinity."""
    x = node.value(0)
    kernel, dilation, padding, stride = (static_sizes(node, name) for name in ("kernel", "dilation", "padding", "stride"))
    height, width = x.shape[-2:]
    if not (isinstance(height, int) and isinstance(width, int)):
        raise UnsupportedNodeError(f"im2col of an image of symbolic size {height}x{width}")
    name = context.read(x)
    if any(padding):
        pads = (*(0 for _ in range(x.type.rank - 2)), *padding)
        name = context.add("Pad", name, context.integers((*pads, *pads)))
    padded = (height + 2 * padding[0], width + 2 * padding[1])
    starts = [np.arange(0, padded[i] - dilation[i] * (kernel[i] - 1), stride[i]) for i in (0, 1)]
    taps = [np.arange(kernel[i]) * dilation[i] for i in (0, 1)]
    rows = taps[0][:, None, None, None] + starts[0][None, None, :, None]
    columns = taps[1][None, :, None, None] + starts[1][None, None, None, :]
    positions = (rows * padded[1] + columns).reshape(kernel[0] * kernel[1], -1)
    front = x.shape[:-2]
    flat = context.reshape(name, (*front, *padded), (*front, padded[0] * padded[1]))
    picked = context.add("Gather", flat, context.constant(positions, DType.i64), axis=len(front))
    return context.reshape(picked, (*front, *positions.shape), node.result.shape)


def _col2im(context: Context, node: Node) -> str:
    x = node.value(0)
    output, kernel, dilation, padding, stride = (
        static_sizes(node, name) for name in ("output_size", "kernel", "dilation", "padding", "stride")
    )
    name = context.read(x)
    lone = x.type.rank == 2
    if lone:
        name = context.unsqueeze(name, 0)
    result = context.add(
        "Col2Im",
        name,
        context.integers(output),
        context.integers(kernel),
        dilations=dilation,
        pads=(*padding, *padding),
        strides=stride,
    )
    return context.squeeze(result, 0) if lone else result


EMITTERS: dict[str, Emitter] = {"resize": _resize, "grid_sample": _grid_sample, "im2col": _im2col, "col2im": _col2im}
