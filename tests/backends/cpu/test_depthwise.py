"""Depthwise convolutions against torch in float64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional

from graphopt.backends.cpu.frame import image_frame
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.depthwise import DepthwiseConv, depthwise_candidates
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.ir.types import DType
from tests.backends.cpu.image_cases import ISAS, Cases, add_then_relu, hardswish


@dataclass(frozen=True)
class Shape:
    """x [n, channels, size] in a layout, and the convolution."""

    n: int
    channels: int
    size: tuple[int, ...]
    convolution: Convolution
    layout: str = "blocked"
    halo: tuple[int, int] = (0, 0)
    multiplier: int = 1


def conv(kernel: int, channels: int, stride: int = 1, padding: int | None = None, dilation: int = 1) -> Convolution:
    same = kernel // 2 * dilation if padding is None else padding
    return Convolution((kernel, kernel), (stride, stride), (same, same), (dilation, dilation), channels)


SHAPES = [
    Shape(1, 32, (15, 29), conv(3, 32)),
    Shape(2, 17, (7, 7), conv(3, 17), halo=(1, 1)),
    Shape(1, 58, (30, 31), conv(3, 58, stride=2), "last"),
    Shape(1, 3, (5, 5), conv(3, 3), "last"),
    Shape(2, 24, (14, 20), conv(5, 24)),
    Shape(1, 16, (9, 33), conv(5, 16, stride=2), halo=(2, 3)),
    Shape(1, 40, (16, 18), conv(7, 40), "last"),
    Shape(1, 48, (7, 7), conv(7, 48), "last"),
    Shape(1, 16, (40, 40), conv(3, 16, dilation=6)),
    Shape(1, 16, (12, 45), conv(11, 16)),
    Shape(1, 16, (1, 1), conv(3, 16)),
    Shape(1, 20, (2, 1), conv(5, 20), "last"),
    Shape(1, 16, (10, 10), conv(3, 16, padding=0)),
    Shape(1, 16, (10, 10), conv(3, 16, stride=3, padding=2)),
    Shape(1, 16, (8, 8), conv(1, 16, stride=2, padding=0)),
    Shape(2, 32, (11, 23), Convolution((3, 5), (2, 1), (1, 0), (1, 2), 32)),
    Shape(1, 12, (13, 9), conv(3, 12), multiplier=2),
    Shape(1, 20, (9, 16), conv(3, 20, stride=2), "last", multiplier=3),
    Shape(2, 40, (50,), Convolution((1, 9), (1, 1), (0, 4), (1, 1), 40), "last"),
    Shape(1, 96, (57, 57), conv(7, 96), "last"),
]


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, c: Convolution) -> torch.Tensor:
    if x.dim() == 3:
        return functional.conv1d(x, weight, bias, c.stride[1], c.padding[1], c.dilation[1], c.groups)
    return functional.conv2d(x, weight, bias, c.stride, c.padding, c.dilation, c.groups)


@pytest.mark.parametrize("isa", ISAS)
def test_depthwise_agrees_with_torch(isa: str) -> None:
    cases = Cases()
    for number, shape in enumerate(SHAPES if isa == "avx512" else SHAPES[1::2]):
        c = shape.convolution
        x, x_numbers = cases.input(cases.array(shape.n, shape.channels, *shape.size), shape.layout, shape.halo)
        frame = image_frame(len(x.shape))
        kernel = c.kernel if len(shape.size) == 2 else c.kernel[1:]
        weight, w = cases.state(shape.channels * shape.multiplier, 1, *kernel)
        bias, b = cases.state(shape.channels * shape.multiplier) if number % 3 else (None, None)
        expected = reference(x_numbers, w, b, c)
        candidates = depthwise_candidates(x, cases.output(expected, shape.layout, (1, 2) if number % 2 else (0, 0)), weight, bias, c, frame)
        assert candidates
        cases.add(candidates[0])
        for other in candidates[1:]:
            y = cases.output(expected, shape.layout)
            cases.add(depthwise_candidates(x, y, weight, bias, c, frame)[candidates.index(other)])
    cases.check(isa)


def test_chains_ride_on_depthwise() -> None:
    cases = Cases()
    for layout, channels in (("blocked", 40), ("last", 33)):
        c = conv(3, channels)
        x, x_numbers = cases.input(cases.array(2, channels, 9, 17), layout)
        other, other_numbers = cases.input(cases.array(2, channels, 9, 17), layout, (2, 2))
        weight, w = cases.state(channels, 1, 3, 3)
        bias, b = cases.state(channels)
        plain = reference(x_numbers, w, b, c)
        y = cases.output((plain + other_numbers).relu(), layout)
        cases.add(depthwise_candidates(x, y, weight, bias, c, image_frame(), add_then_relu(other))[0])
        y = cases.output(functional.hardswish(plain), layout, tolerance=4e-6)
        cases.add(depthwise_candidates(x, y, weight, bias, c, image_frame(), hardswish())[0])
    cases.check("avx512")


def test_special_values_stay_in_their_windows() -> None:
    cases = Cases()
    array = cases.array(1, 16, 12, 12)
    array[0, 3, 5, 6] = float("nan")
    array[0, 4, 0, 0] = float("inf")
    c = conv(3, 16)
    x, x_numbers = cases.input(array, "blocked")
    weight, w = cases.state(16, 1, 3, 3)
    y = cases.output(reference(x_numbers, w, None, c), "blocked")
    cases.add(depthwise_candidates(x, y, weight, None, c, image_frame())[0])
    cases.check("avx512")


def test_candidates_are_depthwise_only() -> None:
    x = make_storage("blocked", "x", DType.f32, (1, 32, 8, 8))
    y = make_storage("blocked", "y", DType.f32, (1, 32, 8, 8))
    assert not depthwise_candidates(x, y, "w", None, Convolution((3, 3), padding=(1, 1), groups=2), image_frame())
    planes = make_storage("plain", "x", DType.f32, (1, 32, 8, 8))
    assert not depthwise_candidates(planes, y, "w", None, conv(3, 32), image_frame())


def test_large_channels_last_images_are_tried_in_two_orders() -> None:
    x = make_storage("last", "x", DType.f32, (1, 96, 56, 56))
    y = make_storage("last", "y", DType.f32, (1, 96, 56, 56))
    found = depthwise_candidates(x, y, "w", None, conv(7, 96), image_frame())
    assert [kernel.band for kernel in found] == [2, 56]
    assert found[0].describe() == "conv 7x7 groups 96 96->96 @56x56, 2 rows at a time"


def test_flops_are_those_of_the_op() -> None:
    x = make_storage("blocked", "x", DType.f32, (1, 32, 8, 8))
    kernel = DepthwiseConv(x, x.moved("y"), "w", None, conv(3, 32), image_frame(), 8)
    assert kernel.flops == 2 * 32 * 8 * 8 * 9
