"""C++ expressions of elementwise ops on one element of any dtype: the calls into `scalar.hpp`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from graphopt.backends.cpu.chain import Operation
from graphopt.backends.cpu.kernel import C_TYPES
from graphopt.backends.cpu.kernels.vector_ops import literal
from graphopt.backends.planning.dtypes import KEEPS_OPERAND
from graphopt.ir.attributes import Attribute
from graphopt.ir.types import DType

__all__ = ["is_scalar_operation", "scalar_expression"]

Attrs: TypeAlias = "Mapping[str, Attribute]"
Rule: TypeAlias = "Callable[[Sequence[str], Attrs, DType], str]"

_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LOGICAL = {"logical_and": "&&", "logical_or": "||", "logical_xor": "!="}
_SCALAR = (
    "add", "sub", "mul", "neg", "square", "abs", "sign", "fmod", "remainder", "pow", "maximum", "minimum", "bitwise_and", "bitwise_or",
    "bitwise_xor", "bitwise_not", "bitwise_left_shift", "bitwise_right_shift", "floor", "ceil", "trunc", "round", "relu", "frac",
    "reciprocal", "rsqrt", "sigmoid", "silu", "hardsigmoid", "hardswish", "mish", "selu", "log_sigmoid", "softsign", "prelu",
)  # fmt: skip
_STANDARD = (
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh",
    "acosh", "atanh", "tanh", "erf", "erfc", "atan2", "isnan", "isinf",
)  # fmt: skip


def _call(function: str, *names: str) -> Rule:
    def rule(arguments: Sequence[str], attrs: Attrs, dtype: DType) -> str:
        return f"{function}({', '.join([*arguments, *(_number(attrs, name, dtype) for name in names)])})"

    return rule


def _infix(sign: str) -> Rule:
    return lambda arguments, attrs, dtype: f"({arguments[0]} {sign} {arguments[1]})"


def _number(attrs: Attrs, name: str, dtype: DType) -> str:
    value = attrs[name]
    assert isinstance(value, (int, float)), f"{name} is a number"
    return f"{C_TYPES[dtype.text]}({literal(value, dtype)})"


def _clamp(arguments: Sequence[str], attrs: Attrs, dtype: DType) -> str:
    limits = [limit for limit in (attrs["minimum"], attrs["maximum"]) if isinstance(limit, (int, float))]
    if any(math.isnan(limit) for limit in limits):
        return f"{C_TYPES[dtype.text]}(NAN)"
    expression = arguments[0]
    if attrs["minimum"] is not None:
        expression = f"scalar::at_least({expression}, {_number(attrs, 'minimum', dtype)})"
    if attrs["maximum"] is not None:
        expression = f"scalar::at_most({expression}, {_number(attrs, 'maximum', dtype)})"
    return expression


def _div(arguments: Sequence[str], attrs: Attrs, dtype: DType) -> str:
    rounding = attrs.get("rounding")
    return f"({arguments[0]} / {arguments[1]})" if rounding is None else f"scalar::divide_{rounding}({arguments[0]}, {arguments[1]})"


def _celu(arguments: Sequence[str], attrs: Attrs, dtype: DType) -> str:
    alpha = attrs["alpha"]
    assert isinstance(alpha, (int, float)), "alpha is a number"
    c_type = C_TYPES[dtype.text]
    inverse = 1.0 / alpha if alpha else math.inf
    return f"scalar::elu({arguments[0]}, {c_type}({literal(alpha, dtype)}), {c_type}(1), {c_type}({literal(inverse, dtype)}))"


_RULES: dict[str, Rule] = {
    **{name: _call(f"scalar::{name}") for name in _SCALAR},
    **{name: _call(f"std::{name}") for name in _STANDARD},
    **{name: _infix(sign) for name, sign in (_COMPARISONS | _LOGICAL).items()},
    "logical_not": lambda arguments, attrs, dtype: f"({arguments[0]} == 0)",
    "where": lambda arguments, attrs, dtype: f"({arguments[0]} != 0 ? {arguments[1]} : {arguments[2]})",
    "cast": lambda arguments, attrs, dtype: arguments[0],
    "div": _div,
    "clamp": _clamp,
    "gelu": lambda arguments, attrs, dtype: f"scalar::gelu{'_tanh' if attrs['approximate'] == 'tanh' else ''}({arguments[0]})",
    "softplus": _call("scalar::softplus", "beta", "threshold"),
    "elu": _call("scalar::elu", "alpha", "scale", "input_scale"),
    "celu": _celu,
    "leaky_relu": _call("scalar::leaky_relu", "negative_slope"),
    "hardshrink": _call("scalar::hardshrink", "lambd"),
    "softshrink": _call("scalar::softshrink", "lambd"),
    "threshold": _call("scalar::threshold", "threshold", "value"),
}


def is_scalar_operation(operation: Operation) -> bool:
    """True when there is a rule."""
    return operation.op in _RULES


def scalar_expression(operation: Operation, arguments: Sequence[tuple[str, DType | None]], computed: DType, result: DType) -> str:
    """The operation as an expression of the result's type.

    `arguments` are expressions and their dtypes (None for literals), which meet in the dtype `computed`.
    """
    meet = DType.boolean if operation.op in _LOGICAL else computed

    def converted(position: int, expression: str, dtype: DType | None) -> str:
        if (operation.op == "where" and position == 0) or (operation.op in KEEPS_OPERAND and dtype is not None) or dtype is meet:
            return expression
        return f"scalar::to<{C_TYPES[meet.text]}>({expression})"

    texts = [converted(position, *argument) for position, argument in enumerate(arguments)]
    expression = _RULES[operation.op](texts, operation.attrs, computed)
    made = (
        DType.boolean
        if operation.op in _COMPARISONS or operation.op in _LOGICAL or operation.op in ("isnan", "isinf", "logical_not")
        else computed
    )
    if operation.op == "cast" and arguments[0][1] is not None:
        made = arguments[0][1]
    if operation.op in ("isnan", "isinf") and (arguments[0][1] is None or not arguments[0][1].is_float):
        expression = "false"
    return expression if made is result else f"scalar::to<{C_TYPES[result.text]}>({expression})"
