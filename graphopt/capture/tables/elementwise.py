"""Elementwise ops: one result element from one element of each operand.

aten.rsub.Scalar(x, 1)           ->  sub(1, %x)
aten.add.Tensor(x, y, alpha=2)   ->  %t = mul(%y, 2); add(%x, %t)
aten.masked_fill(x, m, v)        ->  where(%m, v, %x)
"""

from __future__ import annotations

from graphopt.capture.context import HANDLERS, Context, Handler, NotExpressible, TorchCall, handles
from graphopt.ir.graph import Operand, Value

__all__ = ["BINARY", "UNARY"]


def _unchanged(*lines: str) -> dict[str, str]:
    """Ops that are called the same in both worlds."""
    return {name: name for line in lines for name in line.split()}


UNARY = _unchanged(
    "relu sigmoid silu tanh hardsigmoid hardswish mish selu softsign log_sigmoid neg abs sign exp exp2 expm1 log log2 log10 log1p",
    "sqrt rsqrt reciprocal square sin cos tan asin acos atan sinh cosh asinh acosh atanh erf erfc floor ceil trunc frac isnan isinf",
    "logical_not bitwise_not",
) | {
    "negative": "neg",
    "absolute": "abs",
    "sgn": "sign",
    "fix": "trunc",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "special_expit": "sigmoid",
    "special_erf": "erf",
    "special_erfc": "erfc",
    "special_exp2": "exp2",
    "special_expm1": "expm1",
    "special_log1p": "log1p",
}
"""Canonical op by aten base name, for ops of one tensor without options."""

BINARY = _unchanged(
    "mul pow maximum minimum remainder fmod atan2 eq ne lt le gt ge logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor",
    "bitwise_left_shift bitwise_right_shift",
) | {
    "multiply": "mul",
    "__and__": "bitwise_and",
    "__or__": "bitwise_or",
    "__xor__": "bitwise_xor",
    "__lshift__": "bitwise_left_shift",
    "__rshift__": "bitwise_right_shift",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "not_equal": "ne",
    "arctan2": "atan2",
}
"""Canonical op by aten base name, for ops of two operands without options."""


def _unary(op: str) -> Handler:
    def handler(context: Context, call: TorchCall) -> Value:
        return context.emit(op, call.value("self"))

    return handler


def _binary(op: str) -> Handler:
    def handler(context: Context, call: TorchCall) -> Value:
        return context.emit(op, call.operand("self"), call.operand("exponent" if op == "pow" else "other"))

    return handler


HANDLERS.update({name: _unary(op) for name, op in UNARY.items()})
HANDLERS.update({name: _binary(op) for name, op in BINARY.items()})


@handles("round")
def _round(context: Context, call: TorchCall) -> Value:
    if call.arguments.get("decimals"):
        raise NotExpressible("round to decimals")
    return context.emit("round", call.value("self"))


@handles("max", "min")
def _extremum(context: Context, call: TorchCall) -> Operand | tuple[Operand, ...]:
    from graphopt.capture.tables.reduce import reduce_extremum

    if call.overload == "other":
        return context.emit("maximum" if call.name == "max" else "minimum", call.value("self"), call.value("other"))
    return reduce_extremum(context, call)


def _scaled(context: Context, operand: Operand, factor: int | float) -> Operand:
    """`operand * factor`, folded where both are numbers, nothing where the factor is 1."""
    if factor == 1:
        return operand
    if isinstance(operand, Value):
        return context.emit("mul", operand, factor)
    if isinstance(operand, int | float):
        return operand * factor
    raise NotExpressible(f"{operand!r} is scaled by {factor}")


@handles("add", "sub", "subtract")
def _add(context: Context, call: TorchCall) -> Value:
    other = _scaled(context, call.operand("other"), call.number("alpha") if call.has("alpha") else 1)
    return context.emit("add" if call.name == "add" else "sub", call.operand("self"), other)


@handles("rsub")
def _rsub(context: Context, call: TorchCall) -> Value:
    scaled = _scaled(context, call.value("self"), call.number("alpha") if call.has("alpha") else 1)
    return context.emit("sub", call.operand("other"), scaled)


@handles("div", "divide", "true_divide")
def _div(context: Context, call: TorchCall) -> Value:
    rounding = call.text("rounding_mode") if call.has("rounding_mode") else None
    return context.emit("div", call.operand("self"), call.operand("other"), rounding=rounding)


@handles("floor_divide")
def _floor_divide(context: Context, call: TorchCall) -> Value:
    return context.emit("div", call.operand("self"), call.operand("other"), rounding="floor")


@handles("addcmul")
def _addcmul(context: Context, call: TorchCall) -> Value:
    scaled = _scaled(context, call.value("tensor1"), call.number("value"))
    return context.emit("add", call.value("self"), context.emit("mul", scaled, call.value("tensor2")))


@handles("addcdiv")
def _addcdiv(context: Context, call: TorchCall) -> Value:
    scaled = _scaled(context, call.value("tensor1"), call.number("value"))
    return context.emit("add", call.value("self"), context.emit("div", scaled, call.value("tensor2"), rounding=None))


@handles("gelu")
def _gelu(context: Context, call: TorchCall) -> Value:
    return context.emit("gelu", call.value("self"), approximate=call.text("approximate"))


@handles("softplus")
def _softplus(context: Context, call: TorchCall) -> Value:
    return context.emit("softplus", call.value("self"), beta=call.number("beta"), threshold=call.number("threshold"))


@handles("elu")
def _elu(context: Context, call: TorchCall) -> Value:
    return context.emit(
        "elu", call.value("self"), alpha=call.number("alpha"), scale=call.number("scale"), input_scale=call.number("input_scale")
    )


@handles("celu")
def _celu(context: Context, call: TorchCall) -> Value:
    return context.emit("celu", call.value("self"), alpha=call.number("alpha"))


@handles("leaky_relu")
def _leaky_relu(context: Context, call: TorchCall) -> Value:
    return context.emit("leaky_relu", call.value("self"), negative_slope=call.number("negative_slope"))


@handles("hardshrink", "softshrink")
def _shrink(context: Context, call: TorchCall) -> Value:
    return context.emit(call.name, call.value("self"), lambd=call.number("lambd"))


@handles("threshold")
def _threshold(context: Context, call: TorchCall) -> Value:
    return context.emit("threshold", call.value("self"), threshold=call.number("threshold"), value=call.number("value"))


@handles("prelu")
def _prelu(context: Context, call: TorchCall) -> Value:
    return context.emit("prelu", call.value("self"), call.value("weight"))


@handles("hardtanh")
def _hardtanh(context: Context, call: TorchCall) -> Value:
    return context.emit("clamp", call.value("self"), minimum=call.number("min_val"), maximum=call.number("max_val"))


@handles("relu6")
def _relu6(context: Context, call: TorchCall) -> Value:
    return context.emit("clamp", call.value("self"), minimum=0, maximum=6)


@handles("clamp", "clip", "clamp_min", "clamp_max")
def _clamp(context: Context, call: TorchCall) -> Value:
    low, high = call.arguments.get("min"), call.arguments.get("max")
    if isinstance(low, Value) or isinstance(high, Value):
        result = call.value("self")
        if low is not None:
            result = context.emit("maximum", result, call.value("min"))
        return context.emit("minimum", result, call.value("max")) if high is not None else result
    minimum = call.number("min") if low is not None else None
    maximum = call.number("max") if high is not None else None
    return context.emit("clamp", call.value("self"), minimum=minimum, maximum=maximum)


@handles("glu")
def _glu(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    axis = call.axis("dim", x.type.rank)
    half = x.shape[axis] // 2
    first, second = context.emit_many("split", x, axis=axis, sizes=(half, half))
    return context.emit("mul", first, context.emit("sigmoid", second))


@handles("where")
def _where(context: Context, call: TorchCall) -> Value:
    if "other" not in call.arguments:
        raise NotExpressible("where without values gives indices")
    return context.emit("where", call.value("condition"), call.operand("self"), call.operand("other"))


@handles("masked_fill")
def _masked_fill(context: Context, call: TorchCall) -> Value:
    x = call.value("self")
    value = call.operand("value")
    if isinstance(value, Value):
        value = call.scalars[value] if value in call.scalars else context.cast(value, x.type.dtype)
    if isinstance(value, bool | int | float):
        value = typed_literal(value, x.type.dtype.kind)
    return context.emit("where", call.value("mask"), value, x)


def typed_literal(value: bool | int | float, kind: str) -> bool | int | float:
    """A number as torch stores it in a tensor of this kind of dtype."""
    if kind == "bool":
        return bool(value)
    return int(value) if kind == "int" else value


@handles("to", "type_as", "_to_copy")
def _to(context: Context, call: TorchCall) -> Value:
    return context.cast(call.value("self"), call.type.dtype)


@handles(
    "contiguous",
    "clone",
    "detach",
    "alias",
    "lift_fresh_copy",
    "lift_fresh",
    "lift",
    "positive",
    "resolve_conj",
    "resolve_neg",
    "requires_grad",
)
def _same(context: Context, call: TorchCall) -> Value:
    return call.value("self")
