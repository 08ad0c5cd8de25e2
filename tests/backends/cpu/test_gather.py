"""Reading and writing at computed positions, ranges, running sums and sorting, against torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch
from numpy.typing import NDArray

from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.cumulative import Cumulative, Sort
from graphopt.backends.cpu.kernels.gather import Gather, Index
from graphopt.backends.cpu.kernels.positions import Eye, Sequence1d, Triangle
from graphopt.backends.cpu.kernels.scatter import IndexPut, Scatter
from graphopt.backends.cpu.storage import Storage, blocked, plain
from graphopt.errors import BackendError
from graphopt.ir.types import DType
from tests.backends.cpu.support import Built, memory_of, value_of

Array = NDArray[numpy.generic]
F32, I64, I32 = DType.f32, DType.i64, DType.i32


def _dtype(tensor: torch.Tensor) -> DType:
    return DType.parse(str(tensor.dtype).removeprefix("torch."))


class _Cases:
    """Kernels on torch tensors, compiled together."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[Storage, torch.Tensor]] = {}
        self.kernels: list[Kernel] = []
        self.results: list[tuple[Storage, torch.Tensor]] = []

    def take(self, value: torch.Tensor, strides: tuple[int, ...] | None = None) -> Storage:
        """An input with this value."""
        name = f"x{len(self.values)}"
        storage = (
            plain(name, _dtype(value), tuple(value.shape)) if strides is None else Storage(name, _dtype(value), tuple(value.shape), strides)
        )
        self.values[name] = storage, value
        return storage

    def give(self, want: torch.Tensor) -> Storage:
        """An output that should have this value."""
        storage = plain(f"y{len(self.results)}", _dtype(want), tuple(want.shape))
        self.results.append((storage, want))
        return storage

    def check(self) -> None:
        built = Built(self.kernels, [storage for storage, _ in self.values.values()], [storage for storage, _ in self.results])
        memories = {name: memory_of(value.numpy(), storage) for name, (storage, value) in self.values.items()}
        for threads in (1, 2, 4):
            found = built.run(memories, threads, fill=5)
            for storage, want in self.results:
                got = torch.from_numpy(numpy.array(value_of(found[storage.buffer], storage)))
                torch.testing.assert_close(
                    got, want, rtol=1e-6, atol=1e-6, equal_nan=True, msg=lambda text, name=storage.text: f"{name}: {text}"
                )


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _integers(high: int, *shape: int, seed: int = 0, low: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def test_embedding_and_index_select() -> None:
    cases = _Cases()
    weight, tokens = _random(50, 24), _integers(50, 2, 7)
    for index in (tokens, tokens.int()):
        cases.kernels.append(Index(cases.take(weight), (cases.take(index),), cases.give(weight[index])))
    x = _random(3, 20, 5)
    for axis in range(3):
        index = _integers(x.shape[axis], 11, seed=axis)
        places = (*(None for _ in range(axis)), cases.take(index))
        cases.kernels.append(Index(cases.take(x), places, cases.give(x.index_select(axis, index))))
    whole = _integers(100, 6, 4)
    cases.kernels.append(Index(cases.take(whole), (None, cases.take(torch.tensor([3, 0]))), cases.give(whole[:, [3, 0]])))
    cases.check()


def test_advanced_indexing() -> None:
    cases = _Cases()
    x = _random(4, 5, 6, 7)
    a, b = _integers(4, 3, 1, low=-4), _integers(5, 2, seed=1, low=-5)
    c = _integers(7, 3, 2, seed=2)
    table: list[tuple[torch.Tensor | None, ...]] = [
        (a,),
        (None, b),
        (a, b),
        (None, b, None, c),
        (a, None, c),
        (None, None, a),
        (torch.tensor(2), b),
    ]
    for indices in table:
        want = x[tuple(slice(None) if index is None else index for index in indices)]
        places = tuple(None if index is None else cases.take(index) for index in indices)
        cases.kernels.append(Index(cases.take(x), places, cases.give(want), from_end=True))
    turned = x.permute(2, 0, 3, 1)
    strided = Storage("t", F32, tuple(turned.shape), tuple(plain("x", F32, (4, 5, 6, 7)).permute((2, 0, 3, 1)).strides))
    cases.values["t"] = strided, turned
    cases.kernels.append(Index(strided, (None, cases.take(a)), cases.give(turned[:, a]), from_end=True))
    cases.check()


def test_gather() -> None:
    cases = _Cases()
    x = _random(4, 5, 6)
    for axis in range(3):
        for shape in ((4, 5, 6), (2, 3, 4)):
            index = _integers(x.shape[axis], *shape, seed=axis)
            cases.kernels.append(Gather(cases.take(x), cases.take(index), cases.give(x.gather(axis, index)), axis))
    cases.kernels.append(Gather(cases.take(torch.tensor(3.0)), cases.take(torch.tensor(0)), cases.give(torch.tensor(3.0)), 0))
    cases.check()


@pytest.mark.filterwarnings("ignore:The reduce argument")
def test_scatter() -> None:
    cases = _Cases()
    x, source = _random(4, 5, 6), _random(4, 5, 6, seed=1)
    for axis in range(3):
        index = torch.stack([torch.randperm(x.shape[axis], generator=torch.Generator().manual_seed(k))[:3] for k in range(9)])
        index = index.reshape(3, 3, 3).movedim(-1, axis).contiguous()
        cases.kernels.append(
            Scatter(cases.take(x), cases.take(index), cases.take(source), cases.give(x.scatter(axis, index, source)), axis)
        )
        cases.kernels.append(Scatter(cases.take(x), cases.take(index), 2.5, cases.give(x.scatter(axis, index, 2.5)), axis))
        many = _integers(x.shape[axis], 4, 5, 6, seed=axis)
        cases.kernels.append(
            Scatter(cases.take(x), cases.take(many), cases.take(source), cases.give(x.scatter_add(axis, many, source)), axis, "add")
        )
        want = x.scatter(axis, many, source, reduce="multiply")
        cases.kernels.append(Scatter(cases.take(x), cases.take(many), cases.take(source), cases.give(want), axis, "multiply"))
    cases.check()


def test_index_put() -> None:
    cases = _Cases()
    x = _random(4, 5, 6)
    a, b = torch.tensor([0, 3, -1]), torch.tensor([2, 2, 4])
    many = _integers(4, 30)
    table: list[tuple[tuple[torch.Tensor | None, ...], torch.Tensor, bool]] = [
        ((a,), _random(3, 5, 6), True),
        ((None, b), _random(6), True),
        ((a, b), _random(3, 6), False),
        ((a, None, b), _random(3, 1), False),
        ((many,), _random(30, 5, 6), True),
        ((None, None, torch.tensor(1)), torch.tensor(7.0), False),
    ]
    for indices, values, accumulate in table:
        want = torch.ops.aten.index_put(x, list(indices), values, accumulate)
        places = tuple(None if index is None else cases.take(index) for index in indices)
        cases.kernels.append(IndexPut(cases.take(x), cases.take(values), places, cases.give(want), accumulate))
    want = torch.ops.aten.index_put(x, [a], torch.tensor(-2.0), False)
    cases.kernels.append(IndexPut(cases.take(x), -2.0, (cases.take(a),), cases.give(want)))
    cases.check()


@pytest.mark.parametrize("make", ["index", "gather", "scatter"])
def test_an_index_out_of_range_fails_the_run(make: str) -> None:
    x, index, y = plain("x", F32, (4, 5)), plain("i", I64, (2, 5)), plain("y", F32, (2, 5) if make == "gather" else (4, 5))
    kernels: dict[str, Callable[[], Kernel]] = {
        "index": lambda: Index(x, (plain("i", I64, (4,)),), y),
        "gather": lambda: Gather(x, index, y, 0),
        "scatter": lambda: Scatter(x, index, 1.0, y, 0),
    }
    kernel = kernels[make]()
    built = Built([kernel], [x, next(storage for storage in kernel.reads if storage.buffer == "i")], [y])
    good = numpy.zeros(10, dtype=numpy.int64)
    built.run({"x": numpy.zeros(20, dtype=numpy.float32), "i": good})
    for bad in (4, -1, 2**40, -(2**63)):
        good[3] = bad
        with pytest.raises(BackendError, match="out of range"):
            built.run({"x": numpy.zeros(20, dtype=numpy.float32), "i": good}, 2)


def test_triangles_and_ranges() -> None:
    cases = _Cases()
    for shape in ((5, 7), (2, 3, 6, 4)):
        for dtype in (torch.float32, torch.int64, torch.bool):
            x = (_random(*shape) * 5).to(dtype)
            for diagonal in (-2, 0, 1):
                cases.kernels.append(Triangle("tril", cases.take(x), cases.give(x.tril(diagonal)), diagonal))
                cases.kernels.append(Triangle("triu", cases.take(x), cases.give(x.triu(diagonal)), diagonal))
    cases.kernels.append(Sequence1d(cases.give(torch.arange(3, 1000, 4)), 3, 4))
    cases.kernels.append(Sequence1d(cases.give(torch.arange(0.5, 7, 0.1)), 0.5, 0.1))
    cases.kernels.append(Sequence1d(cases.give(torch.arange(5, -5, -1, dtype=torch.int32)), 5, -1))
    cases.kernels.append(Sequence1d(cases.give(torch.linspace(-1, 2, 50)), -1.0, 3 / 49, 2.0))
    cases.kernels.append(Eye(cases.give(torch.eye(4, 6))))
    cases.kernels.append(Eye(cases.give(torch.eye(3, dtype=torch.int64))))
    cases.check()


def test_running_sums_and_products() -> None:
    cases = _Cases()
    x = _random(3, 40, 5)
    whole = _integers(4, 6, 9)
    for op in ("cumsum", "cumprod"):
        function = getattr(torch, op)
        for value in (x, x.double(), whole, whole.int(), whole.bool()):
            for axis in range(value.ndim):
                cases.kernels.append(Cumulative(op, cases.take(value), cases.give(function(value, axis)), axis))
    cases.check()


def test_sorting() -> None:
    cases = _Cases()
    x = _random(3, 40, 5)
    x[0, :3, 0] = torch.nan
    ties = _integers(5, 4, 30)
    for value in (x, ties, ties.to(torch.uint8)):
        for axis in range(value.ndim):
            for descending in (False, True):
                values, indices = torch.sort(value, stable=True, dim=axis, descending=descending)
                cases.kernels.append(Sort(cases.take(value), cases.give(values), cases.give(indices), axis, descending))
    for axis, k in ((1, 7), (2, 5), (0, 1)):
        for largest in (True, False):
            clean = torch.nan_to_num(x)
            values, indices = torch.topk(clean, k, axis, largest)
            cases.kernels.append(Sort(cases.take(clean), cases.give(values), cases.give(indices), axis, largest))
    cases.check()


def test_blocked_storages_are_refused() -> None:
    x = blocked("x", F32, (1, 20, 2, 2))
    with pytest.raises(ValueError, match="is blocked"):
        Gather(x, plain("i", I64, (1, 20, 2, 2)), plain("y", F32, (1, 20, 2, 2)), 1)
