"""Kernels worth timing for a dense convolution: Winograd, direct, and a product of packed pixels."""

from __future__ import annotations

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.direct import DirectConv
from graphopt.backends.cpu.kernels.panels import vectors_of
from graphopt.backends.cpu.kernels.tilings import Tiling, chunk_for, tiles_for
from graphopt.backends.cpu.kernels.winograd import WinogradConv, WinogradTiling, winograd_refusal
from graphopt.backends.cpu.storage import Storage


def dense_candidates(
    x: Storage, y: Storage, weight: str, bias: str | None, conv: Convolution, frame: Frame, chain: Chain
) -> list[Kernel]:
    """Best guess first."""
    direct = _direct(x, y, weight, bias, conv, frame, chain)
    if winograd_refusal(x, y, conv) is None and x.shape[1] >= 16:
        return [*_winograd(x, y, weight, bias, conv, chain), *direct[:2]]
    return direct


def _direct(x: Storage, y: Storage, weight: str, bias: str | None, conv: Convolution, frame: Frame, chain: Chain) -> list[Kernel]:
    _, outputs, height, width = frame.sizes(y.shape)
    inputs = x.shape[frame.c]
    made: list[Kernel] = []
    tiles = tiles_for(vectors_of(outputs // conv.groups), height, width)
    for tile, block, outer in ((tiles[0], 8, True), (tiles[0], 32, True), (tiles[0], 8, False), (tiles[min(1, len(tiles) - 1)], 8, True)):
        chunk = chunk_for(inputs // conv.groups, conv.taps, tile.vectors)
        kernel = DirectConv(x, y, weight, bias, conv, frame, Tiling(tile, chunk, block, outer), chain)
        if kernel not in made:
            made.append(kernel)
    return made


def _winograd(x: Storage, y: Storage, weight: str, bias: str | None, conv: Convolution, chain: Chain) -> list[Kernel]:
    height, width = y.shape[2:]
    inputs, outputs = vectors_of(x.shape[1]) * 16, vectors_of(y.shape[1]) * 16
    made: list[Kernel] = []
    for order in (4, 6, 2):
        if order == 6 and min(height, width) < 24 or order == 2 and min(height, width) > 16:
            continue
        frequencies = (order + 2) ** 2
        tiles = x.shape[0] * -(-height // order) * -(-width // order)
        fits = max(1, 400 * 1024 // (frequencies * inputs * 4))
        panel = 2 if vectors_of(outputs) >= 2 else 1
        block = -(-tiles // max(2, -(-tiles // min(fits, 42))))
        if frequencies * inputs * outputs * 4 <= 12 << 20 or tiles > 64:
            made.append(WinogradConv(x, y, weight, bias, conv, WinogradTiling(order, "tiles", block, panel, panel), chain))
        if tiles <= 196:
            whole = -(-tiles // -(-tiles // 28))
            made.append(WinogradConv(x, y, weight, bias, conv, WinogradTiling(order, "channels", whole, panel, panel), chain))
    return made[:4]
