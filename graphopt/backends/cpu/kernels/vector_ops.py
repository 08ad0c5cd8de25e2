"""C++ expressions of elementwise ops on `Vec` (f32): the calls into `math.hpp` and `activations.hpp`.

Truth values inside a chain are 1.0 and 0.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy

from graphopt.backends.cpu.chain import Argument, Chain, Constant, FromOperand, FromOperation, Operation
from graphopt.ir.attributes import Attribute
from graphopt.ir.types import DType

__all__ = ["VECTOR_HEADERS", "float_literal", "is_vector_chain", "is_vector_operation", "literal", "vector_expression"]

VECTOR_HEADERS = ("activations.hpp",)
"""What code made of `vector_expression` includes."""

Attrs: TypeAlias = "Mapping[str, Attribute]"
Rule: TypeAlias = "Callable[[Sequence[str], Attrs], str]"


def float_literal(value: float) -> str:
    """A C++ float that is exactly the f32 nearest to `value`."""
    with numpy.errstate(over="ignore"):
        number = float(numpy.float32(value))
    if math.isnan(number):
        return "NAN"
    if math.isinf(number):
        return "INFINITY" if number > 0 else "-INFINITY"
    text = numpy.format_float_positional(numpy.float32(number), unique=True, trim="0")
    if len(text) > 14:
        text = numpy.format_float_scientific(numpy.float32(number), unique=True, trim="0")
    return f"{text}f"


def literal(value: float | int | bool, dtype: DType) -> str:
    """A C++ literal of a number for an element of that dtype."""
    if dtype.kind == "float":
        if dtype is not DType.f32:
            number = float(value)
            return repr(number) if math.isfinite(number) else "NAN" if math.isnan(number) else "INFINITY" if number > 0 else "-INFINITY"
        return float_literal(float(value))
    if dtype is DType.boolean:
        return "true" if value else "false"
    whole = int(value)
    if whole == -(2**63):
        return "INT64_MIN"
    return f"{whole}ull" if whole >= 2**63 else f"{whole}ll" if abs(whole) >= 2**31 else str(whole)


def _number(attrs: Attrs, name: str) -> str:
    value = attrs[name]
    assert isinstance(value, (int, float)), f"{name} is a number"
    return float_literal(float(value))


def _call(function: str, *names: str) -> Rule:
    """`function(arguments..., attributes...)`."""

    def rule(arguments: Sequence[str], attrs: Attrs) -> str:
        return f"{function}({', '.join([*arguments, *(_number(attrs, name) for name in names)])})"

    return rule


def _infix(sign: str) -> Rule:
    return lambda arguments, attrs: f"{arguments[0]} {sign} {arguments[1]}"


def _clamp(arguments: Sequence[str], attrs: Attrs) -> str:
    """Limits that are NaN make everything NaN."""
    low, high = attrs["minimum"], attrs["maximum"]
    limits = [float(limit) for limit in (low, high) if isinstance(limit, (int, float))]
    if any(math.isnan(limit) for limit in limits):
        return "splat(NAN)"
    expression = arguments[0]
    if low is not None:
        expression = f"at_least({expression}, {_number(attrs, 'minimum')})"
    if high is not None:
        expression = f"at_most({expression}, {_number(attrs, 'maximum')})"
    return expression


def _elu(arguments: Sequence[str], attrs: Attrs) -> str:
    return f"elu({arguments[0]}, {_number(attrs, 'alpha')}, {_number(attrs, 'scale')}, {_number(attrs, 'input_scale')})"


def _celu(arguments: Sequence[str], attrs: Attrs) -> str:
    alpha = attrs["alpha"]
    assert isinstance(alpha, (int, float)), "alpha is a number"
    return f"elu({arguments[0]}, {float_literal(alpha)}, 1.0f, {float_literal(1.0 / alpha if alpha else math.inf)})"


def _gelu(arguments: Sequence[str], attrs: Attrs) -> str:
    return f"{'gelu_tanh' if attrs['approximate'] == 'tanh' else 'gelu'}({arguments[0]})"


def _div(arguments: Sequence[str], attrs: Attrs) -> str:
    match attrs.get("rounding"):
        case None:
            return f"{arguments[0]} / {arguments[1]}"
        case rounding:
            return f"divide_{rounding}({arguments[0]}, {arguments[1]})"


def _cast(arguments: Sequence[str], attrs: Attrs) -> str:
    return arguments[0] if attrs["dtype"] is DType.f32 else f"not_equal({arguments[0]}, zero())"


_SAME_NAME = (
    "relu", "floor", "ceil", "round", "trunc", "silu", "hardsigmoid", "hardswish", "mish", "selu", "log_sigmoid", "frac",
    "sigmoid", "tanh", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos",
    "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "erf", "erfc", "abs", "softsign", "sign", "isnan",
    "isinf", "logical_not", "prelu", "maximum", "minimum", "remainder", "fmod", "atan2", "logical_and", "logical_or",
    "logical_xor", "where", "pow",
)  # fmt: skip

_RULES: dict[str, Rule] = {
    **{name: _call(name) for name in _SAME_NAME},
    "neg": lambda arguments, attrs: f"-{arguments[0]}",
    "square": lambda arguments, attrs: f"{arguments[0]} * {arguments[0]}",
    "gelu": _gelu,
    "softplus": _call("softplus", "beta", "threshold"),
    "elu": _elu,
    "celu": _celu,
    "leaky_relu": _call("leaky_relu", "negative_slope"),
    "hardshrink": _call("hardshrink", "lambd"),
    "softshrink": _call("softshrink", "lambd"),
    "threshold": _call("threshold", "threshold", "value"),
    "clamp": _clamp,
    "cast": _cast,
    "add": _infix("+"),
    "sub": _infix("-"),
    "mul": _infix("*"),
    "div": _div,
    "eq": _call("equal"),
    "ne": _call("not_equal"),
    "lt": _call("less"),
    "le": _call("less_equal"),
    "gt": _call("greater"),
    "ge": _call("greater_equal"),
}

_TRUTH = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "logical_not", "logical_and", "logical_or", "logical_xor"})
_TAKES_TRUTH = frozenset(
    {"eq", "ne", "lt", "le", "gt", "ge", "logical_not", "logical_and", "logical_or", "logical_xor", "cast", "where", "sign"}
)


def _powers(base: str) -> dict[float, str]:
    """Powers that torch computes without logarithms."""
    return {
        0.0: "splat(1.0f)",
        0.5: f"sqrt({base})",
        1.0: base,
        2.0: f"{base} * {base}",
        3.0: f"{base} * {base} * {base}",
        -0.5: f"rsqrt({base})",
        -1.0: f"splat(1.0f) / {base}",
        -2.0: f"splat(1.0f) / ({base} * {base})",
    }


def vector_expression(operation: Operation, arguments: Sequence[str]) -> str:
    """The operation as an expression; `arguments` are names of `Vec`s or calls of `splat`."""
    if operation.op == "pow" and isinstance(operation.arguments[1], Constant):
        found = _powers(arguments[0]).get(operation.arguments[1].value)
        if found is not None:
            return found
    return _RULES[operation.op](arguments, operation.attrs)


def is_vector_operation(operation: Operation) -> bool:
    """True when there is a rule for f32; the bits of integers, and casts to them, have none."""
    return operation.op in _RULES and not (operation.op == "cast" and operation.attrs["dtype"] not in (DType.f32, DType.boolean))


def is_vector_chain(chain: Chain) -> bool:
    """True when every operation has a rule and none does arithmetic on truth values alone (true + true is true)."""
    truth: list[bool] = []

    def is_truth(argument: Argument) -> bool:
        if isinstance(argument, FromOperand):
            return chain.operands[argument.index].dtype is DType.boolean
        return isinstance(argument, FromOperation) and truth[argument.index]

    for operation in chain.operations:
        if not is_vector_operation(operation):
            return False
        logical = [is_truth(argument) for argument in operation.arguments]
        if operation.op not in _TAKES_TRUTH and all(logical):
            return False
        truth.append(
            operation.op in _TRUTH
            or (operation.op == "cast" and operation.attrs["dtype"] is DType.boolean)
            or (operation.op == "where" and all(logical[1:]))
            or (operation.op == "sign" and logical[0])
        )
    return True
