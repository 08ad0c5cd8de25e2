"""What a handler emits has to agree with what was traced: dtypes and shapes, and inside autocast the casts.

traced f32[2*batch + 1], emitted f32[1 + batch*2]   agree: equal at every size
traced i32[4], emitted i64[4]                       do not: the call is carried opaque
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from graphopt.capture.context import Context, NotExpressible, TorchCall
from graphopt.errors import ExampleInputError, SymbolError
from graphopt.ir.dims import Dim, Expression, evaluate_dim, symbols_of
from graphopt.ir.graph import Operand, Value
from graphopt.ir.types import DType

__all__ = ["check_dtypes", "check_types", "same_shape", "with_casts"]


def check_types(results: Sequence[Operand], call: TorchCall) -> None:
    """Compare what a handler made with what was traced."""
    for index, (result, expected) in enumerate(zip(results, call.types, strict=False)):
        if index not in call.used or not isinstance(result, Value):
            if result is None and index in call.used:
                raise NotExpressible(f"{call.name}: result {index} is used and has no canonical form")
            continue
        if result.type.dtype is not expected.dtype or not same_shape(result.type.shape, expected.shape):
            raise NotExpressible(f"{call.name}: the canonical form has the type {result.type.text}, traced was {expected.text}")
    if len(results) < max(call.used, default=-1) + 1:
        raise NotExpressible(f"{call.name}: {len(results)} results, {max(call.used) + 1} are used")


STRICT = frozenset({"linear", "matmul", "mm", "bmm", "mv", "addmm", "conv1d", "conv2d", "conv3d", "lstm", "gru"})
"""Ops that torch refuses to run on operands of different dtypes; tracing with fake tensors lets them pass."""


def check_dtypes(call: TorchCall, autocast: bool) -> None:
    """Refuse a call that torch would trace but not run.

    Raises:
        ExampleInputError: the operands have different dtypes; the message lists them.
    """
    if call.name not in STRICT or autocast:
        return
    types = {name: item.type for name, item in call.arguments.items() if isinstance(item, Value)}
    if len({type_.dtype for type_ in types.values()}) > 1:
        shown = ", ".join(f"{name} {type_.text}" for name, type_ in types.items())
        raise ExampleInputError(
            f"{call.name} gets operands of different dtypes: {shown}",
            fix="convert the inputs to the dtype of the parameters, or cast in forward",
        )


def same_shape(left: tuple[Dim, ...], right: tuple[Dim, ...]) -> bool:
    """True when two shapes are equal; expressions in different forms are compared at a few sizes."""
    return len(left) == len(right) and all(a == b or _same_dim(a, b) for a, b in zip(left, right, strict=True))


def _same_dim(left: Dim, right: Dim) -> bool:
    if not isinstance(left, Expression) or not isinstance(right, Expression):
        return False
    names = sorted(symbols_of(left) | symbols_of(right))
    for size in (1, 2, 5, 16, 97, 224, 1031):
        values = {name: size + 3 * position for position, name in enumerate(names)}
        try:
            if evaluate_dim(left, values) != evaluate_dim(right, values):
                return False
        except SymbolError:
            continue  # a division by zero at this size says nothing about the others
    return True


def with_casts(context: Context, call: TorchCall) -> TorchCall:
    """Inside an autocast region: floating-point operands in the dtype that the traced result has.

    Autocast changes the dtype of operands without a trace in the graph; the traced result tells which.
    """
    wanted = call.types[0].dtype if call.types else None
    if wanted is None or not wanted.is_float or call.name in _EXPLICIT_DTYPE:
        return call
    low = (DType.bf16, DType.f16)

    def convert(argument: object) -> object:
        if isinstance(argument, Value):
            dtype = argument.type.dtype
            return context.cast(argument, wanted) if dtype.is_float and (wanted in low or dtype in low) else argument
        if isinstance(argument, tuple):
            return tuple(convert(item) for item in cast("tuple[object, ...]", argument))
        return argument

    arguments = {name: convert(argument) for name, argument in call.arguments.items()}
    return replace(call, arguments=arguments)


_EXPLICIT_DTYPE = frozenset({"to", "_to_copy", "type_as", "copy", "where"})
