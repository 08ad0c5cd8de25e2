"""Matrix products, dense and block-sparse."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from graphopt.backends.cuda.chain import unary
from graphopt.backends.cuda.kernels.block_sparse import BlockSparse, pack_blocks
from graphopt.backends.cuda.kernels.chain_code import NO_CHAIN
from graphopt.backends.cuda.kernels.gemm import Gemm
from tools.check_cuda.case import Case, Storages, make_case, reference
from tools.check_cuda.cases.numbers import draw, with_holes

__all__ = ["product_cases"]

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def product_cases() -> Iterator[Case]:
    """All of them."""
    yield from _dense()
    yield from _sparse()


def _gemm(m: int, k: int, n: int, batch: tuple[int, ...] = (), dtype: torch.dtype = torch.float32, *, before: bool = False) -> Case:
    """relu(before(a) @ weight.T + bias), the weight [N, K] shared by all of a batch."""
    a, weight, bias = draw(*batch, m, k, dtype=dtype), draw(n, k, dtype=dtype, seed=1), draw(n, dtype=dtype, seed=2)
    given = a.relu() if before else a
    want = reference("linear", [given, weight, bias]).relu()
    name = f"{'relu + ' * before}{m}x{k}x{n}{f' {batch} times' if batch else ''} {str(dtype).removeprefix('torch.')}"

    shape = (*batch, m, n)
    return make_case("gemm", name, {"a": a, "weight": weight, "bias": bias}, want,
        lambda s: Gemm(s["a"], s["weight"].permute((1, 0)).expand((*batch, k, n)), s["y"], s["bias"].expand(shape),
                       unary(("relu",)) if before else NO_CHAIN, unary(("relu",))))  # fmt: skip


def _dense() -> Iterator[Case]:
    for m, k, n in ((5, 7, 3), (33, 40, 17), (1, 19, 20), (20, 1, 1), (64, 64, 64), (4, 0, 3), (0, 5, 3), (70, 33, 65)):
        yield _gemm(m, k, n)
    for dtype in _FLOATS:
        yield _gemm(20, 40, 33, (), dtype)
        yield _gemm(9, 33, 18, (2, 3), dtype, before=True)
    a, b = draw(3, 17, 9), draw(3, 9, 21)
    yield make_case("gemm", "batched from transposes", {"a": a.transpose(1, 2).contiguous(), "b": b}, reference("matmul", [a, b]),
        lambda s: Gemm(s["a"].permute((0, 2, 1)), s["b"], s["y"]))  # fmt: skip
    a, weight = with_holes(draw(7, 21)), draw(18, 21, seed=1)
    yield make_case("gemm", "with NaN", {"a": a, "weight": weight}, reference("linear", [a, weight, None]),
        lambda s: Gemm(s["a"], s["weight"].permute((1, 0)), s["y"]))  # fmt: skip
    weight = with_holes(weight)
    yield make_case("gemm", "weight with NaN", {"a": a[:1], "weight": weight}, reference("linear", [a[:1], weight, None]),
        lambda s: Gemm(s["a"], s["weight"].permute((1, 0)), s["y"]))  # fmt: skip
    want = reference("linear", [a.double().exp().float(), draw(18, 21, seed=1), None]).relu()
    yield make_case("gemm", "exp + with NaN + relu", {"a": a, "weight": draw(18, 21, seed=1)}, want,
        lambda s: Gemm(s["a"], s["weight"].permute((1, 0)), s["y"], None, unary(("exp",)), unary(("relu",))))  # fmt: skip
    # a convolution with 1x1 windows on NHWC is a product of pixels and weight
    x, weight = draw(2, 9, 5, 3, channels_last=True), draw(7, 9, 1, 1, seed=1)
    want = reference("conv2d", [x, weight, None], {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1})
    yield make_case("gemm", "convolution 1x1 NHWC", {"x": x, "weight": weight}, want,
        lambda s: Gemm(s["x"].permute((0, 2, 3, 1)), s["weight"].select(3, 0).select(2, 0).permute((1, 0)).expand((2, 5, 9, 7)),
                       s["y"].permute((0, 2, 3, 1))), channels_last=True)  # fmt: skip


def _sparse() -> Iterator[Case]:
    for block in ((16, 16), (32, 32), (16, 1), (4, 1), (4, 4), (1, 16)):
        for m, n, k in ((5, 64, 64), (37, 33, 40), (3, 48, 19)):
            yield _block_sparse(m, n, k, block)
    for dtype in _FLOATS[1:]:
        yield _block_sparse(19, 64, 96, (32, 32), dtype)
        yield _block_sparse(19, 48, 50, (16, 1), dtype)
    yield _block_sparse(5, 32, 32, (16, 16), ratio=0.0)


def _block_sparse(m: int, n: int, k: int, block: tuple[int, int], dtype: torch.dtype = torch.float32, ratio: float = 0.3) -> Case:
    """relu(a @ weight.T + bias) where that part of the blocks is kept."""
    a, weight, bias = draw(2, m, k, dtype=dtype), draw(n, k, dtype=dtype, seed=1), draw(n, dtype=dtype, seed=2)
    grid = torch.rand(-(-n // block[0]), -(-k // block[1]), generator=torch.Generator().manual_seed(n)) < ratio
    weight = weight * grid.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:n, :k]
    want = reference("linear", [a, weight, bias]).relu()
    name = f"{2 * m}x{k}x{n} blocks {block[0]}x{block[1]} {ratio} {str(dtype).removeprefix('torch.')}"

    def make(storages: Storages) -> BlockSparse:
        values, columns, rows = (storages[buffer] for buffer in ("values", "columns", "rows"))
        bias = storages["bias"].expand((2, m, n))
        return BlockSparse(storages["a"], values, columns, rows, storages["y"], block, bias, unary(("relu",)))

    return make_case("block sparse", name, {"a": a, "bias": bias, **pack_blocks(weight, block)}, want, make)
