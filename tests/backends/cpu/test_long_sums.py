"""Rounding errors of sums over many numbers: less than those of one chain of additions in float32."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from graphopt.backends.cpu.frame import image_frame, rows_frame
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.dense_candidates import direct_candidates, linear_candidates
from graphopt.backends.cpu.kernels.direct import DirectConv
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.ir.types import DType
from tests.backends.cpu.image_cases import Cases

ISAS = ["avx512", "generic"]


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found.double() - exact).abs().max() / exact.abs().max()).item()


def chain_error(rows: torch.Tensor, weight: torch.Tensor) -> float:
    """Of rows @ weight.T in [rows, outputs] where every product is added to the sum of those before, rounded each time."""
    sums = torch.zeros(len(rows), len(weight), dtype=torch.float64)
    for row, column in zip(rows.T, weight.T, strict=True):
        sums = (sums + torch.outer(row, column)).float().double()
    return relative_error(sums, functional.linear(rows, weight))


@pytest.mark.parametrize("isa", ISAS)
def test_products_of_many_channels(isa: str) -> None:
    cases = Cases()
    for rows, depth, outputs in ((1, 12000, 80), (5, 3000, 32), (30, 3072, 32)):
        x, exact_x = cases.input(cases.array(rows, depth), "plain")
        weight, exact_weight = cases.state(outputs, depth)
        exact = functional.linear(exact_x, exact_weight)
        eager = relative_error(functional.linear(exact_x.float(), exact_weight.float()), exact)
        tolerance = min(2 * eager, 0.9 * chain_error(exact_x, exact_weight))
        probe = make_storage("plain", "y", DType.f32, (rows, outputs))
        for kernel in linear_candidates(x, probe, weight, None, rows_frame(2)):
            cases.add(replace(kernel, y=cases.output(exact, "plain", tolerance=tolerance)))  # pyright: ignore[reportArgumentType]
    cases.check(isa, threads=(1, 3))


@pytest.mark.parametrize("isa", ISAS)
def test_convolutions_of_many_channels(isa: str) -> None:
    cases = Cases()
    for channels, size, groups in ((320, 5, 1), (520, 4, 2)):
        x, exact_x = cases.input(cases.array(1, channels, size, size), "blocked")
        weight, exact_weight = cases.state(64, channels // groups, 3, 3)
        exact = functional.conv2d(exact_x, exact_weight, groups=groups)
        windows = functional.unfold(exact_x, 3)[0].unflatten(0, (groups, -1))
        weights = exact_weight.flatten(1).unflatten(0, (groups, -1))
        chain = max(chain_error(window.T, rows) for window, rows in zip(windows, weights, strict=True))
        probe = make_storage("blocked", "y", DType.f32, tuple(exact.shape))
        kernel = direct_candidates(x, probe, weight, None, Convolution((3, 3), groups=groups), image_frame())[0]
        assert isinstance(kernel, DirectConv)
        for chunk in (32, kernel.depth):
            y = cases.output(exact, "blocked", tolerance=0.9 * chain)
            cases.add(replace(kernel, y=y, tiling=replace(kernel.tiling, chunk=chunk)))
    cases.check(isa, threads=(1, 3))
