"""How torch multiplies float32 on a GPU, for a while, whatever the process has set before and by which settings.

    old     torch.set_float32_matmul_precision, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    new     torch.backends.fp32_precision, torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision, ...

Libraries read the new ones. The old ones write them, and raise when they are read where a new one was set alone, so they are neither read
nor written here. A new one that is "none" shows what the one above it says; one of a fresh process can't be set back to what it was. So
only those are written that can be put back: the one above, and those below that do not follow it, which have a word of their own.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

__all__ = ["float32_products"]

_Place: TypeAlias = "tuple[str, str]"
_EVERYTHING: _Place = ("generic", "all")
_GPU: _Place = ("cuda", "all")
_BELOW: tuple[_Place, ...] = (("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"))

_C: Any = torch._C  # pyright: ignore[reportPrivateUsage]  # the public names of these settings are scattered over modules of torch.backends


def _get(place: _Place) -> str:
    return _C._get_fp32_precision_getter(*place)


def _set(place: _Place, precision: str) -> None:
    _C._set_fp32_precision_setter(*place, precision)


def _word_of_gpu() -> str:
    """What the setting of the GPU says by itself: "none" where it follows that of everything."""
    shown, above = _get(_GPU), _get(_EVERYTHING)
    if shown == above:
        _set(_EVERYTHING, "tf32" if above == "ieee" else "ieee")
        if _get(_GPU) != shown:
            shown = "none"
        _set(_EVERYTHING, above)
    return shown


@contextmanager
def float32_products(*, tf32: bool) -> Generator[None]:
    """Matrix products and convolutions of float32 in tf32, or in float32 to the last bit; all settings are as they were afterwards."""
    wanted = "tf32" if tf32 else "ieee"
    before = {_GPU: _word_of_gpu()}
    try:
        _set(_GPU, wanted)
        for place in _BELOW:
            shown = _get(place)
            if shown != wanted:
                before[place] = shown
                _set(place, wanted)
        yield
    finally:
        for place, precision in before.items():
            _set(place, precision)
