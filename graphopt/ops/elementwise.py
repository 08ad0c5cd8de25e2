"""Elementwise ops: families `unary` and `binary`.

    %y: f32[2,3] = relu(%x)          %z: f32[2,3] = add(%x, 0.5)          %w: bool[2,3] = lt(%x, %bias)

Operands broadcast; dtypes promote as in `torch.result_type`, literals as Python numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.ir.types import DType, TensorType
from graphopt.ops.axes.elementwise import broadcast_axes, prelu_axes, unary_axes
from graphopt.ops.broadcasting import broadcast
from graphopt.ops.checks import known_different, require_dtype, require_float, require_same_dtype
from graphopt.ops.flops import per_result, zero
from graphopt.ops.kinds import DTYPE, NUMBER, Kind, choice, optional
from graphopt.ops.promotion import floating, result_type
from graphopt.ops.registry import Call, Infer, OpDef, register

__all__: list[str] = []


def _same(call: Call) -> tuple[TensorType, ...]:
    """Any dtype, kept."""
    return (call.type(0),)


def _same_number(call: Call) -> tuple[TensorType, ...]:
    """Kept; booleans have no such operation."""
    if call.type(0).dtype is DType.boolean:
        raise call.fail("operand 0 is bool, needs a number", fix="cast it, or use logical_not")
    return (call.type(0),)


def _same_float(call: Call) -> tuple[TensorType, ...]:
    """Floating point alone, kept: torch has no kernel for integers."""
    return (require_float(call),)


def _to_float(call: Call) -> tuple[TensorType, ...]:
    """Floating point kept, integers and booleans become the default float."""
    return (call.type(0).with_dtype(floating(call.type(0).dtype)),)


def _number_to_float(call: Call) -> tuple[TensorType, ...]:
    """As `_to_float`; booleans have no such operation."""
    _same_number(call)
    return _to_float(call)


def _magnitude(call: Call) -> tuple[TensorType, ...]:
    """`abs`: complex numbers become real."""
    _same_number(call)
    real = {DType.c64: DType.f32, DType.c128: DType.f64}
    return (call.type(0).with_dtype(real.get(call.type(0).dtype, call.type(0).dtype)),)


def _square(call: Call) -> tuple[TensorType, ...]:
    """`pow(x, 2)`: booleans become integers."""
    found = call.type(0)
    return (found.with_dtype(DType.i64) if found.dtype is DType.boolean else found,)


def _to_bool(call: Call) -> tuple[TensorType, ...]:
    return (call.type(0).with_dtype(DType.boolean),)


def _bits(call: Call) -> tuple[TensorType, ...]:
    if call.type(0).dtype.kind not in ("int", "bool"):
        raise call.fail(f"operand 0 is {call.type(0).dtype.text}, needs integers or bool")
    return (call.type(0),)


def _clamp(call: Call) -> tuple[TensorType, ...]:
    low, high = call.attrs["minimum"], call.attrs["maximum"]
    if low is None and high is None:
        raise call.fail("minimum and maximum are both none, needs at least one")
    return (call.type(0).with_dtype(result_type(call, (call.type(0), low, high))),)


def _cast(call: Call) -> tuple[TensorType, ...]:
    return (call.type(0).with_dtype(call.dtype("dtype")),)


def _prelu(call: Call) -> tuple[TensorType, ...]:
    found, weight = require_float(call), call.type(1)
    require_same_dtype(call)
    channels = found.shape[1] if found.rank > 1 else 1
    if weight.rank > 1 or (weight.elements != 1 and known_different(weight.elements, channels)):
        raise call.fail(f"weight has {weight.elements} elements, needs 1 or the {channels} channels of axis 1")
    return (found,)


_UNARY: tuple[tuple[Infer, str], ...] = (
    (_same_number, "relu neg floor ceil round trunc"),
    (_same_float, "silu hardsigmoid hardswish mish selu log_sigmoid frac"),
    (_to_float, "sigmoid tanh exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal"),
    (_to_float, "sin cos tan asin acos atan sinh cosh asinh acosh atanh erf erfc"),
    (_magnitude, "abs"),
    (_number_to_float, "softsign"),
    (_same, "sign"),
    (_square, "square"),
    (_to_bool, "isnan isinf logical_not"),
    (_bits, "bitwise_not"),
)

_SUMMARIES = {
    "relu": "max(x, 0)",
    "sigmoid": "1 / (1 + exp(-x))",
    "silu": "x * sigmoid(x)",
    "hardsigmoid": "clamp(x / 6 + 1/2, 0, 1)",
    "hardswish": "x * hardsigmoid(x)",
    "mish": "x * tanh(softplus(x))",
    "selu": "scaled elu that keeps mean 0 and variance 1",
    "softsign": "x / (1 + |x|)",
    "log_sigmoid": "log(sigmoid(x))",
    "neg": "-x",
    "abs": "|x|",
    "sign": "-1, 0 or 1; of NaN: 0",
    "expm1": "exp(x) - 1",
    "log1p": "log(1 + x)",
    "rsqrt": "1 / sqrt(x)",
    "reciprocal": "1 / x",
    "square": "x * x",
    "round": "to the nearest integer, ties to even",
    "trunc": "towards zero",
    "frac": "x - trunc(x)",
}

_WITH_ATTRIBUTES: tuple[tuple[str, Infer, Mapping[str, Kind], str], ...] = (
    ("gelu", _same_float, {"approximate": choice("none", "tanh")}, "x times the normal distribution function of x"),
    ("softplus", _same_float, {"beta": NUMBER, "threshold": NUMBER}, "log(1 + exp(beta x)) / beta; x where beta x > threshold"),
    (
        "elu",
        _same_float,
        {"alpha": NUMBER, "scale": NUMBER, "input_scale": NUMBER},
        "scale * (x if x > 0 else alpha (exp(input_scale x) - 1))",
    ),
    ("celu", _same_float, {"alpha": NUMBER}, "max(x, 0) + min(0, alpha (exp(x / alpha) - 1))"),
    ("leaky_relu", _same_float, {"negative_slope": NUMBER}, "x if x > 0 else negative_slope x"),
    ("clamp", _clamp, {"minimum": optional(NUMBER), "maximum": optional(NUMBER)}, "min(max(x, minimum), maximum); also hardtanh, relu6"),
    ("hardshrink", _same_float, {"lambd": NUMBER}, "x where |x| > lambd, else 0"),
    ("softshrink", _same_float, {"lambd": NUMBER}, "x moved towards 0 by lambd"),
    ("threshold", _same_number, {"threshold": NUMBER, "value": NUMBER}, "x where x > threshold, else value"),
)


def _register_unary() -> None:
    for infer, names in _UNARY:
        for name in names.split():
            register(OpDef(name, "unary", ("x",), infer, per_result(1), _SUMMARIES.get(name, f"{name} of each element"), axes=unary_axes))
    for name, infer, kinds, summary in _WITH_ATTRIBUTES:
        register(OpDef(name, "unary", ("x",), infer, per_result(1), summary, kinds=kinds, axes=unary_axes))
    register(OpDef("cast", "unary", ("x",), _cast, zero, "convert to another dtype", kinds={"dtype": DTYPE}, axes=unary_axes))
    register(
        OpDef(
            "prelu",
            "unary",
            ("x", "weight"),
            _prelu,
            per_result(1),
            "leaky_relu with a learned slope per channel of axis 1",
            axes=prelu_axes,
        )
    )


# Binary


def _check_tensor(call: Call) -> None:
    if not call.tensor_types():
        raise call.fail("has no tensor operand", fix="fold the numbers, or use full")


def _arithmetic(call: Call) -> tuple[TensorType, ...]:
    _check_tensor(call)
    return (TensorType(result_type(call, call.operands), broadcast(call)),)


def _subtract(call: Call) -> tuple[TensorType, ...]:
    for operand in call.operands:
        if isinstance(operand, bool) or (isinstance(operand, TensorType) and operand.dtype is DType.boolean):
            raise call.fail("can't subtract booleans", fix="use logical_xor, or cast")
    return _arithmetic(call)


def _divide(call: Call) -> tuple[TensorType, ...]:
    if call.attrs["rounding"]:
        return _no_bool_result(call)
    (result,) = _arithmetic(call)
    return (result.with_dtype(floating(result.dtype)),)


def _arithmetic_float(call: Call) -> tuple[TensorType, ...]:
    (result,) = _arithmetic(call)
    return (result.with_dtype(floating(result.dtype)),)


def _no_bool_result(call: Call) -> tuple[TensorType, ...]:
    (result,) = _arithmetic(call)
    if result.dtype is DType.boolean:
        raise call.fail("operands are bool, needs a number", fix="cast one operand")
    return (result,)


def _power(call: Call) -> tuple[TensorType, ...]:
    (result,) = _no_bool_result(call)
    exponent = call.operands[1]
    if result.dtype.kind == "int" and isinstance(exponent, int) and exponent < 0:
        raise call.fail(f"integers have no power {exponent}", fix="cast to floating point, or use reciprocal")
    return (result,)


def _compare(call: Call) -> tuple[TensorType, ...]:
    _check_tensor(call)
    result_type(call, call.operands)
    return (TensorType(DType.boolean, broadcast(call)),)


def _logical(call: Call) -> tuple[TensorType, ...]:
    _check_tensor(call)
    return (TensorType(DType.boolean, broadcast(call)),)


def _bitwise(call: Call) -> tuple[TensorType, ...]:
    (result,) = _arithmetic(call)
    if result.dtype.kind not in ("int", "bool"):
        raise call.fail(f"the common dtype is {result.dtype.text}, needs integers or bool")
    return (result,)


def _shift(call: Call) -> tuple[TensorType, ...]:
    (result,) = _bitwise(call)
    if result.dtype is DType.boolean:
        raise call.fail("can't shift booleans")
    return (result,)


def _where(call: Call) -> tuple[TensorType, ...]:
    require_dtype(call, 0, DType.boolean, DType.u8)
    return (TensorType(result_type(call, call.operands[1:]), broadcast(call)),)


_BINARY: tuple[tuple[str, Infer, str], ...] = (
    ("add", _arithmetic, "a + b"),
    ("sub", _subtract, "a - b"),
    ("mul", _arithmetic, "a * b"),
    ("pow", _power, "a to the power b"),
    ("maximum", _arithmetic, "the larger; NaN where one is NaN"),
    ("minimum", _arithmetic, "the smaller; NaN where one is NaN"),
    ("remainder", _no_bool_result, "a modulo b, with the sign of b"),
    ("fmod", _no_bool_result, "a modulo b, with the sign of a"),
    ("atan2", _arithmetic_float, "angle of (b, a)"),
    ("eq", _compare, "a == b"),
    ("ne", _compare, "a != b"),
    ("lt", _compare, "a < b"),
    ("le", _compare, "a <= b"),
    ("gt", _compare, "a > b"),
    ("ge", _compare, "a >= b"),
    ("logical_and", _logical, "a and b, non-zero counts as true"),
    ("logical_or", _logical, "a or b, non-zero counts as true"),
    ("logical_xor", _logical, "exactly one of a and b, non-zero counts as true"),
    ("bitwise_and", _bitwise, "a & b"),
    ("bitwise_or", _bitwise, "a | b"),
    ("bitwise_xor", _bitwise, "a ^ b"),
    ("bitwise_left_shift", _shift, "a << b"),
    ("bitwise_right_shift", _shift, "a >> b"),
)


def _register_binary() -> None:
    literals = frozenset({"a", "b"})
    for name, infer, summary in _BINARY:
        register(OpDef(name, "binary", ("a", "b"), infer, per_result(1), summary, literals=literals, axes=broadcast_axes))
    rounding = {"rounding": choice(None, "floor", "trunc")}
    register(
        OpDef(
            "div",
            "binary",
            ("a", "b"),
            _divide,
            per_result(1),
            "a / b, rounded where asked",
            kinds=rounding,
            literals=literals,
            axes=broadcast_axes,
        )
    )
    register(
        OpDef(
            "where",
            "select",
            ("condition", "a", "b"),
            _where,
            per_result(1),
            "a where condition is true, else b",
            literals=literals,
            axes=broadcast_axes,
        )
    )


_register_unary()
_register_binary()
