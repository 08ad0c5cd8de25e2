"""Triton expressions of elementwise ops on values in registers.

    gelu on x0  ->  f.gelu(x0)            add on x0, 0.5  ->  (x0 + 0.5)

A value of IR dtype f16 or bf16 is an f32 in a register that holds a number of its dtype; all other dtypes are themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from graphopt.backends.cuda.chain import Constant, Operation, compute_dtype
from graphopt.backends.cuda.kernel import TRITON_TYPES, Unsupported
from graphopt.ir.types import DType

__all__ = ["constant", "converted", "expression", "register_type", "rounded"]

Arguments: TypeAlias = "Sequence[str]"
Rule: TypeAlias = "Callable[[Operation, Arguments, DType], str]"
"""The operation, its arguments in the register dtype in which they meet, and that dtype."""

_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LOGICAL = {"logical_and": "&", "logical_or": "|", "logical_xor": "^"}
_BITS = {"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}
_ON_BOOLEANS = frozenset(
    {*_COMPARISONS, *_LOGICAL, *_BITS, "logical_not", "bitwise_not", "where", "cast", "add", "mul", "maximum", "minimum"}
)
_KEEPS_OPERAND = frozenset({"cast", "isnan", "isinf", "logical_not"})
_F32_ONLY = frozenset({"tanh", "expm1", "log1p", "softplus", "mish", "elu", "celu", "selu", "log_sigmoid"})
"""Made of polynomials that have the digits of f32."""


def register_type(dtype: DType) -> str:
    """The Triton type of a value of that IR dtype in a register.

    Raises:
        Unsupported: kernels have no such values.
    """
    if dtype.text not in TRITON_TYPES:
        raise Unsupported(f"kernels have no {dtype.text}")
    return TRITON_TYPES[compute_dtype(dtype).text]


def constant(value: float, dtype: DType) -> str:
    """A number as a literal of the register type of a dtype; Python's own literals are f32, i32 and i64."""
    kind = compute_dtype(dtype)
    if kind is DType.boolean:
        return f"tl.full([], {int(bool(value))}, tl.int1)"
    if not kind.is_float:
        text = str(int(value))
        return text if kind is DType.i32 else f"tl.full([], {text}, {TRITON_TYPES[kind.text]})"
    number = float(value)
    text = repr(number) if math.isfinite(number) else f'float("{number}")'
    # f64 reaches the compiler whole only where it is said to be one
    return f"tl.full([], {text}, tl.float64)" if kind is DType.f64 else text


def converted(text: str, have: DType, want: DType) -> str:
    """A register of IR dtype `have` as one of `want`."""
    if have is want:
        return text
    if want is DType.boolean:
        return f"({text} != 0)"
    source, target = compute_dtype(have), compute_dtype(want)
    return rounded(text if source is target else f"{text}.to({register_type(want)})", want)


def rounded(text: str, dtype: DType) -> str:
    """An f32 register rounded to a number of a 16-bit float dtype; others as they are."""
    return text if compute_dtype(dtype) is dtype else f"{text}.to({TRITON_TYPES[dtype.text]}).to(tl.float32)"


def expression(operation: Operation, arguments: Sequence[tuple[str, DType] | Constant]) -> str:
    """The operation as an expression in a register of its result's dtype.

    `arguments` are expressions with their IR dtypes, or numbers.

    Raises:
        Unsupported: there is no rule for the op with these dtypes.
    """
    rule = _RULES.get(operation.op)
    if rule is None:
        raise Unsupported(f"no kernel computes {operation.op}")
    meet = DType.boolean if operation.op in _LOGICAL else operation.computed
    first = arguments[0]
    if operation.op in _KEEPS_OPERAND and not isinstance(first, Constant):
        meet = first[1]
    for dtype in (meet, operation.dtype):
        register_type(dtype)
    if meet is DType.boolean and operation.op not in _ON_BOOLEANS:
        raise Unsupported(f"no kernel computes {operation.op} on truth values")
    if meet is DType.f64 and operation.op in _F32_ONLY:
        raise Unsupported(f"{operation.op} on f64 has no kernel")
    texts: list[str] = []
    for position, argument in enumerate(arguments):
        want = DType.boolean if operation.op == "where" and position == 0 else meet
        texts.append(constant(argument.value, want) if isinstance(argument, Constant) else converted(*argument, want))
    made = rule(operation, texts, compute_dtype(meet))
    is_boolean = operation.op in _COMPARISONS or operation.op in _LOGICAL or operation.op in ("isnan", "isinf", "logical_not")
    have = DType.boolean if is_boolean else compute_dtype(meet)
    if have is operation.dtype:
        return made
    return converted(made, have, operation.dtype)


# ---- rules ----------------------------------------------------------------------------------------------------


def _format(template: str) -> Rule:
    return lambda operation, arguments, dtype: template.format(*arguments)


def _attribute(operation: Operation, name: str, dtype: DType) -> str:
    value = operation.attribute(name)
    if not isinstance(value, (int, float)):
        raise Unsupported(f"{operation.op} with {name} {value!r} has no kernel")
    return constant(value, dtype)


def _with(template: str, *names: str) -> Rule:
    """A template whose further places are attributes."""
    return lambda operation, arguments, dtype: template.format(*arguments, *(_attribute(operation, name, dtype) for name in names))


def _infix(sign: str) -> Rule:
    return lambda operation, arguments, dtype: f"({arguments[0]} {sign} {arguments[1]})"


def _sum(operation: Operation, arguments: Arguments, dtype: DType) -> str:
    return f"({arguments[0]} {'|' if dtype is DType.boolean else '+'} {arguments[1]})"


def _product(operation: Operation, arguments: Arguments, dtype: DType) -> str:
    return f"({arguments[0]} {'&' if dtype is DType.boolean else '*'} {arguments[1]})"


def _extreme(which: str, on_booleans: str) -> Rule:
    def rule(operation: Operation, arguments: Arguments, dtype: DType) -> str:
        if dtype is DType.boolean:
            return f"({arguments[0]} {on_booleans} {arguments[1]})"
        nan = ", propagate_nan=tl.PropagateNan.ALL" if dtype.is_float else ""
        return f"tl.{which}({arguments[0]}, {arguments[1]}{nan})"

    return rule


def _div(operation: Operation, arguments: Arguments, dtype: DType) -> str:
    rounding = dict(operation.attrs).get("rounding")
    left, right = arguments
    if dtype.is_float:
        # rounded to nearest where a floor or trunc follows: an approximate quotient may fall on the other side
        exact = f"tl.math.div_rn({left}, {right})" if dtype is DType.f32 else f"({left} / {right})"
        if rounding is None:
            return f"({left} / {right})"
        return f"f.trunc({exact})" if rounding == "trunc" else _no("div floor of floats")
    return f"({left} // {right})" if rounding == "trunc" else f"f.floor_divide({left}, {right})"


def _no(what: str) -> str:
    raise Unsupported(f"{what} has no kernel")


def _pow(operation: Operation, arguments: Arguments, dtype: DType) -> str:
    exponent = operation.arguments[1]
    if isinstance(exponent, Constant) and exponent.value in _POWERS and dtype.is_float:
        return _POWERS[exponent.value].format(arguments[0])
    return _no("pow with an exponent that is no small integer or half")


_POWERS: dict[float, str] = {
    0.5: "tl.sqrt({0})", 1: "{0}", 2: "({0} * {0})", 3: "({0} * {0} * {0})", 4: "(({0} * {0}) * ({0} * {0}))",
    -1: "(1.0 / {0})", -0.5: "(1.0 / tl.sqrt({0}))", -2: "(1.0 / ({0} * {0}))",
}  # fmt: skip


def _clamp(operation: Operation, arguments: Arguments, dtype: DType) -> str:
    low, high = operation.attribute("minimum"), operation.attribute("maximum")
    text = arguments[0]
    for limit, sign in ((low, "<"), (high, ">")):
        if limit is None:
            continue
        if not isinstance(limit, (int, float)) or math.isnan(limit):
            return _no(f"clamp to {limit!r}")
        bound = constant(limit, dtype)
        text = f"tl.where({text} {sign} {bound}, {bound}, {text})"
    return text


def _gelu(operation: Operation, arguments: Arguments, dtype: DType) -> str:
    if operation.attribute("approximate") != "tanh":
        return f"f.gelu({arguments[0]})"
    return f"f.gelu_tanh({arguments[0]})" if dtype is DType.f32 else _no("gelu tanh on f64")


def _elu(alpha: float, scale: float, input_scale: float) -> str:
    positive = "{0}" if scale == 1 else f"{{0}} * {scale!r}"
    inner = "{0}" if input_scale == 1 else f"{{0}} * {input_scale!r}"
    return f"tl.where({{0}} > 0, {positive}, f.expm1({inner}) * {alpha * scale!r})"


def _elu_rule(operation: Operation, arguments: Arguments, dtype: DType) -> str:
    match operation.op:
        case "selu":
            numbers = (1.6732632423543772, 1.0507009873554805, 1.0)
        case "celu":
            alpha = operation.attribute("alpha")
            assert isinstance(alpha, (int, float)), "alpha is a number"
            if not alpha:
                return _no("celu with alpha 0")
            numbers = (float(alpha), 1.0, 1.0 / alpha)
        case _:
            found = [operation.attribute(name) for name in ("alpha", "scale", "input_scale")]
            numbers = tuple(float(number) for number in found if isinstance(number, (int, float)))
    if not all(math.isfinite(number) for number in numbers):
        return _no(f"{operation.op} with an infinite attribute")
    return _elu(*numbers).format(arguments[0])


def _square_root(operation: Operation, arguments: Arguments, dtype: DType) -> str:
    return f"tl.math.sqrt_rn({arguments[0]})" if dtype is DType.f32 else f"tl.sqrt({arguments[0]})"


def _integers_stay(template: str) -> Rule:
    """An op that changes no integer."""
    return lambda operation, arguments, dtype: template.format(arguments[0]) if dtype.is_float else arguments[0]


def _is(template: str) -> Rule:
    return lambda operation, arguments, dtype: template.format(arguments[0]) if dtype.is_float else f"({arguments[0]} != {arguments[0]})"


def _fmod(operation: Operation, arguments: Arguments, dtype: DType) -> str:
    return f"({arguments[0]} % {arguments[1]})"


def _not(operation: Operation, arguments: Arguments, dtype: DType) -> str:
    return f"({arguments[0]} == 0)" if dtype is DType.boolean else f"(~{arguments[0]})"


def _neg(operation: Operation, arguments: Arguments, dtype: DType) -> str:
    return f"(0 - {arguments[0]})" if not dtype.is_float else f"(-{arguments[0]})"


_RULES: dict[str, Rule] = {
    **{name: _infix(sign) for name, sign in (_COMPARISONS | _LOGICAL | _BITS).items()},
    "bitwise_left_shift": _infix("<<"),
    "bitwise_right_shift": _infix(">>"),
    "bitwise_not": _not,
    "logical_not": _format("({0} == 0)"),
    "add": _sum,
    "sub": _infix("-"),
    "mul": _product,
    "div": _div,
    "fmod": _fmod,
    "remainder": _format("f.remainder({0}, {1})"),
    "pow": _pow,
    "maximum": _extreme("maximum", "|"),
    "minimum": _extreme("minimum", "&"),
    "where": _format("tl.where({0}, {1}, {2})"),
    "cast": _format("{0}"),
    "prelu": _format("tl.where({0} > 0, {0}, {0} * {1})"),
    "relu": _format("tl.where({0} < 0, tl.zeros_like({0}), {0})"),
    "neg": _neg,
    "abs": _format("tl.abs({0})"),
    "sign": _format("f.sign({0})"),
    "square": _format("({0} * {0})"),
    "floor": _integers_stay("tl.floor({0})"),
    "ceil": _integers_stay("tl.ceil({0})"),
    "trunc": _integers_stay("f.trunc({0})"),
    "round": _integers_stay("f.round_even({0})"),
    "frac": _format("({0} - f.trunc({0}))"),
    "isnan": _is("({0} != {0})"),
    "isinf": _is('(tl.abs({0}) == float("inf"))'),
    "exp": _format("tl.exp({0})"),
    "exp2": _format("tl.exp2({0})"),
    "expm1": _format("f.expm1({0})"),
    "log": _format("tl.log({0})"),
    "log2": _format("tl.log2({0})"),
    "log10": _format("(tl.log({0}) * 0.4342944819032518)"),
    "log1p": _format("f.log1p({0})"),
    "sqrt": _square_root,
    "rsqrt": _format("tl.rsqrt({0})"),
    "sin": _format("tl.sin({0})"),
    "cos": _format("tl.cos({0})"),
    "erf": _format("tl.math.erf({0})"),
    "reciprocal": _format("(1.0 / {0})"),
    "sigmoid": _format("f.sigmoid({0})"),
    "silu": _format("({0} / (1.0 + tl.exp(-{0})))"),
    "tanh": _format("f.tanh({0})"),
    "gelu": _gelu,
    "softplus": _with("f.softplus({0}, {1}, {2})", "beta", "threshold"),
    "mish": _format("({0} * f.tanh(f.softplus({0}, 1.0, 20.0)))"),
    "log_sigmoid": _format("(tl.where({0} < 0, {0}, tl.zeros_like({0})) - f.log1p(tl.exp(-tl.abs({0}))))"),
    "softsign": _format("({0} / (1.0 + tl.abs({0})))"),
    "hardsigmoid": _format("(f.clip({0} + 3.0, 0.0, 6.0) / 6.0)"),
    "hardswish": _format("({0} * f.clip({0} + 3.0, 0.0, 6.0) / 6.0)"),
    "leaky_relu": _with("tl.where({0} > 0, {0}, {0} * {1})", "negative_slope"),
    "elu": _elu_rule,
    "celu": _elu_rule,
    "clamp": _clamp,
    "selu": _elu_rule,
    "hardshrink": _with("tl.where(tl.abs({0}) <= {1}, tl.zeros_like({0}), {0})", "lambd"),
    "softshrink": _with("tl.where({0} > {1}, {0} - {1}, tl.where({0} < -{1}, {0} + {1}, {0} * 0.0))", "lambd"),
    "threshold": _with("tl.where({0} <= {1}, {2}, {0})", "threshold", "value"),
}
