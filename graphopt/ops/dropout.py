"""Dropout: family `dropout`. Random when training, the identity at inference.

%y: f32[batch,768] = dropout(%x) {mode="follow", p=0.1}
"""

from __future__ import annotations

from graphopt.ir.types import TensorType
from graphopt.ops.axes.elementwise import unary_axes
from graphopt.ops.flops import zero
from graphopt.ops.kinds import NUMBER
from graphopt.ops.norm import MODE
from graphopt.ops.registry import Call, Effect, OpDef, register

__all__: list[str] = []


def _dropout(call: Call) -> tuple[TensorType, ...]:
    p = call.attrs["p"]
    if isinstance(p, int | float) and not 0 <= p <= 1:
        raise call.fail(f"p is {p}, needs 0 to 1")
    return (call.type(0),)


for _name, _summary in (
    ("dropout", "zero elements with probability p when training, scale the others by 1 / (1 - p)"),
    ("feature_dropout", "dropout of whole channels"),
    ("alpha_dropout", "dropout that keeps mean and variance of selu networks"),
):
    _kinds = {"p": NUMBER, "mode": MODE}
    register(OpDef(_name, "dropout", ("x",), _dropout, zero, _summary, kinds=_kinds, effect=Effect.RANDOM, axes=unary_axes))
