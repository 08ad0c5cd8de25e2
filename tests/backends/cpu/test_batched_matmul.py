"""Products of computed tensors against torch in float64: any strides, batches, tails, einsums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy
import pytest
import torch

from graphopt.backends.cpu.chain import Chain, Constant, FromOperand, FromOperation, Operation, TheValue
from graphopt.backends.cpu.kernels.batched_matmul import BatchedMatmul, batched_matmul_candidates, einsum_candidates
from graphopt.backends.cpu.storage import Storage, plain
from graphopt.ir.types import DType
from tests.backends.cpu.support import Array, Built, memory_of, value_of

F32 = DType.f32


@dataclass(frozen=True)
class Case:
    """Shapes as torch sees them; the order of axes in memory where it is not that; an equation instead of matmul."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    a_order: tuple[int, ...] = ()
    b_order: tuple[int, ...] = ()
    y_order: tuple[int, ...] = ()
    equation: str = ""
    chained: bool = False


CASES = [
    Case((3, 197, 64), (3, 64, 197), b_order=(0, 2, 1), chained=True),
    Case((2, 3, 50, 197), (2, 3, 197, 64), b_order=(0, 2, 1, 3), y_order=(0, 2, 1, 3)),
    Case((5, 49, 32), (5, 32, 49), a_order=(1, 0, 2), chained=True),
    Case((1, 7, 5), (4, 5, 3)),
    Case((4, 1, 6, 33), (3, 33, 17)),
    Case((40, 9), (2, 9, 20), y_order=(0, 2, 1), chained=True),
    Case((64, 512), (512, 40)),
    Case((30, 64), (64, 70), a_order=(1, 0), b_order=(1, 0)),
    Case((300,), (300, 70)),
    Case((2, 45, 100), (100,), chained=True),
    Case((33,), (33,)),
    Case((1, 260), (260, 400)),
    Case((3, 48), (48, 48)),
    Case((2, 5, 3, 8), (2, 6, 3, 8), equation="bihd,bjhd->bhij"),
    Case((2, 4, 5), (4, 5, 9), equation="abc,bcd->ad"),
    Case((6, 20), (7, 20), equation="ik,jk->ji", chained=True),
    Case((6,), (7,), equation="i,j->ij"),
]


def _laid_out(name: str, shape: Sequence[int], order: Sequence[int]) -> tuple[Storage, Storage]:
    """(whole buffer, value) with the axes in memory in `order`."""
    order = order or range(len(shape))
    whole = plain(name, F32, [shape[axis] for axis in order])
    return whole, whole.permute([list(order).index(axis) for axis in range(len(shape))])


def _labels(equation: str) -> list[list[str]]:
    return [list(term) for term in equation.replace("->", ",").split(",")]


class Prepared:
    """A case's storages, arrays and kernel."""

    def __init__(self, number: int, case: Case, random: numpy.random.Generator) -> None:
        self.case = case
        name = f"c{number}"
        self.arrays: list[Array] = [random.standard_normal(shape).astype(numpy.float32) for shape in (case.a, case.b)]
        shape = tuple(self._product().shape)
        views = [
            _laid_out(f"{name}{which}", size, order) for which, size, order in (("a", case.a, case.a_order), ("b", case.b, case.b_order))
        ]
        self.output, self.y = _laid_out(f"{name}y", shape, case.y_order)
        chain = Chain()
        if case.chained:  # a residual in the layout of y, and a number
            views.append(_laid_out(f"{name}r", shape, case.y_order))
            self.arrays.append(random.standard_normal(shape).astype(numpy.float32))
            chain = Chain(
                (Operation("mul", (TheValue(), Constant(0.5))), Operation("add", (FromOperation(0), FromOperand(0)))), (views[2][1],)
            )
        self.views = [view for _, view in views]
        self.inputs = {whole: value_of(memory_of(array, view), whole) for (whole, view), array in zip(views, self.arrays, strict=True)}
        if case.equation:
            left, right, output = _labels(case.equation)
            kernels = einsum_candidates(left, right, output, self.views[0], self.views[1], self.y, chain)
        else:
            kernels = batched_matmul_candidates(self.views[0], self.views[1], self.y, chain)
        self.kernel = cast(BatchedMatmul, kernels[0])

    def _product(self) -> torch.Tensor:
        a, b = (torch.from_numpy(array).double() for array in self.arrays[:2])
        return torch.einsum(self.case.equation, a, b) if self.case.equation else a @ b

    def expected(self) -> torch.Tensor:
        found = self._product()
        return found * 0.5 + torch.from_numpy(self.arrays[2]).double() if self.case.chained else found


@pytest.fixture(scope="module")
def prepared() -> list[Prepared]:
    random = numpy.random.default_rng(4)
    return [Prepared(number, case, random) for number, case in enumerate(CASES)]


@pytest.fixture(scope="module")
def build(prepared: list[Prepared]) -> Callable[[str], Built]:
    built: dict[str, Built] = {}

    def make(isa: str) -> Built:
        if isa not in built:
            inputs = [storage for item in prepared for storage in item.inputs]
            built[isa] = Built([item.kernel for item in prepared], inputs, [item.output for item in prepared], None, isa)
        return built[isa]

    return make


def _run(built: Built, prepared: list[Prepared], threads: int) -> list[Array]:
    memories = {storage.buffer: memory_of(array, storage) for item in prepared for storage, array in item.inputs.items()}
    found = built.run(memories, threads)
    return [value_of(found[item.output.buffer], item.y) for item in prepared]


@pytest.mark.parametrize("isa", ["avx512", "avx2", "generic"])
def test_against_torch(isa: str, build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    for item, found in zip(prepared, _run(build(isa), prepared, 2), strict=True):
        expected = item.expected()
        error = (torch.from_numpy(numpy.asarray(found)).double() - expected).abs().max() / expected.abs().max()
        assert error < 1.5e-6, f"{item.case} {item.kernel.describe()}: {error:.1e}"


def test_any_number_of_threads_is_bitwise_the_same(build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    one = _run(build("avx512"), prepared, 1)
    for threads in (2, 4):
        for first, other in zip(one, _run(build("avx512"), prepared, threads), strict=True):
            assert first.tobytes() == other.tobytes()


def test_what_is_packed(prepared: list[Prepared]) -> None:
    assert prepared[0].kernel.describe() == "3 x 197x64x197 + mul + add, b packed"
    assert prepared[6].kernel.describe() == "1 x 64x512x40, a and b packed"  # rows 2048 bytes apart share lines of L1
    assert prepared[12].kernel.describe() == "1 x 3x48x48"
    assert prepared[9].kernel.describe() == "2 x 1x100x45 + mul + add, b packed"  # one column: the transposed product


def test_what_is_no_product_is_declined() -> None:
    x, y = plain("x", F32, (4, 5)), plain("y", F32, (4, 4))
    assert einsum_candidates("ij", "ij", "i", x, x, plain("z", F32, (4,))) != []
    assert einsum_candidates("ij", "kj", "i", x, x, plain("z", F32, (4,))) == []  # k is summed in one operand
    assert einsum_candidates("ii", "ij", "ij", y, x, x) == []
    assert batched_matmul_candidates(x, x.permute((1, 0)), plain("z", F32, (4, 4, 2)).permute((2, 0, 1))) == []
