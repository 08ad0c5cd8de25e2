"""Group norm and instance norm against torch in float64, on images of every layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy
import pytest
import torch
from torch.nn import functional

from graphopt.backends.cpu.chain import Chain, FromOperand, FromOperation, Operation, TheValue
from graphopt.backends.cpu.kernels.group_norm import GroupNorm, group_norm_candidates
from graphopt.backends.cpu.storage import Storage, blocked, channels_last, plain
from graphopt.ir.types import DType
from tests.backends.cpu.support import Array, Built, memory_of, value_of

F32 = DType.f32


@dataclass(frozen=True)
class Case:
    """An image [N, C, H, W] in layout "plain", "blocked" or "last", or a plain tensor of another rank."""

    shape: tuple[int, ...]
    groups: int
    layout: str = "blocked"
    out: str = ""
    affine: str = "wb"
    halo: tuple[int, int] = (0, 0)
    chained: bool = False


CASES = [
    Case((2, 64, 14, 15), 32),
    Case((1, 64, 28, 28), 1),
    Case((2, 64, 9, 10), 4, "last", chained=True),
    Case((1, 48, 7, 7), 2, halo=(1, 1), chained=True),
    Case((2, 30, 5, 6), 5, "last", affine=""),
    Case((2, 30, 5, 6), 30, "blocked", "last", affine="w"),
    Case((2, 40, 40, 30), 4, "last", "blocked"),
    Case((2, 12, 14, 17), 3, "plain", chained=True),
    Case((1, 12, 40, 41), 1, "plain", affine="b"),
    Case((2, 6, 9, 20), 6, "plain", halo=(1, 1)),
    Case((3, 5, 7), 5, "plain"),
    Case((2, 32, 1, 1), 4),
    Case((5, 20), 4, "plain"),
    Case((1, 1, 300, 300), 1, "plain"),
]


def _storage(name: str, case: Case, layout: str) -> Storage:
    if layout == "plain":
        return plain(name, F32, case.shape, case.halo)
    return (blocked if layout == "blocked" else channels_last)(name, F32, case.shape, case.halo)


class Prepared:
    """A case's storages, arrays and kernel."""

    def __init__(self, number: int, case: Case, random: numpy.random.Generator) -> None:
        self.case = case
        name = f"c{number}"
        self.x, self.y = _storage(f"{name}x", case, case.layout), _storage(f"{name}y", case, case.out or case.layout)
        self.inputs: dict[Storage, Array] = {self.x: (random.standard_normal(case.shape) * 2 + 7).astype(numpy.float32)}
        self.states = {f"{name}{kind}": random.standard_normal(case.shape[1]).astype(numpy.float32) for kind in case.affine}
        chain = Chain()
        if case.chained:
            other = _storage(f"{name}r", case, case.layout)
            self.inputs[other] = random.standard_normal(case.shape).astype(numpy.float32)
            chain = Chain((Operation("add", (TheValue(), FromOperand(0))), Operation("relu", (FromOperation(0),))), (other,))
        weight, bias = (f"{name}{kind}" if kind in case.affine else None for kind in "wb")
        (kernel,) = group_norm_candidates(self.x, self.y, case.groups, weight, bias, 1e-5, chain)
        self.kernel = cast(GroupNorm, kernel)

    def expected(self) -> torch.Tensor:
        x, *other = (torch.from_numpy(array).double() for array in self.inputs.values())
        states = {name[-1]: torch.from_numpy(array).double() for name, array in self.states.items()}
        y = functional.group_norm(x, self.case.groups, states.get("w"), states.get("b"), 1e-5)
        return (y + other[0]).relu() if other else y


@pytest.fixture(scope="module")
def prepared() -> list[Prepared]:
    random = numpy.random.default_rng(5)
    return [Prepared(number, case, random) for number, case in enumerate(CASES)]


@pytest.fixture(scope="module")
def build(prepared: list[Prepared]) -> Callable[[str], Built]:
    built: dict[str, Built] = {}

    def make(isa: str) -> Built:
        if isa not in built:
            inputs = [storage for item in prepared for storage in item.inputs]
            states = {name: array for item in prepared for name, array in item.states.items()}
            built[isa] = Built([item.kernel for item in prepared], inputs, [item.y for item in prepared], states, isa)
        return built[isa]

    return make


def _run(built: Built, prepared: list[Prepared], threads: int, fill: float = 0.0) -> list[Array]:
    memories = {storage.buffer: memory_of(array, storage, fill) for item in prepared for storage, array in item.inputs.items()}
    found = built.run(memories, threads)
    return [value_of(found[item.y.buffer], item.y) for item in prepared]


@pytest.mark.parametrize("isa", ["avx512", "avx2", "generic"])
def test_against_torch(isa: str, build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    # what lies between the values of a storage (halo, padding lanes) must not matter
    for item, found in zip(prepared, _run(build(isa), prepared, 2, fill=numpy.nan), strict=True):
        expected = item.expected()
        error = (torch.from_numpy(found).double() - expected).abs().max()
        assert error < 2e-6 * (1 + expected.abs().max()), f"{item.kernel.describe()}: {error:.1e}"


def test_error_is_below_that_of_torch(build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    item, found = prepared[0], _run(build("avx512"), prepared, 1)[0]
    expected = item.expected()
    states = {name[-1]: torch.from_numpy(numbers) for name, numbers in item.states.items()}
    (array,) = item.inputs.values()
    torch_error = (
        (functional.group_norm(torch.from_numpy(array), item.case.groups, states["w"], states["b"]).double() - expected).abs().mean()
    )
    assert (torch.from_numpy(found).double() - expected).abs().mean() < 0.7 * torch_error


def test_any_number_of_threads_is_bitwise_the_same(build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    one = _run(build("avx512"), prepared, 1)
    for threads in (2, 4):
        for first, other in zip(one, _run(build("avx512"), prepared, threads), strict=True):
            assert first.tobytes() == other.tobytes()


def test_a_nan_makes_its_group_nan(build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    memories = {storage.buffer: memory_of(array, storage) for other in prepared for storage, array in other.inputs.items()}
    for number, channel in ((0, 5), (7, 6)):
        x = prepared[number].x
        array = value_of(memories[x.buffer], x)
        array[1, channel, 2, 3] = numpy.nan
        memories[x.buffer] = memory_of(array, x)
    found = build("avx512").run(memories)
    for number, channels in ((0, [4, 5]), (7, [4, 5, 6, 7])):
        item = prepared[number]
        is_nan = numpy.isnan(value_of(found[item.y.buffer], item.y))
        assert numpy.argwhere(is_nan.all(axis=(2, 3))).tolist() == [[1, channel] for channel in channels]
        assert is_nan.sum() == is_nan.all(axis=(2, 3)).sum() * item.case.shape[2] * item.case.shape[3]


def test_describe(prepared: list[Prepared]) -> None:
    assert prepared[1].kernel.describe() == "1 x 1x64 @ 784, channels side by side, 8 chunks"
    assert prepared[7].kernel.describe() == "2 x 3x4 @ 238 + add + relu, pixels side by side"
    assert prepared[5].kernel.chunks == 1


def test_mixed_layouts_are_declined() -> None:
    assert group_norm_candidates(plain("x", F32, (1, 32, 4, 4)), blocked("y", F32, (1, 32, 4, 4)), 4) == []
