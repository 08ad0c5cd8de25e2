"""Functions that emitted kernels call: what `triton.language` lacks, on floats in registers.

    from graphopt.backends.cuda import functions as f
    y = f.gelu(x)

They use nothing that Triton's interpreter does not have (no libdevice), so the same text runs on a GPU and, for
tests, on the CPU. f32 unless a line says otherwise; NaN stays NaN.
"""

# Triton code has no types that a Python type checker could follow.
# pyright: basic, reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

__all__ = [
    "clip", "dot", "expm1", "floor_divide", "gelu", "gelu_tanh", "log1p", "remainder", "round_even", "sigmoid", "sign", "softplus", "tanh",
    "trunc",
]  # fmt: skip


def _jit(function):
    """Compiled into each kernel. The interpreter runs the function as it is, which spares it most of the time of a call."""
    return function if knobs.runtime.interpret else triton.jit(function)


@_jit
def expm1(x):
    """exp(x) - 1; a Taylor polynomial of degree 9 where the difference would cancel, within 2 ulp."""
    near = 1.0 / 40320 + x * (1.0 / 362880)
    near = 1.0 / 5040 + x * near
    near = 1.0 / 720 + x * near
    near = 1.0 / 120 + x * near
    near = 1.0 / 24 + x * near
    near = 1.0 / 6 + x * near
    near = 0.5 + x * near
    near = x + x * x * near
    return tl.where(tl.abs(x) < 0.5, near, tl.exp(x) - 1.0)


@_jit
def log1p(x):
    """log(1 + x); 2 artanh(x / (2 + x)) as a series up to degree 15 where 1 + x would lose digits."""
    s = x / (2.0 + x)
    q = s * s
    near = 1.0 / 13 + q * (1.0 / 15)
    near = 1.0 / 11 + q * near
    near = 1.0 / 9 + q * near
    near = 1.0 / 7 + q * near
    near = 0.2 + q * near
    near = 1.0 / 3 + q * near
    near = 2.0 * s * (1.0 + q * near)
    return tl.where(tl.abs(x) < 0.5, near, tl.log(1.0 + x))


@_jit
def tanh(x):
    """By expm1(-2|x|), which neither cancels nor overflows."""
    e = expm1(-2.0 * tl.abs(x))
    t = -e / (e + 2.0)
    return tl.where(x < 0, -t, t)


@_jit
def sigmoid(x):
    """1 / (1 + exp(-x)); f32 and f64."""
    return 1.0 / (1.0 + tl.exp(-x))


@_jit
def gelu(x):
    """x times the normal distribution function of x; f32 and f64."""
    return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))


@_jit
def gelu_tanh(x):
    """The approximation of gelu by tanh, as `torch.nn.functional.gelu(x, approximate="tanh")`."""
    return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


@_jit
def softplus(x, beta, threshold):
    """log(1 + exp(beta x)) / beta; x where beta x > threshold."""
    scaled = x * beta
    return tl.where(scaled > threshold, x, log1p(tl.exp(scaled)) / beta)


@_jit
def clip(x, low, high):
    """x between the limits; any dtype."""
    raised = tl.where(x < low, low, x)
    return tl.where(raised > high, high, raised)


@_jit
def sign(x):
    """-1, 0 or 1, 0 of NaN; any signed dtype."""
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


@_jit
def trunc(x):
    """Towards zero; f32 and f64."""
    return tl.where(x < 0, tl.ceil(x), tl.floor(x))


@_jit
def round_even(x):
    """To the nearest integer, ties to even; f32 and f64."""
    low = tl.floor(x)
    part = x - low
    is_odd = low - 2.0 * tl.floor(low * 0.5) != 0
    up = (part > 0.5) | ((part == 0.5) & is_odd)
    return tl.where(up, low + 1.0, low)


@_jit
def remainder(x, y):
    """What a division leaves, with the sign of y; any number."""
    rest = x % y
    return tl.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)


@_jit
def floor_divide(x, y):
    """The quotient of integers, rounded down."""
    quotient = x // y
    return tl.where((quotient * y != x) & ((x < 0) != (y < 0)), quotient - 1, quotient)


if knobs.runtime.interpret:

    def dot(a, b, total, precision):  # pyright: ignore[reportRedeclaration]
        """total + a @ b. The interpreter would multiply the bits of bf16 as integers, so both are widened."""
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision=precision)
else:

    @triton.jit
    def dot(a, b, total, precision: tl.constexpr):
        """total + a @ b, added up in f32; `precision` is "ieee" or "tf32" for f32."""
        return tl.dot(a, b, total, input_precision=precision)
