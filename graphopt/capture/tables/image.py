"""Resizing and sampling of images.

upsample_bilinear2d.vec(x, None, False, [2.0, 2.0])   ->  resize {mode="linear", size=(64, 64), scales=(2.0, 2.0), ...}
"""

from __future__ import annotations

from graphopt.capture.context import HANDLERS, Context, Handler, NotExpressible, TorchCall, handles
from graphopt.ir.graph import Value

__all__: list[str] = []

GRID_MODES = ("bilinear", "nearest", "bicubic")
GRID_PADDINGS = ("zeros", "border", "reflection")


def _resize(mode: str) -> Handler:
    def handler(context: Context, call: TorchCall) -> Value:
        return context.emit(
            "resize",
            call.value("input" if "input" in call.arguments else "self"),
            size=call.type.shape[2:],
            mode=mode,
            align_corners=call.flag("align_corners"),
            scales=_scales(call),
        )

    return handler


def _scales(call: TorchCall) -> tuple[float, ...] | None:
    """The scale factors that were given; they, not the sizes, then decide where samples are taken."""
    names = ("scale_factors",) if "scale_factors" in call.arguments else ("scales", "scales_d", "scales_h", "scales_w")
    given = [item for name in names if call.has(name) for item in call.items(name)]
    scales = tuple(float(item) for item in given if isinstance(item, int | float))
    if len(scales) != len(given) or len(scales) not in (0, call.type.rank - 2):
        raise NotExpressible(f"scale factors {given}")
    return scales or None


HANDLERS.update(
    {
        name: _resize(mode)
        for mode, names in {
            "nearest": ("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
            "nearest_exact": ("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d"),
            "linear": ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"),
            "cubic": ("upsample_bicubic2d",),
        }.items()
        for name in names
    }
)


@handles("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def _grid_sample(context: Context, call: TorchCall) -> Value:
    return context.emit(
        "grid_sample",
        call.value("input"),
        call.value("grid"),
        mode=GRID_MODES[call.integer("interpolation_mode")],
        padding_mode=GRID_PADDINGS[call.integer("padding_mode")],
        align_corners=call.flag("align_corners"),
    )


@handles("im2col")
def _im2col(context: Context, call: TorchCall) -> Value:
    return context.emit("im2col", call.value("self"), **_window(call))


@handles("col2im")
def _col2im(context: Context, call: TorchCall) -> Value:
    return context.emit("col2im", call.value("self"), output_size=call.dims("output_size"), **_window(call))


def _window(call: TorchCall) -> dict[str, tuple[int, ...]]:
    return {
        "kernel": call.full("kernel_size", 2),
        "dilation": call.full("dilation", 2),
        "padding": call.full("padding", 2),
        "stride": call.full("stride", 2),
    }
