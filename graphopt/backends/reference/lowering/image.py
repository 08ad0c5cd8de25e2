"""Resampling of images."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.backends.reference.emitter import Emitter, Lowering, Site
from graphopt.errors import LoweringError

__all__ = ["LOWERINGS"]

_MODES: dict[tuple[str, int], tuple[str, Any]] = {
    ("nearest", 1): ("nearest", torch.ops.aten.upsample_nearest1d.default),
    ("nearest", 2): ("nearest", torch.ops.aten.upsample_nearest2d.default),
    ("nearest", 3): ("nearest", torch.ops.aten.upsample_nearest3d.default),
    ("nearest_exact", 1): ("nearest-exact", torch.ops.aten._upsample_nearest_exact1d.default),
    ("nearest_exact", 2): ("nearest-exact", torch.ops.aten._upsample_nearest_exact2d.default),
    ("nearest_exact", 3): ("nearest-exact", torch.ops.aten._upsample_nearest_exact3d.default),
    ("linear", 1): ("linear", torch.ops.aten.upsample_linear1d.default),
    ("linear", 2): ("bilinear", torch.ops.aten.upsample_bilinear2d.default),
    ("linear", 3): ("trilinear", torch.ops.aten.upsample_trilinear3d.default),
    ("cubic", 2): ("bicubic", torch.ops.aten.upsample_bicubic2d.default),
}


def _resize(emit: Emitter, site: Site) -> object:
    mode, rank = site["mode"], site.type(0).rank - 2
    if (mode, rank) not in _MODES:
        raise LoweringError(f"resize mode '{mode}' has no form for {rank} spatial axes", where=repr(site.node))
    name, overload = _MODES[mode, rank]
    with_corners = not mode.startswith("nearest")
    if site["scales"] is None:
        options = {"align_corners": bool(site["align_corners"])} if with_corners else {}
        return emit.call("F.interpolate", site[0], size=site["size"], mode=name, **options)
    # F.interpolate takes a size or scales; the op takes both, and samples at positions given by the scales.
    corners = (bool(site["align_corners"]),) if with_corners else ()
    return emit.call(overload, site[0], list(site["size"]), *corners, *site["scales"])


def _grid_sample(emit: Emitter, site: Site) -> object:
    names = ("mode", "padding_mode", "align_corners")
    return emit.call("F.grid_sample", site[0], site[1], **{name: site[name] for name in names})


def _windows(emit: Emitter, site: Site) -> object:
    names = ("dilation", "padding", "stride")
    return emit.call("F.unfold", site[0], site["kernel"], **{name: site[name] for name in names})


def _from_windows(emit: Emitter, site: Site) -> object:
    names = ("dilation", "padding", "stride")
    return emit.call("F.fold", site[0], site["output_size"], site["kernel"], **{name: site[name] for name in names})


LOWERINGS: dict[str, Lowering] = {"resize": _resize, "grid_sample": _grid_sample, "im2col": _windows, "col2im": _from_windows}
