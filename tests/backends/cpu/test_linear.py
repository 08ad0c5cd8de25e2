"""Linear layers and 1x1 convolutions as products, against torch in float64: every candidate of every shape."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from graphopt.backends.cpu.frame import Frame, image_frame, rows_frame
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.dense_candidates import linear_candidates
from graphopt.backends.cpu.kernels.linear import Linear, LinearTiling, LinearVector
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.storage import Storage
from graphopt.ir.types import DType
from tests.backends.cpu.image_cases import ISAS, Cases, add_then_relu, hardswish

ROWS = [
    ((13, 40), 50),
    ((1, 100), 33),
    ((3, 64), 130),
    ((8, 70), 40),
    ((5, 17), 16),
    ((2, 9, 130), 96),
    ((128, 300), 112),
    ((197, 48), 100),
    ((50, 1), 3),
    ((40, 129), 1),
    ((700, 32), 64),
]

IMAGES = [
    # n, channels, outputs, size, stride, layout, layout of y
    (1, 96, 160, (7, 7), 1, "blocked", "blocked"),
    (2, 33, 40, (9, 11), 2, "blocked", "last"),
    (3, 48, 72, (5, 5), 1, "last", "blocked"),
    (4, 200, 24, (1, 1), 1, "blocked", "blocked"),
    (1, 36, 20, (1, 9), 2, "last", "last"),
]


def every_candidate(
    cases: Cases, x: Storage, expected: torch.Tensor, layout: str, weight: str, bias: str | None, frame: Frame, *more: object
) -> None:
    """All candidates, each with a result of its own."""
    probe = make_storage(layout, "y", DType.f32, tuple(expected.shape))
    for index in range(len(linear_candidates(x, probe, weight, bias, frame, *more))):  # pyright: ignore[reportArgumentType]
        y = cases.output(expected, layout, tolerance=4e-6)
        cases.add(linear_candidates(x, y, weight, bias, frame, *more)[index])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("isa", ISAS)
def test_rows_agree_with_torch(isa: str) -> None:
    cases = Cases()
    for number, (shape, outputs) in enumerate(ROWS):
        x, x_numbers = cases.input(cases.array(*shape), "plain")
        weight, w = cases.state(outputs, shape[-1])
        bias, b = cases.state(outputs) if number % 3 else (None, None)
        every_candidate(cases, x, functional.linear(x_numbers, w, b), "plain", weight, bias, rows_frame(len(shape)))
    cases.check(isa)


@pytest.mark.parametrize("isa", ISAS)
def test_images_agree_with_torch(isa: str) -> None:
    cases = Cases()
    for n, channels, outputs, size, stride, layout, y_layout in IMAGES:
        x, x_numbers = cases.input(cases.array(n, channels, *size), layout)
        weight, w = cases.state(outputs, channels, 1, 1)
        bias, b = cases.state(outputs)
        expected = functional.conv2d(x_numbers, w, b, stride)
        every_candidate(cases, x, expected, y_layout, weight, bias, image_frame(), None, (stride, stride))
    cases.check(isa)


def test_tiles_chunks_and_blocks_of_any_size() -> None:
    cases = Cases()
    x, x_numbers = cases.input(cases.array(75, 150), "plain")
    weight, w = cases.state(100, 150)
    bias, b = cases.state(100)
    expected = functional.linear(x_numbers, w, b)
    for tiling in (
        LinearTiling(2, 14, 32, 2, True),
        LinearTiling(3, 8, 48, 3, False),
        LinearTiling(4, 5, 150, 4, False),
        LinearTiling(1, 16, 16, 1, True),
        LinearTiling(3, 9, 64, 20, True),
        LinearTiling(2, 1, 64, 7, False),
    ):
        cases.add(Linear(x, cases.output(expected, "plain", tolerance=4e-6), weight, bias, rows_frame(2), tiling))
    for isa in ISAS:
        cases.check(isa, threads=(1, 3))


def test_rows_of_a_slice_and_groups_of_channels() -> None:
    cases = Cases()
    whole, numbers = cases.input(cases.array(6, 5, 64), "plain")
    first = whole.select(1, 0)
    part = whole.slice(2, 16, 48)
    assert first is not None
    assert part is not None
    for x, rows in ((first, numbers[:, 0]), (part, numbers[:, :, 16:48])):
        weight, w = cases.state(48, x.shape[-1])
        every_candidate(cases, x, functional.linear(rows, w), "plain", weight, None, rows_frame(x.rank))
    cases.check("avx512")


def test_chains_ride_on_linear() -> None:
    cases = Cases()
    for rows in (1, 20):
        x, x_numbers = cases.input(cases.array(rows, 64), "plain")
        other, other_numbers = cases.input(cases.array(rows, 40), "plain")
        weight, w = cases.state(40, 64)
        bias, b = cases.state(40)
        plain = functional.linear(x_numbers, w, b)
        every_candidate(cases, x, (plain + other_numbers).relu(), "plain", weight, bias, rows_frame(2), add_then_relu(other))
        every_candidate(cases, x, functional.hardswish(plain), "plain", weight, bias, rows_frame(2), hardswish())
    cases.check("avx512")


def test_special_values_stay_in_their_rows() -> None:
    cases = Cases()
    array = cases.array(20, 40)
    array[3, 39] = float("nan")
    array[19, 0] = float("-inf")
    x, x_numbers = cases.input(array, "plain")
    weight, w = cases.state(24, 40)
    every_candidate(cases, x, functional.linear(x_numbers, w), "plain", weight, None, rows_frame(2))
    cases.check("avx512")


def _candidates(rows: int, depth: int, outputs: int) -> list[Kernel]:
    x = make_storage("plain", "x", DType.f32, (rows, depth))
    return linear_candidates(x, make_storage("plain", "y", DType.f32, (rows, outputs)), "w", None, rows_frame(2))


def test_few_rows_stream_the_weights() -> None:
    assert isinstance(_candidates(1, 2048, 1000)[0], LinearVector)
    assert isinstance(_candidates(8, 2048, 1000)[0], LinearVector)
    assert not any(isinstance(kernel, LinearVector) for kernel in _candidates(9, 2048, 1000))


def test_plan_text() -> None:
    kernel = _candidates(128, 768, 3072)[0]
    assert kernel.describe() == "128 x 768->3072, tile 3x8 chunk 768 block 16 shared"
    assert kernel.flops == 2 * 128 * 768 * 3072


def test_broadcast_operands_are_refused() -> None:
    row = make_storage("plain", "x", DType.f32, (4, 1)).expand((4, 32))
    assert row is not None
    assert not linear_candidates(row, make_storage("plain", "y", DType.f32, (4, 8)), "w", None, rows_frame(2))
