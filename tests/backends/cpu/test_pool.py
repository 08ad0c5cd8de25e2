"""Pools against torch in float64, with NaN and infinities among the numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import pytest
import torch
from torch.nn import functional

from graphopt.backends.cpu.frame import Frame, image_frame
from graphopt.backends.cpu.kernels.pool import AdaptivePool, GlobalPool, WindowPool, adaptive_candidates, global_candidates, pool_candidates
from graphopt.backends.cpu.kernels.windows import Window
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.storage import plain
from graphopt.ir.types import DType
from tests.backends.cpu.image_cases import ISAS, Cases, add_then_relu, hardswish


@dataclass(frozen=True)
class Shape:
    """x [n, channels, size] in a layout, and a window over it."""

    n: int
    channels: int
    size: tuple[int, ...]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False
    layout: str = "blocked"
    halo: tuple[int, int] = (0, 0)


MAXIMA = [
    Shape(1, 32, (23, 37), (3, 3), (2, 2), (1, 1)),
    Shape(2, 17, (14, 14), (2, 2), (2, 2)),
    Shape(1, 58, (13, 30), (3, 3), (2, 2), ceil=True, layout="last"),
    Shape(1, 16, (13, 13), (5, 5), (1, 1), (2, 2), halo=(1, 1)),
    Shape(1, 3, (9, 20), (3, 2), (1, 2), (1, 1), (2, 3), layout="last"),
    Shape(2, 40, (31,), (1, 4), (1, 3), (0, 2), ceil=True, layout="last"),
    Shape(1, 16, (7, 7), (7, 7), (1, 1)),
    Shape(1, 16, (1, 1), (3, 3), (2, 2), (1, 1)),
    Shape(1, 16, (17, 17), (13, 13), (1, 1), (6, 6)),
]

MEANS = [
    (Shape(1, 32, (14, 28), (2, 2), (2, 2)), True, None),
    (Shape(2, 17, (23, 37), (3, 3), (1, 1), (1, 1)), True, None),
    (Shape(1, 58, (23, 37), (3, 3), (2, 2), (1, 1), layout="last"), False, None),
    (Shape(1, 16, (13, 30), (3, 3), (2, 2), (1, 1), ceil=True, halo=(2, 1)), True, None),
    (Shape(1, 16, (13, 30), (4, 5), (3, 3), (2, 2), ceil=True), False, None),
    (Shape(1, 16, (12, 12), (3, 3), (2, 2), (1, 1)), True, 5),
    (Shape(2, 40, (30,), (1, 4), (1, 3), (0, 2), ceil=True, layout="last"), True, None),
    (Shape(1, 20, (7, 7), (7, 7), (7, 7)), True, None),
]


def pool_max(x: torch.Tensor, s: Shape) -> torch.Tensor:
    if x.dim() == 3:
        return functional.max_pool1d(x, s.kernel[1], s.stride[1], s.padding[1], s.dilation[1], s.ceil)
    return functional.max_pool2d(x, s.kernel, s.stride, s.padding, s.dilation, s.ceil)


def pool_mean(x: torch.Tensor, s: Shape, counts: bool, divisor: int | None) -> torch.Tensor:
    if x.dim() == 3:
        return functional.avg_pool1d(x, s.kernel[1], s.stride[1], s.padding[1], s.ceil, counts)
    return functional.avg_pool2d(x, s.kernel, s.stride, s.padding, s.ceil, counts, divisor)


def special(array: numpy.ndarray) -> numpy.ndarray:
    """All negative, so that a zero would win, and a few special values."""
    array = -numpy.abs(array)
    flat = array.reshape(-1)
    if flat.size > 200:
        flat[[7, 90]] = numpy.nan
        flat[[33, 120]] = numpy.inf
        flat[[60, 150]] = -numpy.inf
    return array


@pytest.mark.parametrize("isa", ISAS)
def test_pools_agree_with_torch(isa: str) -> None:
    cases = Cases()
    some = slice(None) if isa == "avx512" else slice(None, None, 2)
    for s in MAXIMA[some]:
        x, numbers = cases.input(special(cases.array(s.n, s.channels, *s.size)), s.layout, s.halo)
        window = Window(s.kernel, s.stride, s.padding, s.dilation)
        y = cases.output(pool_max(numbers, s), s.layout, tolerance=0.0)
        cases.add(pool_candidates(x, y, window, image_frame(len(x.shape)), True)[0])
    for s, counts, divisor in MEANS[some]:
        x, numbers = cases.input(cases.array(s.n, s.channels, *s.size), s.layout, s.halo)
        window = Window(s.kernel, s.stride, s.padding)
        y = cases.output(pool_mean(numbers, s, counts, divisor), s.layout, tolerance=5e-7)
        cases.add(pool_candidates(x, y, window, image_frame(len(x.shape)), False, counts, divisor)[0])
    cases.check(isa)


@pytest.mark.parametrize("isa", ISAS)
def test_adaptive_and_global_pools_agree_with_torch(isa: str) -> None:
    cases = Cases()
    for n, channels, size, outputs, layout in [
        (1, 33, (7, 7), (1, 1), "blocked"),
        (2, 200, (9, 13), (1, 1), "last"),
        (1, 70, (5, 6), (1, 1), "last"),
        (1, 32, (14, 14), (7, 7), "blocked"),
        (2, 24, (13, 10), (6, 7), "blocked"),
        (1, 19, (7, 5), (3, 8), "last"),
    ]:
        x, numbers = cases.input(cases.array(n, channels, *size), layout, (1, 1) if channels == 33 else (0, 0))
        expected = functional.adaptive_avg_pool2d(numbers, outputs)
        y = cases.output(expected, "plain" if outputs == (1, 1) else layout, tolerance=5e-7)
        cases.add(adaptive_candidates(x, y, image_frame(), False)[0])
        x, numbers = cases.input(special(cases.array(n, channels, *size)), layout)
        y = cases.output(functional.adaptive_max_pool2d(numbers, outputs), "plain" if outputs == (1, 1) else layout, tolerance=0.0)
        cases.add(adaptive_candidates(x, y, image_frame(), True)[0])
    cases.check(isa)


def test_means_and_sums_over_rows() -> None:
    cases = Cases()
    array = cases.array(3, 50, 37)
    x = plain("x0", DType.f32, array.shape)
    cases.inputs[x] = array
    numbers = torch.from_numpy(array).double()
    rows, flat = Frame((0,), 2, (), (1,)), Frame((0,), 1, (), ())
    cases.add(global_candidates(x, cases.output(numbers.mean(1), "plain", tolerance=5e-7), rows, flat, False)[0])
    cases.add(global_candidates(x, cases.output(numbers.sum(1), "plain", tolerance=5e-7), rows, flat, False, divisor=1)[0])
    cases.check("avx512")


def test_chains_ride_on_pools() -> None:
    cases = Cases()
    x, numbers = cases.input(cases.array(2, 40, 12, 18), "blocked")
    other, added = cases.input(cases.array(2, 40, 6, 9), "blocked", (1, 1))
    y = cases.output((functional.max_pool2d(numbers, 2) + added).relu(), "blocked")
    window = Window((2, 2), (2, 2))
    cases.add(pool_candidates(x, y, window, image_frame(), True, chain=add_then_relu(other))[0])
    y = cases.output(functional.hardswish(functional.avg_pool2d(numbers, 2)), "blocked", tolerance=1e-6)
    cases.add(pool_candidates(x, y, window, image_frame(), False, chain=hardswish())[0])
    y = cases.output(functional.hardswish(numbers.mean((2, 3), keepdim=True)), "plain", tolerance=1e-6)
    cases.add(adaptive_candidates(x, y, image_frame(), False, hardswish())[0])
    cases.check("avx512")


def test_the_plainest_pool_is_taken() -> None:
    def image(name: str, *size: int):
        return make_storage("blocked", name, DType.f32, (1, 32, *size))

    frame = image_frame()
    found = adaptive_candidates(image("x", 14, 14), image("y", 7, 7), frame, False)[0]
    assert isinstance(found, WindowPool)
    assert found.describe() == "mean 2x2 stride 2 32 @7x7"
    assert isinstance(adaptive_candidates(image("x", 13, 13), image("y", 6, 6), frame, False)[0], AdaptivePool)
    whole = pool_candidates(image("x", 7, 7), image("y", 1, 1), Window((7, 7)), frame, False)[0]
    assert isinstance(whole, GlobalPool)
    assert whole.describe() == "mean of 32 @7x7"
    planes = make_storage("plain", "x", DType.f32, (1, 32, 14, 14))
    assert not pool_candidates(planes, image("y", 7, 7), Window((2, 2), (2, 2)), frame, True)
