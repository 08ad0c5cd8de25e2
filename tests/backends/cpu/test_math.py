"""Vector math against torch in float64: errors in ulp over dense grids, and NaN, infinities, zeros."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from graphopt.backends.cpu.chain import FromOperand, Operation
from graphopt.backends.cpu.kernels.elementwise import Elementwise
from graphopt.backends.cpu.storage import plain
from graphopt.ir.attributes import Attribute
from graphopt.ir.types import DType
from tests.backends.cpu.support import build_kernels

Float64 = NDArray[numpy.float64]
Function = Callable[[torch.Tensor], torch.Tensor]

_SPECIAL = numpy.array(
    [numpy.nan, numpy.inf, -numpy.inf, 0.0, -0.0, 1e-45, -1e-40, 3.4e38, -3.4e38, 0.5, 1.5, 2.5, -2.5, 1.0, -1.0], dtype=numpy.float32
)
_GRID = numpy.concatenate(
    [
        numpy.linspace(-12, 12, 60_001),
        numpy.linspace(-1, 1, 30_001),
        numpy.linspace(-110, 110, 30_001),
        numpy.logspace(-38, 38, 10_000),
        -numpy.logspace(-38, 38, 10_000),
    ]
).astype(numpy.float32)

_ULP: dict[str, tuple[Function, float]] = {
    "exp": (torch.exp, 1.5),
    "exp2": (torch.exp2, 1.5),
    "expm1": (torch.expm1, 2),
    "log": (torch.log, 1),
    "log2": (torch.log2, 2.5),
    "log10": (torch.log10, 2.5),
    "log1p": (torch.log1p, 2),
    "tanh": (torch.tanh, 2.5),
    "erf": (torch.erf, 2),
    "sqrt": (torch.sqrt, 0.5),
    "rsqrt": (torch.rsqrt, 1.5),
    "reciprocal": (torch.reciprocal, 0.5),
    "sin": (torch.sin, 1),
    "cos": (torch.cos, 1),
    "atan": (torch.atan, 1),
    "asinh": (torch.asinh, 2),
    "erfc": (torch.erfc, 3),
    "softsign": (F.softsign, 2),
    "log_sigmoid": (F.logsigmoid, 3),
    "selu": (F.selu, 3),
    "hardswish": (F.hardswish, 3),
    "hardsigmoid": (F.hardsigmoid, 3),
}
"""Ops that are accurate everywhere, with the largest error in ulp."""

_ABSOLUTE: dict[str, tuple[Function, float]] = {
    "sigmoid": (torch.sigmoid, 1.2e-7),
    "silu": (F.silu, 1.5e-6),
    "gelu": (F.gelu, 9e-7),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), 9e-7),
    "mish": (F.mish, 1.5e-6),
}
"""Ops that tend to zero: the largest absolute error for |x| < 16."""

_EXACT: dict[str, Function] = {
    "relu": torch.relu,
    "abs": torch.abs,
    "neg": torch.neg,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "sign": torch.sign,
    "square": torch.square,
    "frac": lambda x: x - torch.trunc(x),
}


def _operation(name: str) -> Operation:
    attrs: dict[str, Attribute] = {"approximate": "tanh" if name == "gelu_tanh" else "none"} if name.startswith("gelu") else {}
    return Operation("gelu" if name == "gelu_tanh" else name, (FromOperand(0),), attrs)


@pytest.fixture(scope="module", params=["avx512", "avx2", "generic"])
def results(request: pytest.FixtureRequest) -> dict[str, Float64]:
    x = numpy.concatenate([_SPECIAL, _GRID])
    storage = plain("x", DType.f32, x.shape)
    names = [*_ULP, *_ABSOLUTE, *_EXACT]
    outputs = [plain(f"y{number}", DType.f32, x.shape) for number in range(len(names))]
    kernels = [Elementwise((_operation(name),), (storage,), y) for name, y in zip(names, outputs, strict=True)]
    found = build_kernels(kernels, [storage], outputs, isa=request.param).run({"x": x}, 2)
    return {"x": x.astype(numpy.float64)} | {name: found[y.buffer].astype(numpy.float64) for name, y in zip(names, outputs, strict=True)}


def _want(function: Function, x: Float64) -> Float64:
    return function(torch.from_numpy(x)).numpy()


def _same_specials(got: Float64, want: Float64) -> None:
    with numpy.errstate(over="ignore"):
        rounded = want.astype(numpy.float32)
    assert numpy.array_equal(numpy.isnan(got), numpy.isnan(rounded))
    assert numpy.array_equal(numpy.isinf(got), numpy.isinf(rounded))
    assert (numpy.signbit(got) == numpy.signbit(rounded))[numpy.isinf(got)].all()


@pytest.mark.parametrize("name", _ULP)
def test_error_in_ulp(results: dict[str, Float64], name: str) -> None:
    function, limit = _ULP[name]
    got, want = results[name], _want(function, results["x"])
    _same_specials(got, want)
    finite = numpy.isfinite(got) & numpy.isfinite(want)
    unit = numpy.maximum(numpy.spacing(numpy.abs(want[finite]).astype(numpy.float32)).astype(numpy.float64), 2.0**-149)
    error = numpy.abs(got[finite] - want[finite]) / unit
    assert error.max() <= limit, f"x = {results['x'][finite][error.argmax()]}"


@pytest.mark.parametrize("name", _ABSOLUTE)
def test_absolute_error(results: dict[str, Float64], name: str) -> None:
    function, limit = _ABSOLUTE[name]
    got, want = results[name], _want(function, results["x"])
    small = numpy.abs(results["x"]) < 16
    error = numpy.abs(got[small] - want[small])
    assert error.max() <= limit, f"x = {results['x'][small][error.argmax()]}"
    assert numpy.isnan(got[0])
    assert got[1] == want[1] or numpy.isnan(want[1])
    large = numpy.isfinite(want) & ~small
    assert (numpy.abs(got[large] - want[large]) <= 1e-6 * numpy.abs(want[large]) + 1e-6).all()


@pytest.mark.parametrize("name", _EXACT)
def test_exact(results: dict[str, Float64], name: str) -> None:
    want = _EXACT[name](torch.from_numpy(results["x"].astype(numpy.float32))).double().numpy()
    assert numpy.array_equal(results[name], want, equal_nan=True)
