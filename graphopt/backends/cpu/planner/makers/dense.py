"""Kernels worth timing for a dense convolution: Winograd where its error allows, direct, and products of packed pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.isa import available_cores
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.dense_candidates import direct_candidates
from graphopt.backends.cpu.kernels.winograd import winograd_refusal
from graphopt.backends.cpu.kernels.winograd_candidates import winograd_candidates
from graphopt.backends.cpu.kernels.winograd_transforms import ORDERS, winograd_error
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy

__all__ = ["dense_candidates", "pooled_candidates"]

MOST_ERROR = 1e-5
"""Largest error over largest output that a Winograd convolution may have on noise; a higher order is refused."""

Numbers = Callable[[str], "numpy.ndarray | None"]
"""The weights of a name, None where the graph has none."""


def dense_candidates(
    x: Storage, y: Storage, weight: str, bias: str | None, conv: Convolution, frame: Frame, chain: Chain, numbers: Numbers
) -> list[Kernel]:
    """Best guess first."""
    direct = direct_candidates(x, y, weight, bias, conv, frame, chain)
    winograd = _winograd(x, y, weight, bias, conv, chain, numbers)
    return [*winograd, *direct[:2]] if winograd else direct


def pooled_candidates(
    x: Storage, y: Storage, weight: str, bias: str | None, conv: Convolution, chain: Chain, numbers: Numbers
) -> list[Kernel]:
    """Kernels for max_pool2d(chain(conv2d(x)), 2), best guess first; none where Winograd does not do."""
    return _winograd(x, y, weight, bias, conv, chain, numbers, pool=True)


def _winograd(
    x: Storage, y: Storage, weight: str, bias: str | None, conv: Convolution, chain: Chain, numbers: Numbers, *, pool: bool = False
) -> list[Kernel]:
    if winograd_refusal(x, y, conv) is not None or x.shape[1] < LANES:
        return []
    array = numbers(weight)
    orders = [order for order in ORDERS if order == 2 or array is None or _error(array, order) <= MOST_ERROR]
    return list[Kernel](winograd_candidates(x, y, weight, bias, conv, chain, pool=pool, threads=available_cores(), orders=orders))


_ERRORS: dict[tuple[bytes, int], float] = {}


def _error(weight: numpy.ndarray, order: int) -> float:
    """`winograd_error` on few tiles and outputs, once for the same numbers: a graph is planned twice."""
    key = hashlib.blake2b(weight.tobytes(), digest_size=16).digest(), order
    if key not in _ERRORS:
        _ERRORS[key] = winograd_error(weight, order, tiles=4, outputs=8)
    return _ERRORS[key]
