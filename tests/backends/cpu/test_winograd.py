"""Winograd convolutions against torch in float64: shapes, layouts, schedules, threads, machines, errors."""

from __future__ import annotations

from typing import Literal

import numpy
import pytest
import torch

from graphopt.backends.cpu.chain import Chain, Constant, FromOperation, Operation, TheValue
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.winograd import WinogradConv, WinogradTiling, winograd_refusal
from graphopt.backends.cpu.kernels.winograd_transforms import ORDERS, matrices, transform_weight, winograd_error
from graphopt.backends.cpu.storage import blocked, plain
from graphopt.ir.types import DType
from tests.backends.cpu.image_cases import ISAS, Cases, add_then_relu
from tests.backends.cpu.support import Built, memory_of, value_of

F32 = DType.f32
Schedule = Literal["tiles", "channels"]

TOLERANCE = {2: 2e-6, 4: 1e-5, 6: 2e-5}
"""Largest error / largest output by order."""


def _tanh_chain() -> Chain:
    """Long enough for a loop of its own."""
    return Chain(
        (Operation("mul", (TheValue(), Constant(0.5))), Operation("tanh", (FromOperation(0),)), Operation("relu", (FromOperation(1),)))
    )


def _add(
    cases: Cases,
    shape: tuple[int, int, int, int],
    outputs: int,
    tiling: WinogradTiling,
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    layouts: tuple[str, str] = ("blocked", "blocked"),
    halo: tuple[int, int] = (0, 0),
    chain: Literal["", "residual", "tanh"] = "",
    pool: bool = False,
    bias: bool = True,
) -> None:
    """One convolution, its numbers, and what torch makes of them."""
    x, x64 = cases.input(cases.array(*shape), layouts[0], halo)
    weight, weight64 = cases.state(outputs, shape[1], 3, 3, scale=(9 * shape[1]) ** -0.5)
    bias_name, bias64 = cases.state(outputs) if bias else (None, None)
    want = torch.nn.functional.conv2d(x64, weight64, bias64, padding=padding, dilation=dilation)
    made = Chain()
    if chain == "residual":
        other, other64 = cases.input(cases.array(*want.shape), "last")
        made, want = add_then_relu(other), torch.relu(want + other64)
    elif chain == "tanh":
        made, want = _tanh_chain(), torch.relu(torch.tanh(want * 0.5))
    if pool:
        want = torch.nn.functional.max_pool2d(want, 2)
    y = cases.output(want, layouts[1], halo, TOLERANCE[tiling.order])
    cases.add(WinogradConv(x, y, weight, bias_name, Convolution((3, 3), padding=padding, dilation=dilation), tiling, made, pool))


@pytest.mark.parametrize("isa", ISAS)
def test_equals_torch_on_any_number_of_threads(isa: str) -> None:
    """Channels 3, 17, 58; one pixel; images that tiles do not divide; no halo, or one of NaN."""
    cases = Cases()
    _add(cases, (1, 48, 14, 14), 64, WinogradTiling(4, "tiles", 14), halo=(1, 2), chain="residual")
    _add(cases, (2, 17, 9, 13), 58, WinogradTiling(2, "channels", 20), layouts=("last", "last"))
    _add(cases, (1, 20, 13, 11), 48, WinogradTiling(6, "channels", 4, 3, 3), padding=(2, 1), dilation=(2, 3))
    _add(cases, (1, 16, 13, 22), 16, WinogradTiling(6, "tiles", 8), halo=(2, 1), chain="residual", pool=True)
    _add(cases, (1, 32, 7, 5), 80, WinogradTiling(4, "channels", 3), padding=(0, 0), layouts=("last", "blocked"), chain="tanh")
    _add(cases, (1, 150, 9, 11), 36, WinogradTiling(4, "tiles", 9), halo=(1, 1))
    if isa == "avx512":
        _add(cases, (1, 144, 12, 12), 33, WinogradTiling(6, "tiles", 3, 4), layouts=("blocked", "last"), chain="residual")
        _add(cases, (2, 3, 1, 1), 16, WinogradTiling(2, "tiles", 5), bias=False)
        _add(cases, (1, 30, 9, 8), 20, WinogradTiling(4, "tiles", 6), layouts=("blocked", "last"), pool=True)
    cases.check(isa)


def test_errors_are_predicted_and_bad_numbers_spread() -> None:
    kernels: list[WinogradConv] = []
    cases = Cases()
    for order in ORDERS:
        _add(cases, (1, 128, 24, 24), 32, WinogradTiling(order, "tiles", 16), bias=False)
    kernels = [kernel for kernel in cases.kernels if isinstance(kernel, WinogradConv)]
    built = Built(kernels, list(cases.inputs), list(cases.outputs), cases.states)
    arrays = {storage: array.copy() for storage, array in cases.inputs.items()}
    clean = built.run({storage.buffer: memory_of(array, storage) for storage, array in arrays.items()})
    for array in arrays.values():
        array[0, 3, 7, 8] = numpy.nan
        array[0, 4, 23, 23] = numpy.inf
    bad = built.run({storage.buffer: memory_of(array, storage) for storage, array in arrays.items()})
    for kernel, (want, _) in zip(kernels, cases.outputs.values(), strict=True):
        order = kernel.tiling.order
        y = value_of(clean[kernel.y.buffer], kernel.y)
        measured = float(numpy.abs(y - want.numpy()).max() / want.abs().max())
        assert 0.4 < winograd_error(cases.states[kernel.weight], order) / measured < 2.5, f"order {order}: measured {measured}"
        y = value_of(bad[kernel.y.buffer], kernel.y)
        assert numpy.isnan(y[0, :, 6:9, 7:10]).all(), "all outputs that read the NaN"
        assert not numpy.isfinite(y[0, :, 22:, 22:]).any(), "an infinity may become a NaN"
        assert numpy.isfinite(y[0, :, :12, 16:]).all(), "tiles that read neither"


@pytest.mark.parametrize("order", ORDERS)
def test_matrices_filter(order: int) -> None:
    found = matrices(order)
    rng = numpy.random.default_rng(order)
    data, taps = rng.standard_normal(order + 2), rng.standard_normal(3)
    y = found.outputs @ ((found.weights @ taps) * (found.inputs @ data))
    assert numpy.allclose(y, numpy.correlate(data, taps, "valid"), atol=1e-13)
    assert numpy.array_equal(found.inputs, found.inputs.astype(numpy.float32))


def test_predicted_error_grows_with_the_order() -> None:
    weight = numpy.random.default_rng(5).standard_normal((16, 32, 3, 3)).astype(numpy.float32)
    errors = [winograd_error(weight, order) for order in ORDERS]
    assert errors == sorted(errors)
    assert 1e-7 < errors[0] < 1e-6
    assert errors[2] < 2e-5
    assert winograd_error(numpy.zeros_like(weight), 6) == 0.0
    weight[3, 3, 1, 1] = numpy.inf
    assert winograd_error(weight, 2) == numpy.inf


def test_weights_are_packed_in_the_order_of_the_product() -> None:
    x, y = blocked("x", F32, (1, 5, 8, 8)), blocked("y", F32, (1, 88, 8, 8))
    kernel = WinogradConv(x, y, "w", None, Convolution((3, 3), padding=(1, 1)), WinogradTiling(2, "tiles", 4, panel=4))
    weight = numpy.random.default_rng(0).standard_normal((88, 5, 3, 3)).astype(numpy.float32)
    packed, bias = kernel.pack(lambda name: weight)
    u = transform_weight(weight, 2)
    assert [array.size for array in (packed, bias)] == [numpy.prod(p.shape) for p in kernel.packed]
    first, second = packed[: 16 * 5 * 64].reshape(16, 2, 5, 32), packed[16 * 5 * 64 :].reshape(16, 5, 32)
    assert numpy.array_equal(first.transpose(0, 1, 3, 2).reshape(16, 64, 5), u[:, :64])
    assert numpy.array_equal(second.transpose(0, 2, 1)[:, :24], u[:, 64:])
    assert not second[:, :, 24:].any(), "outputs 88 to 95 do not exist"
    assert not bias.any()


def test_refusals_say_why() -> None:
    x, y = blocked("x", F32, (1, 16, 8, 8)), blocked("y", F32, (1, 16, 8, 8))
    conv = Convolution((3, 3), padding=(1, 1))
    assert winograd_refusal(x, y, conv) is None
    assert winograd_refusal(x, y, Convolution((3, 3), stride=(2, 2))) == "conv 3x3 stride 2 is not 3x3 with stride 1 and one group"
    assert winograd_refusal(plain("x", F32, (1, 16, 8, 8)), y, conv) == "x f32[1,16,8,8] has no 16 channels side by side"
