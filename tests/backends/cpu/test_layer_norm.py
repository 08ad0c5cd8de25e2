"""Layer norm and RMS norm against torch in float64, on rows and images of every layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy
import pytest
import torch
from torch.nn import functional

from graphopt.backends.cpu.chain import Chain, FromOperand, Operation, TheValue
from graphopt.backends.cpu.kernels.layer_norm import LayerNorm, layer_norm_candidates
from graphopt.backends.cpu.storage import Storage, blocked, channels_last, plain
from graphopt.ir.types import DType
from tests.backends.cpu.support import Array, Built, memory_of, value_of

F32 = DType.f32


@dataclass(frozen=True)
class Case:
    """Rows of `shape` in layout "plain", or [N, H, W, C] of an image that is "blocked" or "last"."""

    shape: tuple[int, ...]
    layout: str = "plain"
    out: str = ""
    axes: int = 1
    affine: str = "wb"
    is_rms: bool = False
    residual: bool = False
    keep: bool = False
    relu: bool = False
    halo: tuple[int, int] = (0, 0)


CASES = [
    Case((2, 197, 768)),
    Case((1, 56, 57, 96), layout="last"),
    Case((2, 5, 7, 58), layout="blocked", halo=(1, 2)),
    Case((1, 6, 6, 40), layout="blocked", out="last", affine="", relu=True),
    Case((1, 6, 5, 32), layout="last", out="blocked", residual=True, keep=True, halo=(1, 1)),
    Case((3, 17), affine="w"),
    Case((1, 1, 1)),
    Case((3, 4, 5, 7), axes=2),
    Case((2, 33, 130), residual=True),
    Case((2, 33, 131), residual=True, keep=True, relu=True),
    Case((2, 9, 100), is_rms=True, affine="w"),
    Case((2, 9, 64), is_rms=True, affine="", residual=True),
    Case((5, 1024), affine="b"),
]


def _storage(name: str, shape: tuple[int, ...], layout: str, halo: tuple[int, int]) -> Storage:
    if layout == "plain":
        return plain(name, F32, shape)
    n, h, w, c = shape
    make = blocked if layout == "blocked" else channels_last
    return make(name, F32, (n, c, h, w), halo).permute((0, 2, 3, 1))


class Prepared:
    """A case's storages, arrays and kernel."""

    def __init__(self, number: int, case: Case, random: numpy.random.Generator) -> None:
        self.case = case
        name = f"c{number}"
        self.x = _storage(f"{name}x", case.shape, case.layout, case.halo)
        self.y = _storage(f"{name}y", case.shape, case.out or case.layout, case.halo)
        self.z = _storage(f"{name}z", case.shape, case.out or case.layout, case.halo) if case.keep else None
        normalised = case.shape[len(case.shape) - case.axes :]
        self.inputs: dict[Storage, Array] = {self.x: (random.standard_normal(case.shape) * 3 + 5).astype(numpy.float32)}
        self.states = {f"{name}{kind}": random.standard_normal(normalised).astype(numpy.float32) for kind in case.affine}
        before = Chain()
        if case.residual:
            other = _storage(f"{name}r", case.shape, case.layout, case.halo)
            self.inputs[other] = random.standard_normal(case.shape).astype(numpy.float32)
            before = Chain((Operation("add", (TheValue(), FromOperand(0))),), (other,))
        chain = Chain((Operation("relu", (TheValue(),)),)) if case.relu else Chain()
        weight, bias = (f"{name}{kind}" if kind in case.affine else None for kind in "wb")
        (kernel,) = layer_norm_candidates(self.x, self.y, weight, bias, 1e-5, case.axes, case.is_rms, before, self.z, chain)
        self.kernel = cast(LayerNorm, kernel)
        self.outputs = [self.y] if self.z is None else [self.y, self.z]

    def expected(self) -> list[torch.Tensor]:
        z = sum((torch.from_numpy(array).double() for array in self.inputs.values()), torch.zeros(()).double())
        states = {name[-1]: torch.from_numpy(array).double() for name, array in self.states.items()}
        normalised = self.case.shape[len(self.case.shape) - self.case.axes :]
        if self.case.is_rms:
            y = functional.rms_norm(z, normalised, states.get("w"), 1e-5)
        else:
            y = functional.layer_norm(z, normalised, states.get("w"), states.get("b"), 1e-5)
        return [y.relu() if self.case.relu else y, *([z] if self.case.keep else [])]


@pytest.fixture(scope="module")
def prepared() -> list[Prepared]:
    random = numpy.random.default_rng(2)
    return [Prepared(number, case, random) for number, case in enumerate(CASES)]


@pytest.fixture(scope="module")
def build(prepared: list[Prepared]) -> Callable[[str], Built]:
    built: dict[str, Built] = {}

    def make(isa: str) -> Built:
        if isa not in built:
            inputs = [storage for item in prepared for storage in item.inputs]
            outputs = [storage for item in prepared for storage in item.outputs]
            states = {name: array for item in prepared for name, array in item.states.items()}
            built[isa] = Built([item.kernel for item in prepared], inputs, outputs, states, isa)
        return built[isa]

    return make


def _run(built: Built, prepared: list[Prepared], threads: int, fill: float = 0.0) -> list[list[Array]]:
    memories = {storage.buffer: memory_of(array, storage, fill) for item in prepared for storage, array in item.inputs.items()}
    found = built.run(memories, threads)
    return [[value_of(found[storage.buffer], storage) for storage in item.outputs] for item in prepared]


@pytest.mark.parametrize("isa", ["avx512", "avx2", "generic"])
def test_against_torch(isa: str, build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    # what lies between the values of a storage (halo, padding lanes) must not matter
    for item, found in zip(prepared, _run(build(isa), prepared, 2, fill=numpy.nan), strict=True):
        for got, expected in zip(found, item.expected(), strict=True):
            error = (torch.from_numpy(got).double() - expected).abs().max()
            assert error < 2e-6 * (1 + expected.abs().max()), f"{item.kernel.describe()}: {error:.1e}"


def test_error_is_at_most_that_of_torch(build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    item = prepared[0]
    (found,) = _run(build("avx512"), prepared, 1)[0]
    (expected,) = item.expected()
    (array,) = item.inputs.values()
    states = {name[-1]: torch.from_numpy(numbers) for name, numbers in item.states.items()}
    torch_error = (functional.layer_norm(torch.from_numpy(array), (768,), states["w"], states["b"]).double() - expected).abs().mean()
    assert (torch.from_numpy(found).double() - expected).abs().mean() < 1.05 * torch_error


def test_any_number_of_threads_is_bitwise_the_same(build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    one = _run(build("avx512"), prepared, 1)
    for threads in (2, 4):
        for first, other in zip(one, _run(build("avx512"), prepared, threads), strict=True):
            assert [array.tobytes() for array in first] == [array.tobytes() for array in other]


def test_a_nan_makes_its_row_nan(build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    item = prepared[5]
    memories = {storage.buffer: memory_of(array, storage) for other in prepared for storage, array in other.inputs.items()}
    memories[item.x.buffer][17 + 4] = numpy.nan
    found = value_of(build("avx512").run(memories)[item.y.buffer], item.y)
    assert numpy.isnan(found).tolist() == [[False] * 17, [True] * 17, [False] * 17]


def test_a_plain_image_is_declined() -> None:
    x = plain("x", F32, (1, 8, 4, 4)).permute((0, 2, 3, 1))
    assert layer_norm_candidates(x, x) == []


def test_describe(prepared: list[Prepared]) -> None:
    assert prepared[4].kernel.describe() == "30 x 32: add (kept) + layer norm"
    assert prepared[9].kernel.describe() == "66 x 131: add (kept) + layer norm + relu"
    assert prepared[10].kernel.describe() == "18 x 100: rms norm"
