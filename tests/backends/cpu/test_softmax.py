"""Softmax and log softmax against torch in float64, along and across the axis that lies side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy
import pytest
import torch

from graphopt.backends.cpu.chain import Chain, Constant, FromOperand, FromOperation, Operation, TheValue
from graphopt.backends.cpu.kernels.softmax import Softmax, softmax_candidates
from graphopt.backends.cpu.storage import Storage, blocked, channels_last, plain
from graphopt.ir.types import DType
from tests.backends.cpu.support import Array, Built, memory_of, value_of

F32 = DType.f32


@dataclass(frozen=True)
class Case:
    """Images [N, C, H, W] are "blocked" or "last"; everything else is "plain"."""

    shape: tuple[int, ...]
    axis: int
    along: str
    layout: str = "plain"
    is_log: bool = False
    before: bool = False
    relu: bool = False


CASES = [
    Case((2, 3, 50, 197), 3, "c"),
    Case((1, 1000), 1, "c", is_log=True),
    Case((5, 3), 1, "c"),
    Case((2, 33, 40), 1, "w", is_log=True),
    Case((2, 33, 17), 0, "w"),
    Case((2, 21, 5, 7), 1, "c", "blocked"),
    Case((2, 21, 5, 7), 1, "c", "last", is_log=True),
    Case((2, 21, 5, 7), 3, "w", "blocked", before=True),
    Case((2, 21, 5, 7), 2, "w", "last", relu=True),
    Case((2, 4, 20, 49), 3, "c", before=True, relu=True),
    Case((6, 32), 1, "c", before=True, is_log=True),
    Case((7,), 0, "c"),
]


def _storage(name: str, case: Case) -> Storage:
    if case.layout == "plain":
        return plain(name, F32, case.shape)
    return (blocked if case.layout == "blocked" else channels_last)(name, F32, case.shape)


class Prepared:
    """A case's storages, arrays and kernel."""

    def __init__(self, number: int, case: Case, random: numpy.random.Generator) -> None:
        self.case = case
        name = f"c{number}"
        self.x, self.y = _storage(f"{name}x", case), _storage(f"{name}y", case)
        self.inputs: dict[Storage, Array] = {self.x: (random.standard_normal(case.shape) * 5).astype(numpy.float32)}
        before = Chain()
        if case.before:  # a scale and a mask, as in attention
            mask = _storage(f"{name}m", case)
            self.inputs[mask] = random.standard_normal(case.shape).astype(numpy.float32)
            before = Chain((Operation("mul", (TheValue(), Constant(0.25))), Operation("add", (FromOperation(0), FromOperand(0)))), (mask,))
        chain = Chain((Operation("sub", (TheValue(), Constant(0.1))), Operation("relu", (FromOperation(0),)))) if case.relu else Chain()
        (kernel,) = softmax_candidates(self.x, self.y, case.axis, case.is_log, before, chain)
        self.kernel = cast(Softmax, kernel)

    def expected(self) -> torch.Tensor:
        z, *mask = (torch.from_numpy(array).double() for array in self.inputs.values())
        if mask:
            z = z * 0.25 + mask[0]
        y = torch.log_softmax(z, self.case.axis) if self.case.is_log else torch.softmax(z, self.case.axis)
        return (y - 0.1).relu() if self.case.relu else y


@pytest.fixture(scope="module")
def prepared() -> list[Prepared]:
    random = numpy.random.default_rng(3)
    return [Prepared(number, case, random) for number, case in enumerate(CASES)]


@pytest.fixture(scope="module")
def build(prepared: list[Prepared]) -> Callable[[str], Built]:
    built: dict[str, Built] = {}

    def make(isa: str) -> Built:
        if isa not in built:
            inputs = [storage for item in prepared for storage in item.inputs]
            built[isa] = Built([item.kernel for item in prepared], inputs, [item.y for item in prepared], None, isa)
        return built[isa]

    return make


def _run(built: Built, prepared: list[Prepared], threads: int, fill: float = 0.0) -> list[Array]:
    memories = {storage.buffer: memory_of(array, storage, fill) for item in prepared for storage, array in item.inputs.items()}
    found = built.run(memories, threads)
    return [value_of(found[item.y.buffer], item.y) for item in prepared]


@pytest.mark.parametrize("isa", ["avx512", "avx2", "generic"])
def test_against_torch(isa: str, build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    for item, item_found in zip(prepared, _run(build(isa), prepared, 2, fill=numpy.nan), strict=True):
        expected = item.expected()
        found, scale = torch.from_numpy(item_found).double(), 1.0 if item.case.is_log or item.case.relu else expected.abs() + 1e-9
        error = ((found - expected).abs() / scale).max()
        assert error < 4e-6, f"{item.kernel.describe()}: {error:.1e}"


def test_lanes_run_where_they_can(prepared: list[Prepared]) -> None:
    assert [item.kernel.along for item in prepared] == [case.along for case in CASES]


def test_any_number_of_threads_is_bitwise_the_same(build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    one = _run(build("avx512"), prepared, 1)
    for threads in (2, 4):
        for first, other in zip(one, _run(build("avx512"), prepared, threads), strict=True):
            assert first.tobytes() == other.tobytes()


def test_rows_of_infinities_and_nan(build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    memories = {storage.buffer: memory_of(array, storage) for other in prepared for storage, array in other.inputs.items()}
    rows = memories[prepared[2].x.buffer].reshape(5, 3)
    rows[0] = -numpy.inf
    rows[1, 1] = numpy.nan
    rows[2, 2] = numpy.inf
    rows[3, :2] = -numpy.inf
    columns = memories[prepared[3].x.buffer].reshape(2, 33, 40)
    columns[0, :, 0] = -numpy.inf
    columns[0, 3, 1] = numpy.nan
    columns[1, 3, 2] = -numpy.inf
    found = build("avx512").run(memories)
    expected = torch.softmax(torch.from_numpy(rows), 1)
    torch.testing.assert_close(torch.from_numpy(found[prepared[2].y.buffer]).reshape(5, 3), expected, equal_nan=True)
    expected = torch.log_softmax(torch.from_numpy(columns), 1)
    torch.testing.assert_close(torch.from_numpy(found[prepared[3].y.buffer]).reshape(2, 33, 40), expected, equal_nan=True)


def test_describe(prepared: list[Prepared]) -> None:
    assert prepared[9].kernel.describe() == "160 x 49: mul + add + softmax + sub + relu"
    assert prepared[3].kernel.describe() == "80 x 33: log softmax, 40 side by side"


def test_nothing_side_by_side_is_declined() -> None:
    x = plain("x", F32, (4, 4, 4))
    sparse = x.slice(2, 0, 4, 2)
    assert sparse is not None
    assert softmax_candidates(sparse, sparse, 1) == []
