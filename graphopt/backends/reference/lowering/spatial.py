"""Convolutions and pools."""

from __future__ import annotations

from typing import Any

from graphopt.backends.reference.emitter import Emitter, Lowering, Site

__all__ = ["LOWERINGS"]

_DEFAULTS = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1, "ceil_mode": False}


def _unusual(site: Site, *names: str) -> dict[str, Any]:
    """The attributes that differ from torch's defaults, so that what is said is what matters."""
    found: dict[str, Any] = {}
    for name in names:
        value = site[name]
        entries = value if isinstance(value, tuple) else (value,)
        if any(entry != _DEFAULTS[name] for entry in entries):
            found[name] = value
    return found


def _conv(rank: int) -> Lowering:
    def lower(emit: Emitter, site: Site) -> object:
        options = _unusual(site, "stride", "padding", "dilation", "groups")
        return emit.call(f"F.conv{rank}d", site[0], site[1], site[2], **options)

    return lower


def _conv_transpose(rank: int) -> Lowering:
    def lower(emit: Emitter, site: Site) -> object:
        options = _unusual(site, "stride", "padding", "output_padding", "groups", "dilation")
        return emit.call(f"F.conv_transpose{rank}d", site[0], site[1], site[2], **options)

    return lower


def _max_pool(rank: int) -> Lowering:
    def lower(emit: Emitter, site: Site) -> object:
        options = _unusual(site, "padding", "dilation", "ceil_mode")
        return emit.call(f"F.max_pool{rank}d", site[0], site["kernel"], stride=site["stride"], **options)

    return lower


def _avg_pool(rank: int) -> Lowering:
    def lower(emit: Emitter, site: Site) -> object:
        names = ("stride", "padding", "ceil_mode", "count_include_pad")
        options = {name: site[name] for name in names}
        if rank > 1:
            return emit.call(f"F.avg_pool{rank}d", site[0], site["kernel"], **options, divisor_override=site["divisor_override"])
        if site["divisor_override"] is None:
            return emit.call("F.avg_pool1d", site[0], site["kernel"], **options)
        # torch's 1-d pool has no divisor; the same pool in 2-d has.
        options |= {"stride": (1, *site["stride"]), "padding": (0, *site["padding"])}
        plane = emit.call(".unsqueeze", site[0], -2)
        pooled = emit.call("F.avg_pool2d", plane, (1, *site["kernel"]), **options, divisor_override=site["divisor_override"])
        return emit.call(".squeeze", pooled, -2)

    return lower


def _adaptive(name: str) -> Lowering:
    return lambda emit, site: emit.call(f"F.{name}", site[0], site["output_size"])


_RANKS = (1, 2, 3)

LOWERINGS: dict[str, Lowering] = {
    **{f"conv{rank}d": _conv(rank) for rank in _RANKS},
    **{f"conv_transpose{rank}d": _conv_transpose(rank) for rank in _RANKS},
    **{f"max_pool{rank}d": _max_pool(rank) for rank in _RANKS},
    **{f"avg_pool{rank}d": _avg_pool(rank) for rank in _RANKS},
    **{f"adaptive_{kind}_pool{rank}d": _adaptive(f"adaptive_{kind}_pool{rank}d") for kind in ("avg", "max") for rank in _RANKS},
}
