"""Gates per channel against torch in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from graphopt.backends.cpu.chain import Chain, Operation, TheValue
from graphopt.backends.cpu.frame import image_frame
from graphopt.backends.cpu.kernels.layers import Layer
from graphopt.backends.cpu.kernels.pixel_tiles import PixelTile
from graphopt.backends.cpu.kernels.squeeze_excite import GatedPointwise, SqueezeExcite, gated_candidates
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.storage import plain
from graphopt.ir.types import DType
from tests.backends.cpu.image_cases import ISAS, Cases, add_then_relu, hardswish, relu

SIGMOID = Chain((Operation("sigmoid", (TheValue(),)),))


def layers(cases: Cases, channels: int, hidden: int) -> tuple[Layer, Layer, list[torch.Tensor]]:
    w1, w1_numbers = cases.state(hidden, channels, 1, 1, scale=channels**-0.5)
    b1, b1_numbers = cases.state(hidden)
    w2, w2_numbers = cases.state(channels, hidden, 1, 1, scale=hidden**-0.5)
    numbers = [w1_numbers.flatten(1), b1_numbers, w2_numbers.flatten(1)]
    return Layer(w1, b1, hidden, relu()), Layer(w2, None, channels, SIGMOID), numbers


def gates(means: torch.Tensor, numbers: list[torch.Tensor]) -> torch.Tensor:
    w1, b1, w2 = numbers
    return (((means @ w1.T) + b1).relu() @ w2.T).sigmoid()


@pytest.mark.parametrize("isa", ISAS)
def test_gates_agree_with_torch(isa: str) -> None:
    cases = Cases()
    for n, channels, hidden in [(1, 16, 8), (2, 72, 24), (1, 250, 17), (3, 480, 120), (1, 1152, 48), (1, 3, 1)]:
        squeeze, excite, numbers = layers(cases, channels, hidden)
        array = cases.array(n, channels, 1, 1)
        x, means = cases.input(array, "plain")
        y = cases.output(gates(means.flatten(1), numbers)[:, :, None, None], "plain")
        cases.add(SqueezeExcite(x, y, squeeze, excite, image_frame()))
    cases.check(isa)


def test_sums_of_parts_are_means() -> None:
    cases = Cases()
    for n, parts, channels in [(2, 4, 72), (1, 2, 33)]:
        squeeze, excite, numbers = layers(cases, channels, 16)
        array = cases.array(n, parts, channels)
        x = plain(f"x{len(cases.inputs)}", DType.f32, array.shape)
        cases.inputs[x] = array
        means = torch.from_numpy(array).double().sum(1) / 49
        y = cases.output(gates(means, numbers)[:, :, None, None], "plain")
        cases.add(SqueezeExcite(x, y, squeeze, excite, image_frame(), 49))
    cases.check("avx512")


@pytest.mark.parametrize("isa", ISAS)
def test_gated_convolutions_agree_with_torch(isa: str) -> None:
    cases = Cases()
    for n, channels, outputs, size, layout, halo in [
        (1, 72, 40, (7, 7), "blocked", (0, 0)),
        (2, 33, 24, (5, 9), "last", (0, 0)),
        (1, 240, 80, (14, 14), "blocked", (1, 1)),
        (1, 17, 100, (1, 1), "blocked", (0, 0)),
    ]:
        x, x_numbers = cases.input(cases.array(n, channels, *size), layout, halo)
        gate, gate_numbers = cases.input(cases.array(n, channels, 1, 1), "plain")
        weight, w = cases.state(outputs, channels, 1, 1)
        bias, b = cases.state(outputs)
        other, added = cases.input(cases.array(n, outputs, *size), layout)
        plain_result = functional.conv2d(x_numbers * gate_numbers, w, b)
        for chain, expected in ((add_then_relu(other), (plain_result + added).relu()), (hardswish(), functional.hardswish(plain_result))):
            for tile in (PixelTile(2, min(5, size[1])), PixelTile(3, 1)):
                cases.add(GatedPointwise(x, gate, cases.output(expected, layout), Layer(weight, bias, outputs, chain), image_frame(), tile))
    cases.check(isa)


def test_gates_go_into_weights_where_these_are_fewer() -> None:
    def candidates(size: int) -> list[GatedPointwise]:
        x, y = (make_storage("blocked", name, DType.f32, (1, 64, size, size)) for name in "xy")
        gate = make_storage("plain", "gate", DType.f32, (1, 64, 1, 1))
        return gated_candidates(x, gate, y, Layer("w", None, 64, relu()), image_frame())

    assert candidates(14)[0].describe() == "gate + conv 1x1 64->64 @14x14 + relu, tile 2x14"
    assert not candidates(7)
