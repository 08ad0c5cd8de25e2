"""Attention against torch in float64: packed heads, masks of all kinds, causal, grouped, blocks of keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy
import pytest
import torch
from torch.nn import functional

from graphopt.backends.cpu.kernels.attention import Attention, attention_candidates
from graphopt.backends.cpu.storage import Storage, plain
from graphopt.ir.types import DType
from tests.backends.cpu.support import Array, Built, memory_of, value_of


@dataclass(frozen=True)
class Case:
    """q, k and v lie in one packed tensor [B, T, 3, H, D] where `packed`, else each on its own."""

    batch: int
    heads: int
    queries: int
    keys: int
    features: int
    values: int = 0
    packed: bool = False
    masks: tuple[tuple[str, tuple[int, ...]], ...] = ()  # (kind, shape)
    causal: bool = False
    groups: int = 0
    transposed: bool = False  # y as [B, D, H, T]
    blocks: tuple[int, int] | None = None

    @property
    def id(self) -> str:
        kinds = "+".join(kind for kind, _ in self.masks)
        flags = "c" * self.causal + "p" * self.packed
        return f"{self.batch}x{self.heads}x{self.queries}x{self.keys}x{self.features} {kinds} {flags} {self.blocks or ''}"


CASES = [
    Case(1, 3, 197, 197, 64, packed=True),
    Case(2, 2, 128, 128, 64, packed=True, masks=(("f", (2, 1, 1, 128)),)),
    Case(4, 3, 49, 49, 32, packed=True, masks=(("state", (1, 3, 49, 49)), ("state", (4, 1, 49, 49)))),
    Case(4, 3, 49, 49, 32, packed=True, masks=(("f", (1, 3, 49, 49)), ("b", (4, 1, 49, 49)))),
    Case(2, 2, 50, 50, 24, masks=(("bstate", (50, 50)),), packed=True, blocks=(1, 20)),
    Case(1, 2, 70, 70, 17, 33, causal=True, blocks=(2, 30)),
    Case(1, 2, 33, 65, 20, causal=True, blocks=(3, 14)),
    Case(2, 2, 21, 9, 8, causal=True),
    Case(1, 8, 19, 40, 16, groups=2, masks=(("f", (8, 19, 40)),)),
    Case(1, 8, 1, 75, 64, groups=2),
    Case(2, 1, 3, 17, 5, 3, masks=(("b", (2, 1, 3, 17)),)),
    Case(1, 2, 40, 30, 16, transposed=True, blocks=(3, 16)),
    Case(1, 1, 1, 1, 1),
    Case(1, 2, 260, 300, 32, blocks=(4, 100), masks=(("ft", (2, 260, 300)),)),
]


def _view(name: str, case: Case, which: int, heads: int, length: int, features: int) -> tuple[Storage, Storage]:
    """(whole buffer, heads [B, H, T, D])."""
    if case.packed:
        whole = plain(f"{name}qkv", DType.f32, (case.batch, length, 3, heads, features))
        seen = whole.select(2, which)
    else:
        whole = plain(f"{name}{'qkv'[which]}", DType.f32, (case.batch, length, heads, features))
        seen = whole
    assert seen is not None
    return whole, seen.permute((0, 2, 1, 3))


class Prepared:
    """A case's storages, arrays and kernel."""

    def __init__(self, number: int, case: Case, random: numpy.random.Generator) -> None:
        self.case = case
        self.inputs: dict[Storage, Array] = {}
        self.states: dict[str, Array] = {}
        name = f"c{number}"
        values = case.values or case.features
        kv_heads = case.groups or case.heads
        views: list[Storage] = []
        for which, (heads, length, features) in enumerate(
            ((case.heads, case.queries, case.features), (kv_heads, case.keys, case.features), (kv_heads, case.keys, values))
        ):
            whole, seen = _view(name, case, which, heads, length, features)
            self.inputs.setdefault(whole, random.standard_normal(whole.shape).astype(numpy.float32) * (2 if case.packed else 1))
            views.append(seen)
        self.views = tuple(views)
        masks: list[Storage] = []
        self.mask_arrays: list[Array] = []
        for index, (kind, shape) in enumerate(case.masks):
            is_bool = kind.startswith("b")
            array: Array = random.random(shape) < 0.7 if is_bool else random.standard_normal(shape).astype(numpy.float32)
            if is_bool:
                array[..., 0, :] = False  # a row of nothing
            elif kind == "f" and shape[-2] > 1:
                array[..., 1, :] = -numpy.inf
            self.mask_arrays.append(array)
            dtype = DType.boolean if is_bool else DType.f32
            if kind.endswith("state"):
                storage = plain(f"state:{name}m{index}", dtype, shape)
                self.states[f"{name}m{index}"] = array
            elif kind == "ft":
                storage = plain(f"{name}m{index}", dtype, (*shape[:-2], shape[-1], shape[-2]))
                self.inputs[storage] = numpy.ascontiguousarray(numpy.swapaxes(array, -1, -2))
                storage = storage.permute((*range(len(shape) - 2), len(shape) - 1, len(shape) - 2))
            else:
                storage = plain(f"{name}m{index}", dtype, shape)
                self.inputs[storage] = array
            masks.append(storage)
        if case.transposed:
            self.output = plain(f"{name}y", DType.f32, (case.batch, values, case.heads, case.queries))
            y = self.output.permute((0, 2, 3, 1))
        else:
            self.output = plain(f"{name}y", DType.f32, (case.batch, case.queries, case.heads, values))
            y = self.output.permute((0, 2, 1, 3))
        self.y = y
        q, k, v = self.views
        kernels = attention_candidates(q, k, v, y, None, masks, case.causal, grouped=bool(case.groups))
        kernel = cast(Attention, kernels[number % len(kernels)])
        self.kernel = kernel if case.blocks is None else replace(kernel, query_vectors=case.blocks[0], key_block=case.blocks[1])

    def expected(self) -> torch.Tensor:
        q, k, v = (torch.from_numpy(value_of(self._memory(view), view)).double() for view in self.views)
        mask: torch.Tensor | None = None
        for array in self.mask_arrays:
            found = torch.from_numpy(array)
            if found.dtype == torch.bool:
                found = torch.zeros(found.shape, dtype=torch.float64).masked_fill(~found, -torch.inf)
            mask = found.double() if mask is None else mask + found.double()
        return functional.scaled_dot_product_attention(q, k, v, mask, is_causal=self.case.causal, enable_gqa=bool(self.case.groups))

    def _memory(self, view: Storage) -> Array:
        whole = next(storage for storage in self.inputs if storage.buffer == view.buffer)
        return memory_of(self.inputs[whole], whole)


@pytest.fixture(scope="module")
def prepared() -> list[Prepared]:
    random = numpy.random.default_rng(1)
    return [Prepared(number, case, random) for number, case in enumerate(CASES)]


@pytest.fixture(scope="module")
def build(prepared: list[Prepared]) -> Callable[[str], Built]:
    built: dict[str, Built] = {}

    def make(isa: str) -> Built:
        if isa not in built:
            inputs = [storage for item in prepared for storage in item.inputs]
            states = {name: array for item in prepared for name, array in item.states.items()}
            built[isa] = Built([item.kernel for item in prepared], inputs, [item.output for item in prepared], states, isa)
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
        error = (torch.from_numpy(found).double() - expected).abs().max() / expected.abs().max()
        assert error < 3e-6, f"{item.case.id}: {error:.1e}"


def test_any_number_of_threads_is_bitwise_the_same(build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    one = _run(build("avx512"), prepared, 1)
    for threads in (2, 4):
        for first, other in zip(one, _run(build("avx512"), prepared, threads), strict=True):
            assert first.tobytes() == other.tobytes()


def test_nan_stays_in_its_row(build: Callable[[str], Built], prepared: list[Prepared]) -> None:
    item = prepared[0]
    memories = {storage.buffer: memory_of(array, storage) for other in prepared for storage, array in other.inputs.items()}
    qkv = next(iter(item.inputs))
    packed = memories[qkv.buffer].reshape(qkv.shape)
    packed[0, 5, 0, 1, 3] = numpy.nan  # a query
    found = value_of(build("avx512").run(memories)[item.output.buffer], item.y)
    assert numpy.isnan(found[0, 1, 5]).all()
    assert numpy.isnan(found).sum() == item.case.features


def test_describe_says_what_is_fused(prepared: list[Prepared]) -> None:
    assert prepared[2].kernel.describe() == "12 x 49x49x32 + constant mask + constant mask, block 48x100"
    assert prepared[2].kernel.reads == prepared[2].views
    assert prepared[0].kernel.flops == 4 * 3 * 197 * 197 * 64


def test_blocked_storages_are_declined() -> None:
    q = plain("q", DType.f32, (1, 16, 4, 4))
    assert attention_candidates(q, replace(q, blocked_axis=1, block_stride=256), q, q) == []
