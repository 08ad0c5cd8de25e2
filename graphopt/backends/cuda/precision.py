"""How torch multiplies float32 matrices, for a while, under its old settings and its new ones alike.

    old     torch.set_float32_matmul_precision, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    new     torch.backends.fp32_precision, torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision, ...

Old setters write the new settings too, old getters raise where a new one was set alone, and a new one that is "none" shows what the one
above it says. So what a process had set is found out by setting others and looking again, and is put back in both.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

__all__ = ["float32_products"]

_Place: TypeAlias = "tuple[str, str]"

_ABOVE: dict[_Place, _Place | None] = {
    ("generic", "all"): None,
    ("cuda", "all"): ("generic", "all"),
    ("cuda", "matmul"): ("cuda", "all"),
    ("cuda", "conv"): ("cuda", "all"),
    ("cuda", "rnn"): ("cuda", "all"),
    ("mkldnn", "all"): ("generic", "all"),
    ("mkldnn", "matmul"): ("mkldnn", "all"),
}
"""The new settings that old setters write, and those that say what "none" means there."""

_C: Any = torch._C  # pyright: ignore[reportPrivateUsage]  # torch.backends.mkldnn.fp32_precision reads one setting and writes another
_cudnn: Any = torch.backends.cudnn


def _get(place: _Place) -> str:
    return _C._get_fp32_precision_getter(*place)


def _set(place: _Place, precision: str) -> None:
    _C._set_fp32_precision_setter(*place, precision)


def _new_settings() -> dict[_Place, str]:
    """What each of the new settings says by itself, "none" where it follows the one above."""
    found: dict[_Place, str] = {}
    for place, above in _ABOVE.items():
        shown = found[place] = _get(place)
        if above is None or shown == "none":
            continue
        _set(above, "tf32" if shown == "ieee" else "ieee")
        if _get(place) != shown:
            found[place] = "none"
        _set(above, found[above])
    return found


def _old_settings() -> tuple[str, bool]:
    """The precision of matrix products, and whether cuDNN may use tf32. Leaves the new settings of both at "ieee"."""
    for place in (("cuda", "matmul"), ("mkldnn", "matmul"), ("cuda", "conv"), ("cuda", "rnn")):
        _set(place, "ieee")
    products = torch.get_float32_matmul_precision()
    try:
        return products, _cudnn.allow_tf32
    except RuntimeError:  # raised where the old setting is not what the new ones say, and those say no
        return products, True


@contextmanager
def float32_products(*, tf32: bool) -> Generator[None]:
    """Matrix products and convolutions of float32 in tf32, or in float32 to the last bit; all settings are as they were afterwards."""
    new = _new_settings()
    products, convolutions = _old_settings()
    try:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        _cudnn.allow_tf32 = tf32
        for place in (("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn")):
            _set(place, "tf32" if tf32 else "ieee")  # "none", which the old setter of cuDNN leaves, may mean tf32
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        _cudnn.allow_tf32 = convolutions
        for place, precision in new.items():
            _set(place, precision)
