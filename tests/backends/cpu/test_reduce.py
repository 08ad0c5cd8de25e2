"""Reductions against torch: axes, layouts, dtypes, rounding errors, threads."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy
import pytest
import torch
from numpy.typing import NDArray

from graphopt.backends.cpu.kernels.reduce import Reduce, reduce_fits
from graphopt.backends.cpu.storage import Storage, blocked, channels_last, plain
from graphopt.ir.types import DType
from tests.backends.cpu.support import Built, memory_of, value_of

F32 = DType.f32
Array = NDArray[numpy.generic]


def _torch(op: str, x: torch.Tensor, axes: tuple[int, ...], keepdims: bool, parameter: float) -> torch.Tensor:
    match op:
        case "var" | "std":
            return getattr(torch, op)(x, dim=axes, correction=parameter, keepdim=keepdims)
        case "vector_norm":
            return torch.linalg.vector_norm(x, parameter, dim=axes, keepdim=keepdims)
        case "argmax" | "argmin":
            return getattr(torch, op)(x, dim=None if len(axes) == x.ndim and x.ndim > 1 else axes[0], keepdim=keepdims)
        case "prod":
            for axis in sorted(axes, reverse=True):
                x = torch.prod(x, dim=axis, keepdim=keepdims)
            return x
        case _:
            return getattr(torch, op)(x, dim=axes, keepdim=keepdims)


class _Cases:
    def __init__(self) -> None:
        self.inputs: dict[str, tuple[Storage, torch.Tensor]] = {}
        self.kernels: list[Reduce] = []
        self.wants: list[torch.Tensor] = []

    def add(
        self,
        op: str,
        x: Storage,
        value: torch.Tensor,
        axes: tuple[int, ...],
        parameter: float = 1.0,
        *,
        keepdims: bool = False,
        y: Callable[[str, DType, tuple[int, ...]], Storage] = plain,
    ) -> None:
        number = len(self.kernels)
        storage = x.moved(f"x{number}")
        want = _torch(op, value, axes, keepdims, parameter)
        precise = _torch(op, value.double(), axes, keepdims, parameter).to(want.dtype) if value.is_floating_point() else want
        result = y(f"y{number}", DType.parse(str(want.dtype).removeprefix("torch.")), tuple(want.shape))
        self.inputs[storage.buffer] = storage, value
        self.kernels.append(Reduce(op, storage, result, axes, parameter))
        self.wants.append(precise)

    def check(self, isa: str = "avx512", rtol: float = 3e-6) -> None:
        built = Built(self.kernels, [storage for storage, _ in self.inputs.values()], [kernel.y for kernel in self.kernels], isa=isa)
        memories = {
            name: memory_of(value.numpy(), storage, fill=numpy.nan if value.is_floating_point() else 3)
            for name, (storage, value) in self.inputs.items()
        }
        first: dict[str, Array] = {}
        for threads in (1, 2, 3):
            found = built.run(memories, threads)
            for kernel, want in zip(self.kernels, self.wants, strict=True):
                got = value_of(found[kernel.y.buffer], kernel.y)
                text = f"{kernel.describe()} -> {kernel.y.text}"
                torch.testing.assert_close(
                    torch.from_numpy(numpy.array(got)), want, rtol=rtol, atol=2e-6, equal_nan=True, msg=lambda m, t=text: f"{t}: {m}"
                )
                assert numpy.array_equal(got, first.setdefault(kernel.y.buffer, got), equal_nan=True), f"{text}: {threads} threads differ"


_FLOAT_OPS: list[tuple[str, float]] = [
    *((name, 1) for name in ("sum", "mean", "prod", "amax", "amin", "var", "std", "logsumexp", "argmax", "argmin")),
    ("var", 0),
    *(("vector_norm", order) for order in (2, 1, math.inf, -math.inf, 0, 3)),
]


def _values(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("isa", ["avx512", "generic"])
def test_lanes_that_are_reduced_or_kept_or_neither(isa: str) -> None:
    cases = _Cases()
    value = _values((3, 21, 37))
    for op, parameter in _FLOAT_OPS:
        for axes in ((2,), (1,)):
            cases.add(op, plain("x", F32, value.shape), value, axes, parameter, keepdims=True)
        turned = value.transpose(1, 2)
        cases.add(op, plain("x", F32, value.shape).permute((0, 2, 1)), turned, (1,), parameter)
        strided = _values((4, 5, 9))
        every = Storage("x", F32, (4, 5, 9), (135, 27, 3))
        if op not in ("argmax", "argmin"):
            cases.add(op, every, strided, (0, 2), parameter)
        else:
            cases.add(op, every, strided, (1,), parameter)
            cases.add(op, plain("x", F32, value.shape), value, (0, 1, 2))
    cases.check(isa)


def test_images_of_every_layout() -> None:
    cases = _Cases()
    for channels in (20, 64):
        shape = (2, channels, 5, 6)
        value = _values(shape, channels)
        for layout in (
            blocked("x", F32, shape),
            blocked("x", F32, shape, (1, 2)),
            channels_last("x", F32, shape),
            plain("x", F32, shape, (1, 1)),
        ):
            for op in ("mean", "amax", "var"):
                cases.add(op, layout, value, (2, 3))
                cases.add(op, layout, value, (2, 3), keepdims=True, y=blocked)
            cases.add("sum", layout, value, (0, 3))
            cases.add("argmax", layout, value, (2,))
            if reduce_fits(layout, (1,)):
                cases.add("mean", layout, value, (1,), keepdims=True)
                cases.add("sum", layout, value, (0, 1, 2, 3))
                cases.add("argmax", layout, value, (1,))
                cases.add("argmin", layout, value, (0, 1, 2, 3))
    cases.check()


def test_other_dtypes() -> None:
    cases = _Cases()
    generator = torch.Generator().manual_seed(1)
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.bool, torch.float64):
        value = torch.randint(0, 2 if dtype is torch.bool else 5, (4, 6, 5), generator=generator).to(dtype)
        if dtype is torch.float64:
            value = torch.randn((4, 6, 5), generator=generator, dtype=torch.float64)
        name = DType.parse(str(dtype).removeprefix("torch."))
        layout = plain("x", name, (4, 6, 5))
        for axes in ((1,), (0, 2)):
            for op in ("sum", "prod", "amax", "amin", "any", "all"):
                cases.add(op, layout, value, axes)
        if dtype is not torch.bool:
            cases.add("argmax", layout, value, (1,))
            cases.add("argmin", layout, value, (0, 1, 2))
            cases.add("logsumexp", layout, value, (2,))
    value = torch.randn((4, 6, 5), generator=generator, dtype=torch.float64)
    for op, parameter in _FLOAT_OPS:
        cases.add(op, plain("x", DType.f64, (4, 6, 5)), value, (1,), parameter)
    value = torch.randn((3, 4), generator=generator) > 0
    cases.add("any", plain("x", F32, (3, 4)), value.float(), (1,))
    cases.add("all", plain("x", F32, (3, 4)), value.float(), (1,))
    cases.check()


def test_nan_and_ties() -> None:
    cases = _Cases()
    value = torch.tensor(
        [[1.0, 3.0, 3.0, -2.0] * 5, [math.nan, 1.0, math.nan, math.inf] * 5, [-math.inf] * 20, [math.inf, 2.0, 3.0, 4.0] * 5]
    )
    turned = value.T.contiguous()
    for op in ("amax", "amin", "argmax", "argmin", "logsumexp", "sum", "mean", "vector_norm"):
        cases.add(op, plain("x", F32, (4, 20)), value, (1,), 2)
        cases.add(op, plain("x", F32, (20, 4)), turned, (0,), 2)
    cases.check()


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
def test_reducing_nothing() -> None:
    cases = _Cases()
    for op in ("sum", "mean", "prod", "any", "all", "var", "std", "logsumexp"):
        cases.add(op, plain("x", F32, (2, 0)), torch.zeros((2, 0)), (1,))
    cases.add("sum", plain("x", F32, ()), torch.tensor(3.0), ())
    cases.add("amax", plain("x", F32, (1, 3)), torch.tensor([[1.0, 2.0, 3.0]]), (0,))
    cases.check()


def test_rounding_errors_stay_small() -> None:
    """A million numbers near 1: adding them up one after the other would lose half of the digits."""
    count = 1_000_003
    values = (numpy.random.default_rng(0).random(count) + 0.5).astype(numpy.float32)
    x, y, z = plain("x", F32, (count,)), plain("y", F32, ()), plain("z", F32, (17,))
    wide = plain("wide", F32, (60_000, 17))
    value = values[: 60_000 * 17 // 2].repeat(2)
    built = Built([Reduce("sum", x, y, (0,)), Reduce("mean", wide, z, (0,))], [x, wide], [y, z])
    found = built.run({"x": values, "wide": value})
    want = values.astype(numpy.float64).sum()
    assert abs(float(found["y"][0]) - want) <= 1.5e-7 * want
    means = value.reshape(60_000, 17).astype(numpy.float64).mean(axis=0)
    assert (numpy.abs(value_of(found["z"], z) - means) <= 1.5e-7 * means).all()


def test_what_does_not_fit_says_so() -> None:
    x = blocked("x", F32, (1, 20, 2, 2))
    with pytest.raises(ValueError, match="multiple of 16"):
        Reduce("sum", x, plain("y", F32, (1, 2, 2)), (1,))
    with pytest.raises(ValueError, match="softmax"):
        Reduce("softmax", x, x, (1,))
