"""The matrix: small kernels of every family, over shapes that divide badly, zero sizes, strides, NaN and infinities, and all dtypes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tools.check_cuda.case import Case
from tools.check_cuda.cases.elementwise import elementwise_cases
from tools.check_cuda.cases.images import image_cases
from tools.check_cuda.cases.indexed import indexed_cases
from tools.check_cuda.cases.products import product_cases
from tools.check_cuda.cases.rows import row_cases

__all__ = ["GROUPS", "all_cases"]

GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "elementwise": elementwise_cases,
    "rows": row_cases,
    "images": image_cases,
    "indexed": indexed_cases,
    "products": product_cases,
}
"""Makers of cases by group; each makes the same cases whenever it is called."""


def all_cases() -> Iterator[Case]:
    """Every case of every group."""
    for make in GROUPS.values():
        yield from make()
