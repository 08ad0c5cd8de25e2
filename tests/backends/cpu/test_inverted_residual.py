"""Mobile blocks against torch in float64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional

from graphopt.backends.cpu.frame import image_frame
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.inverted_residual import (
    InvertedResidual,
    MobileBlock,
    inverted_residual_candidates,
    sum_parts,
    widen_depthwise_candidates,
)
from graphopt.backends.cpu.kernels.layers import Layer
from graphopt.backends.cpu.kernels.mobile_tiling import mobile_tilings, ring_runs
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.storage import plain
from graphopt.ir.types import DType
from tests.backends.cpu.image_cases import ISAS, Cases, add_then_relu, clamp6, hardswish


@dataclass(frozen=True)
class Shape:
    """x [n, channels, size], channels of the middle (None: depthwise of x) and the result, depthwise kernel and stride."""

    n: int
    channels: int
    middle: int | None
    outputs: int
    size: tuple[int, int]
    kernel: int = 3
    stride: int = 1
    layout: str = "blocked"
    halo: tuple[int, int] = (0, 0)
    long: bool = False


SHAPES = [
    Shape(1, 24, 144, 24, (28, 28)),
    Shape(2, 16, 88, 24, (15, 29), 3, 2),
    Shape(1, 33, 100, 33, (14, 14), 5, layout="last"),
    Shape(1, 40, 120, 40, (28, 27), 5, long=True),
    Shape(1, 16, 96, 24, (56, 112), 3, 2),
    Shape(1, 32, 160, 32, (7, 7), halo=(1, 1)),
    Shape(1, 24, 72, 40, (13, 17), 5, 2, "last", (2, 2), long=True),
    Shape(1, 3, 20, 5, (1, 1)),
    Shape(1, 32, None, 16, (30, 41)),
    Shape(2, 40, None, 70, (9, 14), 3, 2, "last"),
]


def square(kernel: int, stride: int, channels: int) -> Convolution:
    return Convolution((kernel, kernel), (stride, stride), (kernel // 2, kernel // 2), (1, 1), channels)


class Made:
    """The layers of a shape, and what they make."""

    def __init__(self, cases: Cases, shape: Shape) -> None:
        middle = shape.middle or shape.channels
        activation, chain = (functional.hardswish, hardswish()) if shape.long else (functional.relu6, clamp6())
        self.x, value = cases.input(cases.array(shape.n, shape.channels, *shape.size), shape.layout, shape.halo)
        widen: Layer | None = None
        if shape.middle is not None:
            weight, w = cases.state(middle, shape.channels, 1, 1, scale=shape.channels**-0.5)
            bias, b = cases.state(middle)
            value = activation(functional.conv2d(value, w, b))
            widen = Layer(weight, bias, middle, chain)
        self.convolution = square(shape.kernel, shape.stride, middle)
        weight, w = cases.state(middle, 1, shape.kernel, shape.kernel, scale=1 / shape.kernel)
        bias, b = cases.state(middle)
        self.middle = activation(functional.conv2d(value, w, b, shape.stride, shape.kernel // 2, 1, middle))
        depthwise = Layer(weight, bias, middle, chain)
        self.front = MobileBlock(widen, depthwise, None, self.convolution)
        weight, w = cases.state(shape.outputs, middle, 1, 1, scale=middle**-0.5)
        plain_result = functional.conv2d(self.middle, w)
        other, added = cases.input(cases.array(*plain_result.shape), shape.layout)
        self.result = (plain_result + added).relu()
        self.block = MobileBlock(widen, depthwise, Layer(weight, None, shape.outputs, add_then_relu(other)), self.convolution)


@pytest.mark.parametrize("isa", ISAS)
def test_blocks_agree_with_torch(isa: str) -> None:
    cases = Cases()
    for shape in SHAPES if isa == "avx512" else SHAPES[1::2]:
        made = Made(cases, shape)
        first = inverted_residual_candidates(made.x, cases.output(made.result, shape.layout), made.block, image_frame())
        assert first
        cases.add(first[0])
        for number in range(1, len(first)):
            if isa == "avx512":
                y = cases.output(made.result, shape.layout, (1, 1))
                cases.add(inverted_residual_candidates(made.x, y, made.block, image_frame())[number])
    cases.check(isa)


@pytest.mark.parametrize("isa", ISAS)
def test_the_front_of_a_block_and_its_sums(isa: str) -> None:
    cases = Cases()
    for shape in SHAPES[:5] if isa == "avx512" else SHAPES[1:3]:
        made = Made(cases, shape)
        y = cases.output(made.middle, shape.layout)
        for parts in sum_parts(made.x, y, made.front, image_frame())[: 2 if isa == "avx512" else 1]:
            y = cases.output(made.middle, shape.layout)
            rows = -(-y.shape[2] // parts)
            bands = [made.middle[:, :, first : first + rows].sum((2, 3)) for first in range(0, y.shape[2], rows)]
            sums = cases.output(torch.stack(bands, 1), "plain", tolerance=3e-6)
            cases.add(widen_depthwise_candidates(made.x, y, sums, made.front, image_frame())[0])
        del cases.outputs[next(storage for storage in cases.outputs if not any(storage in kernel.writes for kernel in cases.kernels))]
    cases.check(isa)


def image(name: str, *shape: int):
    return make_storage("blocked", name, DType.f32, shape)


def block(channels: int, middle: int, outputs: int, stride: int = 1) -> MobileBlock:
    convolution = square(3, stride, middle)
    return MobileBlock(Layer("w1", None, middle), Layer("w2", None, middle), Layer("w3", None, outputs), convolution)


def test_large_images_are_cut_into_bands_and_small_ones_into_channels() -> None:
    large = inverted_residual_candidates(image("x", 1, 24, 56, 56), image("y", 1, 24, 56, 56), block(24, 144, 24), image_frame())
    assert large[0].tiling.split == "bands"
    assert large[0].scratch * 4 < 800 * 1024
    small = inverted_residual_candidates(image("x", 1, 160, 7, 7), image("y", 1, 160, 7, 7), block(160, 960, 160), image_frame())
    assert small[0].tiling.split == "channels"
    assert small[0].describe().startswith("160 ->960, conv 3x3, ->160 @7x7, channels, step 7, tiles 3x7 ")


def test_tiles_are_no_longer_than_runs_of_pixels() -> None:
    for size in range(1, 40):
        for stride in (1, 2):
            rows = (size - 1) // stride + 1
            shape = block(16, 64, 32, stride).shape(image("x", 1, 16, size, size), image("y", 1, 32, rows, rows), image_frame())
            for tiling in mobile_tilings(shape):
                runs = list(ring_runs(shape, tiling.band, tiling.step, tiling.ring))
                assert tiling.widen.pixels <= min(runs)
                assert sum(runs) >= size * size or stride > 1


def test_layers_have_to_belong_to_each_other() -> None:
    x, y = image("x", 1, 24, 8, 8), image("y", 1, 24, 8, 8)
    wrong = MobileBlock(
        Layer("w", None, 100), Layer("w", None, 144), Layer("w", None, 24), Convolution((3, 3), (1, 1), (1, 1), (1, 1), 144)
    )
    assert not inverted_residual_candidates(x, y, wrong, image_frame())
    planes = plain("x", DType.f32, (1, 24, 8, 8))
    assert not inverted_residual_candidates(planes, y, block(24, 144, 24), image_frame())


def test_flops_count_each_layer_once() -> None:
    x, y = image("x", 1, 16, 8, 8), image("y", 1, 32, 4, 4)
    kernel = inverted_residual_candidates(x, y, block(16, 64, 32, 2), image_frame())[0]
    assert isinstance(kernel, InvertedResidual)
    assert kernel.flops == 2 * (64 * 16 * 64 + 16 * 64 * 9 + 16 * 64 * 32)
