"""Memory that work which is done leaves with the allocator.

The C library keeps what is freed in pieces between what lives on. Work that makes and drops many large arrays layer by layer
would grow by a multiple of what it holds; asked to, glibc gives such pages back to the system.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

__all__ = ["release_free_memory"]


@cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim(3); None where the C library has none."""
    if sys.platform != "linux":
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found


def release_free_memory() -> None:
    """Give freed memory back to the system, where the C library can."""
    trim = _trim()
    if trim is not None:
        trim(0)
