"""Kernels worth timing for a dense convolution: Winograd where its error allows, direct, and products of packed pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.dense_candidates import direct_candidates
from graphopt.backends.cpu.kernels.panels import vectors_of
from graphopt.backends.cpu.kernels.winograd import WinogradConv, WinogradTiling, winograd_refusal
from graphopt.backends.cpu.kernels.winograd_transforms import winograd_error
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy

MOST_ERROR = 1e-5
"""Largest error over largest output that a Winograd convolution may have on noise; a higher order is refused."""

_L2_BYTES = 400 << 10
"""Of the second cache for transformed inputs of a block."""


def dense_candidates(
    x: Storage,
    y: Storage,
    weight: str,
    bias: str | None,
    conv: Convolution,
    frame: Frame,
    chain: Chain,
    numbers: Callable[[str], numpy.ndarray | None],
) -> list[Kernel]:
    """Best guess first. `numbers` gives the weights, where they are there."""
    direct = direct_candidates(x, y, weight, bias, conv, frame, chain)
    if winograd_refusal(x, y, conv) is not None or x.shape[1] < LANES:
        return direct
    return [*_winograd(x, y, weight, bias, conv, chain, numbers(weight)), *direct[:2]]


def _winograd(
    x: Storage, y: Storage, weight: str, bias: str | None, conv: Convolution, chain: Chain, numbers: numpy.ndarray | None
) -> list[Kernel]:
    height, width = y.shape[2:]
    inputs, groups = vectors_of(x.shape[1]) * LANES, vectors_of(y.shape[1])
    panel = 2 if groups >= 2 else 1
    made: list[Kernel] = []
    for order in (4, 6, 2):
        if (order == 6 and min(height, width) < 24) or (order == 2 and min(height, width) > 16):
            continue
        if numbers is not None and order > 2 and _error(numbers, order) > MOST_ERROR:
            continue
        bytes_per_tile = (order + 2) ** 2 * inputs * 4
        tiles = x.shape[0] * -(-height // order) * -(-width // order)
        weight_bytes = bytes_per_tile * groups * LANES
        if tiles > 64 or weight_bytes <= 12 << 20:
            most = max(1, min(_L2_BYTES // bytes_per_tile, 42))
            made.append(WinogradConv(x, y, weight, bias, conv, WinogradTiling(order, "tiles", _even(tiles, most, 2), panel, panel), chain))
        if tiles <= 196:
            made.append(WinogradConv(x, y, weight, bias, conv, WinogradTiling(order, "channels", _even(tiles, 28, 1), panel, panel), chain))
    return made[:4]


_ERRORS: dict[tuple[bytes, int], float] = {}


def _error(weight: numpy.ndarray, order: int) -> float:
    """`winograd_error` on few tiles and outputs, once for the same numbers: a graph is planned twice."""
    key = hashlib.blake2b(weight.tobytes(), digest_size=16).digest(), order
    if key not in _ERRORS:
        _ERRORS[key] = winograd_error(weight, order, tiles=4, outputs=8)
    return _ERRORS[key]


def _even(total: int, most: int, least_pieces: int) -> int:
    """Size of even pieces of at most `most`, at least so many of them."""
    return -(-total // max(least_pieces, -(-total // most)))
