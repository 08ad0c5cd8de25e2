"""Interpolation against torch: modes, sizes, scales, layouts, ranks."""

from __future__ import annotations

import numpy
import pytest
import torch
from numpy.typing import NDArray

from graphopt.backends.cpu.chain import Chain, FromOperand, FromOperation, Operation, TheValue
from graphopt.backends.cpu.kernels.grid_sample import GridSample
from graphopt.backends.cpu.kernels.resize import Resize, resize_candidates
from graphopt.backends.cpu.storage import Storage, blocked, channels_last, plain
from graphopt.ir.types import DType
from tests.backends.cpu.support import Built, memory_of, value_of

F32 = DType.f32
_OPERATORS = {
    ("nearest", 1): torch.ops.aten.upsample_nearest1d.default,
    ("nearest", 2): torch.ops.aten.upsample_nearest2d.default,
    ("nearest", 3): torch.ops.aten.upsample_nearest3d.default,
    ("nearest_exact", 1): torch.ops.aten._upsample_nearest_exact1d.default,
    ("nearest_exact", 2): torch.ops.aten._upsample_nearest_exact2d.default,
    ("nearest_exact", 3): torch.ops.aten._upsample_nearest_exact3d.default,
    ("linear", 1): torch.ops.aten.upsample_linear1d.default,
    ("linear", 2): torch.ops.aten.upsample_bilinear2d.default,
    ("linear", 3): torch.ops.aten.upsample_trilinear3d.default,
    ("cubic", 2): torch.ops.aten.upsample_bicubic2d.default,
}


def _want(x: torch.Tensor, size: tuple[int, ...], mode: str, corners: bool, scales: tuple[float | None, ...] | None) -> torch.Tensor:
    options = () if mode.startswith("nearest") else (corners,)
    return _OPERATORS[mode, x.ndim - 2](x, list(size), *options, *(scales or (None,) * (x.ndim - 2)))


class _Cases:
    def __init__(self) -> None:
        self.steps: list[tuple[Resize, Storage, torch.Tensor, torch.Tensor]] = []

    def add(self, x: Storage, y: Storage, mode: str, corners: bool = False, scales: tuple[float | None, ...] | None = None) -> None:
        number = len(self.steps)
        value = torch.randn(x.shape, generator=torch.Generator().manual_seed(number)).to(getattr(torch, x.dtype.torch_name))
        x, y = x.moved(f"x{number}"), y.moved(f"y{number}")
        (kernel,) = resize_candidates(x, y, mode, corners, scales)
        assert isinstance(kernel, Resize)
        self.steps.append((kernel, x, value, _want(value, y.shape[2:], mode, corners, scales)))

    def check(self, isa: str = "avx512") -> None:
        built = Built([step[0] for step in self.steps], [step[1] for step in self.steps], [step[0].y for step in self.steps], isa=isa)
        memories = {x.buffer: memory_of(value.numpy(), x, fill=numpy.nan if x.dtype.is_float else 0) for _, x, value, _ in self.steps}
        first: dict[str, NDArray[numpy.generic]] = {}
        for threads in (1, 3):
            found = built.run(memories, threads)
            for kernel, x, _, want in self.steps:
                got = value_of(found[kernel.y.buffer], kernel.y)
                name = f"{kernel.describe()} of {x.text}"
                torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
                assert numpy.array_equal(got, first.setdefault(kernel.y.buffer, got))


@pytest.mark.parametrize("isa", ["avx512", "generic"])
def test_images_of_every_layout_and_mode(isa: str) -> None:
    cases = _Cases()
    shape = (2, 20, 5, 7)
    for size in ((10, 14), (3, 11), (1, 1), (5, 7)):
        target = (2, 20, *size)
        for mode, corners in (
            ("nearest", False),
            ("nearest_exact", False),
            ("linear", False),
            ("linear", True),
            ("cubic", False),
            ("cubic", True),
        ):
            cases.add(blocked("x", F32, shape, (1, 1)), blocked("y", F32, target), mode, corners)
            if size == (3, 11):
                cases.add(channels_last("x", F32, shape), channels_last("y", F32, target), mode, corners)
                cases.add(channels_last("x", F32, shape), blocked("y", F32, target), mode, corners)
            cases.add(plain("x", F32, shape), plain("y", F32, target, (1, 1)), mode, corners)
    cases.check(isa)


def test_scales_replace_the_ratio_of_sizes() -> None:
    cases = _Cases()
    for mode in ("nearest", "nearest_exact", "linear", "cubic"):
        for scales, size in (((2.0, 2.0), (10, 14)), ((2.3, 1.7), (11, 11)), ((0.6, 0.45), (3, 3))):
            cases.add(plain("x", F32, (1, 3, 5, 7)), plain("y", F32, (1, 3, *size)), mode, False, scales)
            cases.add(blocked("x", F32, (1, 32, 5, 7)), blocked("y", F32, (1, 32, *size)), mode, False, scales)
    cases.check()


def test_other_ranks_and_dtypes() -> None:
    cases = _Cases()
    for mode in ("nearest", "nearest_exact", "linear"):
        cases.add(plain("x", F32, (2, 3, 9)), plain("y", F32, (2, 3, 14)), mode)
        cases.add(plain("x", F32, (2, 3, 4, 5, 6)), plain("y", F32, (2, 3, 7, 3, 9)), mode)
        cases.add(plain("x", DType.f64, (2, 3, 4, 5)), plain("y", DType.f64, (2, 3, 7, 9)), mode)
    cases.add(plain("x", F32, (2, 3, 4, 5, 6)), plain("y", F32, (2, 3, 7, 3, 9)), "linear", True)
    cases.add(plain("x", DType.u8, (2, 3, 4, 5)), plain("y", DType.u8, (2, 3, 7, 9)), "nearest")
    cases.check()


def test_a_chain_rides_on_it() -> None:
    """Feature pyramid: relu(upsampled + lateral)."""
    x, y, lateral = blocked("x", F32, (1, 32, 4, 5)), blocked("y", F32, (1, 32, 8, 10), (1, 1)), channels_last("l", F32, (1, 32, 8, 10))
    chain = Chain((Operation("add", (TheValue(), FromOperand(0))), Operation("relu", (FromOperation(0),))), (lateral,))
    built = Built([Resize(x, y, "nearest", in_channels=True, chain=chain)], [x, lateral], [y])
    values = {storage.buffer: numpy.random.default_rng(0).standard_normal(storage.shape).astype(numpy.float32) for storage in (x, lateral)}
    found = value_of(built.run({storage.buffer: memory_of(values[storage.buffer], storage) for storage in (x, lateral)}, 2)["y"], y)
    assert numpy.array_equal(found, numpy.maximum(values["x"].repeat(2, axis=2).repeat(2, axis=3) + values["l"], 0))


def test_what_does_not_fit_says_so() -> None:
    x, y = blocked("x", F32, (1, 32, 4, 5)), plain("y", F32, (1, 32, 8, 10))
    with pytest.raises(ValueError, match="side by side"):
        Resize(x, y, "nearest", in_channels=True)
    with pytest.raises(ValueError, match="no blocked"):
        Resize(x, y, "nearest")
    assert resize_candidates(x, y, "nearest") == []


def test_sampling_at_a_grid() -> None:
    kernels: list[GridSample] = []
    values: dict[str, tuple[Storage, torch.Tensor]] = {}
    wants: list[torch.Tensor] = []
    for dtype, size, out in ((F32, (5, 7), (4, 6)), (F32, (1, 3), (3, 2)), (DType.f64, (3, 5, 4), (2, 3, 4))):
        for mode in ("bilinear", "nearest", "bicubic"):
            if mode == "bicubic" and len(size) == 3:
                continue
            for padding in ("zeros", "border", "reflection"):
                for corners in (False, True):
                    number = len(kernels)
                    generator = torch.Generator().manual_seed(number)
                    x = torch.randn((2, 3, *size), generator=generator).to(getattr(torch, dtype.torch_name))
                    grid = (torch.rand((2, *out, len(size)), generator=generator) * 4 - 2).to(x.dtype)
                    want = torch.nn.functional.grid_sample(x, grid, mode, padding, corners)
                    source = plain(f"x{number}", dtype, tuple(x.shape))
                    places = plain(f"g{number}", dtype, tuple(grid.shape))
                    y = plain(f"y{number}", dtype, tuple(want.shape))
                    values |= {source.buffer: (source, x), places.buffer: (places, grid)}
                    kernels.append(GridSample(source, places, y, mode, padding, corners))
                    wants.append(want)
    built = Built(kernels, [storage for storage, _ in values.values()], [kernel.y for kernel in kernels])
    found = built.run({name: value.numpy().reshape(-1) for name, (_, value) in values.items()}, 2)
    for kernel, want in zip(kernels, wants, strict=True):
        got = torch.from_numpy(value_of(found[kernel.y.buffer], kernel.y))
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, msg=lambda text, name=kernel.describe(): f"{name}: {text}")  # noqa: B008
