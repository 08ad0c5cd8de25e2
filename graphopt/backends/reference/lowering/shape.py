"""Ops that move or repeat elements."""

from __future__ import annotations

from graphopt.backends.reference.emitter import Emitter, Lowering, Site
from graphopt.errors import LoweringError

__all__ = ["LOWERINGS"]


def _slice(emit: Emitter, site: Site) -> object:
    # start and stop may be handles of dims computed at run time, so the step decides the form, never a comparison.
    picked = slice(site["start"], site["stop"], None if site["step"] == 1 else site["step"])
    index = (*(slice(None) for _ in range(site["axis"])), picked)
    return emit.call("operator.getitem", site[0], index)


def _split(emit: Emitter, site: Site) -> object:
    sizes = list(site["sizes"])
    return emit.unpack(emit.call("torch.split", site[0], sizes, site["axis"]), len(sizes))


def _pad(emit: Emitter, site: Site) -> object:
    pads = site.node.attrs["pads"]
    assert isinstance(pads, tuple), "pads is a tuple of pairs"
    first = next((axis for axis, pair in enumerate(pads) if pair != (0, 0)), len(pads))
    count = len(pads) - first
    if site["mode"] == "constant":
        if count == 0:
            return site[0]
        flat = [amount for pair in reversed(site["pads"][first:]) for amount in pair]
        return emit.call("F.pad", site[0], flat, value=site["value"])
    # torch pads the last one, two or three axes of tensors with one or two axes more.
    count = max(count, len(pads) - 2, 1)
    if count > 3 or len(pads) not in (count + 1, count + 2):
        raise LoweringError(
            f"pad mode '{site['mode']}' of a rank {len(pads)} tensor pads axis {first}, torch pads at most the last 3 and never the first",
            where=repr(site.node),
        )
    flat = [amount for pair in reversed(site["pads"][len(pads) - count :]) for amount in pair]
    return emit.call("F.pad", site[0], flat, mode=site["mode"])


LOWERINGS: dict[str, Lowering] = {
    "reshape": lambda emit, site: emit.call(".reshape", site[0], site["shape"]),
    "permute": lambda emit, site: emit.call(".permute", site[0], site["axes"]),
    "expand": lambda emit, site: emit.call(".expand", site[0], site["shape"]),
    "select": lambda emit, site: emit.call(".select", site[0], site["axis"], site["index"]),
    "slice": _slice,
    "split": _split,
    "concat": lambda emit, site: emit.call("torch.cat", list(site.operands), dim=site["axis"]),
    "tile": lambda emit, site: emit.call(".tile", site[0], site["repeats"]),
    "roll": lambda emit, site: emit.call("torch.roll", site[0], site["shifts"], dims=site["axes"]),
    "flip": lambda emit, site: emit.call("torch.flip", site[0], site["axes"]),
    "pad": _pad,
    "tril": lambda emit, site: emit.call("torch.tril", site[0], site["diagonal"]),
    "triu": lambda emit, site: emit.call("torch.triu", site[0], site["diagonal"]),
}
