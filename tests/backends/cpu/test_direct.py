"""Direct convolutions against torch in float64: every candidate of every shape."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy
import pytest
import torch
from torch.nn import functional

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame, image_frame
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.dense_candidates import direct_candidates
from graphopt.backends.cpu.kernels.direct import DirectConv
from graphopt.backends.cpu.kernels.tilings import Tile, Tiling, tiles_for
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.storage import Storage
from graphopt.ir.types import DType
from tests.backends.cpu.image_cases import ISAS, Cases, add_then_relu, hardswish


@dataclass(frozen=True)
class Shape:
    """x [n, channels, size] in a layout, and a convolution to so many channels."""

    n: int
    channels: int
    outputs: int
    size: tuple[int, ...]
    convolution: Convolution
    layout: str = "blocked"
    y_layout: str = "blocked"


def conv(kernel: int, stride: int = 1, padding: int | None = None, dilation: int = 1, groups: int = 1) -> Convolution:
    same = kernel // 2 * dilation if padding is None else padding
    return Convolution((kernel, kernel), (stride, stride), (same, same), (dilation, dilation), groups)


SHAPES = [
    Shape(1, 32, 64, (14, 14), conv(3)),
    Shape(2, 17, 58, (9, 13), conv(3)),
    Shape(1, 48, 48, (15, 29), conv(3, stride=2), y_layout="last"),
    Shape(1, 3, 24, (31, 33), conv(7, stride=2, padding=3), "plain"),
    Shape(1, 3, 20, (32, 32), conv(4, stride=4, padding=0), "plain", "last"),
    Shape(2, 3, 33, (16, 48), conv(16, stride=16, padding=0), "plain", "last"),
    Shape(1, 1, 17, (10, 11), conv(5), "plain"),
    Shape(1, 58, 17, (1, 1), conv(3)),
    Shape(1, 100, 130, (1, 1), conv(1)),
    Shape(2, 40, 72, (7, 7), conv(1)),
    Shape(2, 40, 24, (11, 15), conv(1, stride=2), "last"),
    Shape(1, 160, 80, (7, 7), conv(3), "last"),
    Shape(1, 300, 32, (5, 6), conv(3, dilation=2)),
    Shape(1, 33, 16, (20, 2), Convolution((3, 5), (2, 1), (1, 2), (1, 1))),
    Shape(1, 64, 96, (10, 12), conv(3, groups=2)),
    Shape(1, 96, 48, (6, 30), conv(1, groups=3)),
    Shape(2, 48, 72, (8, 9), conv(3, groups=3), "last"),
    Shape(1, 36, 60, (9, 9), conv(3, groups=6)),
    Shape(1, 112, 112, (7, 8), conv(3, groups=2)),
    Shape(2, 64, 64, (9, 15), conv(3, groups=16)),
    Shape(1, 40, 40, (7, 29), conv(3, stride=2, groups=5), "last", "last"),
    Shape(1, 20, 20, (6, 9), Convolution((5, 3), (1, 2), (2, 1), (1, 1), 10), y_layout="last"),
    Shape(2, 40, 33, (50,), Convolution((1, 9), (1, 2), (0, 4), (1, 1)), "last", "last"),
    Shape(1, 5, 16, (40,), Convolution((1, 3), (1, 1), (0, 2), (1, 2)), "plain", "last"),
    Shape(1, 96, 96, (57, 3), conv(1)),
]


def padded_input(cases: Cases, array: numpy.ndarray, layout: str, padding: tuple[int, int]) -> tuple[Storage, torch.Tensor]:
    """An operand with zeros around it, as a halo."""
    border = padding if array.ndim == 4 else padding[1:]
    padded = numpy.pad(array, [(0, 0), (0, 0), *((size, size) for size in border)])
    whole, _ = cases.input(padded, layout)
    offset = whole.offset + sum(size * stride for size, stride in zip(border, whole.strides[2:], strict=True))
    return replace(whole, shape=array.shape, offset=offset, halo=padding), torch.from_numpy(array).double()


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, c: Convolution) -> torch.Tensor:
    if x.dim() == 3:
        return functional.conv1d(x, weight, bias, c.stride[1], c.padding[1], c.dilation[1], c.groups)
    return functional.conv2d(x, weight, bias, c.stride, c.padding, c.dilation, c.groups)


def frames(c: Convolution, x: Storage, y: Storage) -> list[Frame]:
    """Rows of pixels, and all pixels in one where the layouts allow it."""
    frame, flat = image_frame(x.rank), Frame((0,), 1, (), tuple(range(2, x.rank)))
    same = c.is_pointwise and flat.strides(x) is not None and flat.strides(y) is not None
    return [frame, flat] if same else [frame]


@pytest.mark.parametrize("isa", ISAS)
def test_direct_agrees_with_torch(isa: str) -> None:
    cases = Cases()
    for number, shape in enumerate(SHAPES if isa == "avx512" else SHAPES[:8] + SHAPES[14:23]):
        c = shape.convolution
        x, x_numbers = padded_input(cases, cases.array(shape.n, shape.channels, *shape.size), shape.layout, c.padding)
        kernel = c.kernel if len(shape.size) == 2 else c.kernel[1:]
        weight, w = cases.state(shape.outputs, shape.channels // c.groups, *kernel)
        bias, b = cases.state(shape.outputs) if number % 3 else (None, None)
        expected = reference(x_numbers, w, b, c)
        halo = (1, 2) if number % 2 and len(shape.size) == 2 else (0, 0)
        for frame in frames(c, x, make_storage(shape.y_layout, "y", DType.f32, tuple(expected.shape), halo)):
            count = len(
                direct_candidates(x, make_storage(shape.y_layout, "y", DType.f32, tuple(expected.shape), halo), weight, bias, c, frame)
            )
            assert count
            for index in range(count if isa == "avx512" else 1):
                y = cases.output(expected, shape.y_layout, halo, tolerance=4e-6)
                cases.add(direct_candidates(x, y, weight, bias, c, frame)[index])
    cases.check(isa)


def test_chunks_and_blocks_of_any_size() -> None:
    cases = Cases()
    c = conv(3)
    x, x_numbers = padded_input(cases, cases.array(2, 72, 9, 11), "blocked", (1, 1))
    weight, w = cases.state(88, 72, 3, 3)
    bias, b = cases.state(88)
    expected = reference(x_numbers, w, b, c)
    tilings = [
        Tiling(Tile(2, 1, 11), 16, 3, True),
        Tiling(Tile(4, 2, 3), 32, 7, False),
        Tiling(Tile(3, 3, 3), 48, 1, True),
        Tiling(Tile(1, 5, 5), 80, 100, False),
        Tiling(Tile(6, 1, 4), 16, 4, False),
    ]
    for tiling in tilings:
        y = cases.output(expected, "blocked", tolerance=4e-6)
        cases.add(DirectConv(x, y, weight, bias, c, image_frame(), tiling))
    for isa in ISAS:
        cases.check(isa, threads=(1, 3))


def test_chains_ride_on_direct() -> None:
    cases = Cases()
    for layout, outputs in (("blocked", 40), ("last", 33)):
        c = conv(3)
        x, x_numbers = padded_input(cases, cases.array(2, 24, 9, 17), layout, (1, 1))
        other, other_numbers = cases.input(cases.array(2, outputs, 9, 17), layout, (2, 2))
        weight, w = cases.state(outputs, 24, 3, 3)
        bias, b = cases.state(outputs)
        plain = reference(x_numbers, w, b, c)
        y = cases.output((plain + other_numbers).relu(), layout)
        cases.add(direct_candidates(x, y, weight, bias, c, image_frame(), add_then_relu(other))[0])
        y = cases.output(functional.hardswish(plain), layout, tolerance=4e-6)
        cases.add(direct_candidates(x, y, weight, bias, c, image_frame(), hardswish())[0])
    cases.check("avx512")


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
def test_special_values_stay_in_their_windows(isa: str) -> None:
    cases = Cases()
    for groups, layout in ((1, "blocked"), (1, "plain"), (2, "blocked"), (4, "last"), (6, "blocked"), (3, "last")):
        channels = 36 if groups == 6 else 24
        array = cases.array(1, channels, 12, 12)
        array[0, 3, 5, 6] = float("nan")
        array[0, channels - 1, 0, 0] = float("inf")
        c = conv(3, groups=groups)
        x, x_numbers = padded_input(cases, array, layout, (1, 1))
        weight, w = cases.state(channels, channels // groups, 3, 3)
        y = cases.output(reference(x_numbers, w, None, c), "blocked")
        cases.add(direct_candidates(x, y, weight, None, c, image_frame())[0])
    cases.check(isa)


def test_padding_needs_a_halo() -> None:
    x = make_storage("blocked", "x", DType.f32, (1, 32, 8, 8))
    y = make_storage("blocked", "y", DType.f32, (1, 32, 8, 8))
    assert not direct_candidates(x, y, "w", None, conv(3), image_frame())
    assert direct_candidates(x, y, "w", None, conv(1), image_frame())


def test_channels_between_pixels_are_refused() -> None:
    y = make_storage("blocked", "y", DType.f32, (1, 32, 8, 8))
    moved = make_storage("blocked", "x", DType.f32, (1, 8, 32, 8)).permute((0, 2, 1, 3))
    assert not direct_candidates(moved, y, "w", None, conv(1), image_frame())
    planes = make_storage("plain", "x", DType.f32, (1, 32, 8, 8))
    assert not direct_candidates(planes, y, "w", None, conv(1, groups=2), image_frame())


@pytest.mark.parametrize(
    ("vectors", "height", "width", "tile"),
    [
        (4, 56, 56, Tile(2, 1, 14)),
        (32, 7, 7, Tile(3, 1, 7)),
        (9, 1, 3136, Tile(3, 1, 9)),
        (1, 112, 112, Tile(1, 1, 28)),
    ],
)
def test_tiles_fit_the_image(vectors: int, height: int, width: int, tile: Tile) -> None:
    assert tiles_for(vectors, height, width)[0] == tile


def test_plan_text() -> None:
    x = make_storage("blocked", "x", DType.f32, (1, 64, 56, 56), (1, 1))
    y = make_storage("blocked", "y", DType.f32, (1, 64, 28, 28))
    kernel = DirectConv(x, y, "w", None, conv(3, stride=2), image_frame(), Tiling(Tile(2, 1, 14), 16, 14, False), Chain())
    assert kernel.describe() == "conv 3x3 stride 2 64->64 @28x28, tile 2x(1x14) chunk 16 block 14 x"
    assert kernel.flops == 2 * 64 * 64 * 9 * 28 * 28
