"""Calls of `reduce_elements.hpp`: reductions one element at a time, of any dtype.

Integers add up in 64 bits and wrap around, floats in f64.
"""

from __future__ import annotations

import math

from graphopt.backends.cpu.kernel import C_TYPES
from graphopt.ir.types import DType

__all__ = ["IDENTITIES", "element_call"]

IDENTITIES: dict[str, float | int | bool] = {
    "sum": 0, "mean": math.nan, "prod": 1, "any": False, "all": True, "var": math.nan, "std": math.nan, "vector_norm": 0.0,
    "logsumexp": -math.inf,
}  # fmt: skip
"""Results over no elements at all."""


def element_call(op: str, x: DType, y: DType, count: int, parameter: float) -> str:
    """The call of one reduction; $S, $R, $y and $x stand for loops and pointers."""
    x_type, y_type = C_TYPES[x.text], C_TYPES[y.text]
    if op in ("argmax", "argmin"):
        sign = ">" if op == "argmax" else "<"
        return f"index_of_best<$S, $R>(worker, $y, $x, []({x_type} v, {x_type} best) {{ return v {sign} best; }})"
    if op in ("var", "std", "logsumexp"):
        return _twice(op, x_type, y_type, count, parameter)
    inside = "double" if x.is_float else "int64_t"
    finish = "a"
    match op:
        case "sum":
            start, step = "0", f"scalar::add(a, static_cast<{inside}>(v))"
        case "mean":
            start, step, finish = "0", f"a + static_cast<{inside}>(v)", f"a / {count}.0"
        case "prod":
            start, step = "1", f"scalar::mul(a, static_cast<{inside}>(v))"
        case "amax" | "amin":
            inside = x_type
            step = f"scalar::{'maximum' if op == 'amax' else 'minimum'}(a, v)"
            if x.is_float:
                start = "-INFINITY" if op == "amax" else "INFINITY"
            else:
                start = f"std::numeric_limits<{x_type}>::{'lowest' if op == 'amax' else 'max'}()"
        case "any" | "all":
            inside = "bool"
            start, step = ("false", "a || v != 0") if op == "any" else ("true", "a && v != 0")
        case _:
            start, step, finish = _norm(parameter)
    return (
        f"reduce_elements<$S, $R>(worker, $y, $x, {inside}({start}), "
        f"[]({inside} a, {x_type} v) -> {inside} {{ return {step}; }}, "
        f"[]({inside} a) {{ return scalar::to<{y_type}>({finish}); }})"
    )


def _norm(order: float) -> tuple[str, str, str]:
    """Start, step and finish of a vector norm, in f64."""
    if math.isinf(order):
        return (
            ("0", "scalar::maximum(a, std::fabs(double(v)))", "a")
            if order > 0
            else ("INFINITY", "scalar::minimum(a, std::fabs(double(v)))", "a")
        )
    if order == 0:
        return "0", "a + (v != 0)", "a"
    if order == 1:
        return "0", "a + std::fabs(double(v))", "a"
    if order == 2:
        return "0", "a + double(v) * double(v)", "std::sqrt(a)"
    return "0", f"a + std::pow(std::fabs(double(v)), {order!r})", f"std::pow(a, {1.0 / order!r})"


def _twice(op: str, x_type: str, y_type: str, count: int, parameter: float) -> str:
    if op == "logsumexp":
        start, first = "-INFINITY", "scalar::maximum(a, double(v))"
        between, second, finish = "std::isinf(a) ? 0.0 : a", "a + std::exp(double(v) - known)", "std::log(a) + known"
    else:
        divisor = max(0.0, count - parameter)
        start, first, between = "0", "a + double(v)", f"a / {count}.0"
        second = "a + (double(v) - known) * (double(v) - known)"
        finish = f"a / {divisor!r}" if op == "var" else f"std::sqrt(a / {divisor!r})"
    return (
        f"reduce_elements_twice<$S, $R>(worker, $y, $x, double({start}), "
        f"[](double a, {x_type} v) -> double {{ return {first}; }}, [](double a) -> double {{ return {between}; }}, "
        f"[](double a, {x_type} v, double known) -> double {{ (void)known; return {second}; }}, "
        f"[](double a, double known) {{ (void)known; return scalar::to<{y_type}>({finish}); }})"
    )
