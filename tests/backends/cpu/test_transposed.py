"""Transposed convolutions against torch in float64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional

from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.transposed import TransposedConv, transposed_candidates, transposed_halo
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.ir.types import DType
from tests.backends.cpu.image_cases import ISAS, Cases, add_then_relu, hardswish
from tests.backends.cpu.test_direct import padded_input


@dataclass(frozen=True)
class Shape:
    """x [n, channels, size] in a layout, and a transposed convolution to so many channels."""

    n: int
    channels: int
    outputs: int
    size: tuple[int, ...]
    convolution: Convolution
    output_padding: tuple[int, int] = (0, 0)
    layout: str = "blocked"


def conv(kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1) -> Convolution:
    return Convolution((kernel, kernel), (stride, stride), (padding, padding), (dilation, dilation), groups)


SHAPES = [
    Shape(1, 32, 48, (7, 9), conv(2, stride=2)),
    Shape(2, 17, 20, (6, 5), conv(4, stride=2, padding=1)),
    Shape(1, 24, 33, (5, 8), conv(3, stride=2, padding=1), (1, 1), "last"),
    Shape(1, 16, 16, (9, 9), conv(3, padding=1)),
    Shape(1, 20, 17, (4, 4), conv(5, stride=3, padding=2, dilation=2), (2, 0)),
    Shape(1, 16, 20, (3, 5), conv(2, stride=4), (1, 3)),
    Shape(1, 16, 18, (1, 1), conv(4)),
    Shape(1, 64, 32, (5, 6), conv(3, stride=2, padding=1, groups=2), (1, 1)),
    Shape(2, 20, 24, (11,), Convolution((1, 8), (1, 4), (0, 2), (1, 1)), layout="last"),
    Shape(1, 16, 21, (3, 2), conv(16, stride=8, padding=4)),
    Shape(1, 16, 16, (6, 4), Convolution((3, 5), (1, 3), (2, 1), (1, 1))),
]


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, shape: Shape) -> torch.Tensor:
    c = shape.convolution
    if x.dim() == 3:
        return functional.conv_transpose1d(x, weight, bias, c.stride[1], c.padding[1], shape.output_padding[1], c.groups, c.dilation[1])
    return functional.conv_transpose2d(x, weight, bias, c.stride, c.padding, shape.output_padding, c.groups, c.dilation)


@pytest.mark.parametrize("isa", ISAS)
def test_transposed_agrees_with_torch(isa: str) -> None:
    cases = Cases()
    for number, shape in enumerate(SHAPES if isa == "avx512" else SHAPES[:5]):
        c = shape.convolution
        kernel = c.kernel[2 - len(shape.size) :]
        weight, w = cases.state(shape.channels, shape.outputs // c.groups, *kernel)
        bias, b = cases.state(shape.outputs) if number % 3 else (None, None)
        array = cases.array(shape.n, shape.channels, *shape.size)
        expected = reference(torch.from_numpy(array).double(), w, b, shape)
        halo = transposed_halo(c, shape.size, expected.shape[2:])
        x, _ = padded_input(cases, array, shape.layout, halo)
        y = cases.output(expected, shape.layout, (1, 2) if len(shape.size) == 2 else (0, 0), tolerance=4e-6)
        cases.add(transposed_candidates(x, y, weight, bias, c)[0])
    cases.check(isa)


def test_chains_ride_on_phases() -> None:
    cases = Cases()
    shape = SHAPES[1]
    x, x_numbers = padded_input(cases, cases.array(2, 17, 6, 5), "blocked", (1, 1))
    weight, w = cases.state(17, 20, 4, 4)
    plain = reference(x_numbers, w, None, shape)
    other, other_numbers = cases.input(cases.array(*plain.shape), "blocked", (1, 1))
    y = cases.output((plain + other_numbers).relu(), "blocked")
    cases.add(transposed_candidates(x, y, weight, None, shape.convolution, add_then_relu(other))[0])
    y = cases.output(functional.hardswish(plain), "last", tolerance=4e-6)
    cases.add(transposed_candidates(x, y, weight, None, shape.convolution, hardswish())[1])
    cases.check("avx512")


def test_halo_is_what_the_outer_taps_reach() -> None:
    assert transposed_halo(conv(2, stride=2), (7, 7), (14, 14)) == (0, 0)
    assert transposed_halo(conv(4, stride=2, padding=1), (7, 7), (14, 14)) == (1, 1)
    assert transposed_halo(conv(3), (5, 5), (7, 7)) == (2, 2)
    assert transposed_halo(Convolution((1, 3)), (5,), (7,)) == (0, 2)


def test_a_halo_that_is_too_small_is_refused() -> None:
    x = make_storage("blocked", "x", DType.f32, (1, 16, 7, 7))
    y = make_storage("blocked", "y", DType.f32, (1, 16, 14, 14))
    assert not transposed_candidates(x, y, "w", None, conv(4, stride=2, padding=1))


def test_phases_of_one_shape_share_their_constants() -> None:
    x = make_storage("blocked", "x", DType.f32, (1, 16, 4, 4), (1, 1))
    y = make_storage("blocked", "y", DType.f32, (1, 16, 32, 32))
    kernel = TransposedConv(x, y, "w", None, conv(16, stride=8, padding=4))
    assert len(kernel.phases) == 64
    assert kernel.describe().startswith("conv 16x16 stride 8 16->16 @32x32, 64 phases, tile 1x(4x4)")
    assert kernel.flops == 2 * 16 * 16 * 256 * 16
