"""Recurrent networks: family `recurrent`.

    %out: f32[b,t,32], %h: f32[1,b,32], %c: f32[1,b,32] = lstm(%x, %h0, %c0, %w_ih, %w_hh, %b_ih, %b_hh)
        {batch_first=true, bidirectional=false, dropout=0.0, has_biases=true, layers=1, mode="follow"}

Weights are in torch's order: for each layer and direction `w_ih, w_hh` and, with biases, `b_ih, b_hh`.
"""

from __future__ import annotations

from graphopt.ir.dims import Dim
from graphopt.ir.types import TensorType
from graphopt.ops.axes.control import recurrent_axes
from graphopt.ops.checks import known_different, require_rank, require_same_dtype, require_shape
from graphopt.ops.kinds import BOOL, INT, NUMBER
from graphopt.ops.norm import MODE
from graphopt.ops.registry import Call, Effect, OpDef, register

__all__: list[str] = []

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_POINTWISE = {"lstm": 9, "gru": 9, "rnn_tanh": 1, "rnn_relu": 1}
"""Elementwise operations per hidden element and step: activations, and products and sums of the new state."""


def _states(call: Call) -> int:
    """Number of initial states: h, and c for an LSTM."""
    return 2 if call.op == "lstm" else 1


def _directions(call: Call) -> int:
    return 2 if call.attrs["bidirectional"] else 1


def _recurrent(call: Call) -> tuple[TensorType, ...]:
    found, state = require_rank(call, 0, 3), require_rank(call, 1, 3)
    require_same_dtype(call)
    layers, directions = call.integer("layers"), _directions(call)
    per_cell = 4 if call.attrs["has_biases"] else 2
    weights = call.operands[1 + _states(call) :]
    if layers < 1 or len(weights) != layers * directions * per_cell:
        raise call.fail(f"has {len(weights)} weights, needs {layers} layers * {directions} directions * {per_cell}")
    batch_axis = 0 if call.attrs["batch_first"] else 1
    batch, hidden = found.shape[batch_axis], state.shape[2]
    for index in range(1, 1 + _states(call)):
        require_shape(call, index, (layers * directions, batch, hidden), "layers * directions, batch, hidden")
    features = found.shape[2]
    for cell in range(layers * directions):
        width = features if cell < directions else hidden * directions
        _check_cell(call, 1 + _states(call) + cell * per_cell, _GATES[call.op] * hidden, width, hidden)
    output = found.with_shape((*found.shape[:2], hidden * directions))
    return (output, *(call.type(index) for index in range(1, 1 + _states(call))))


def _check_cell(call: Call, first: int, rows: Dim, width: Dim, hidden: Dim) -> None:
    require_shape(call, first, (rows, width), "gates * hidden, features")
    require_shape(call, first + 1, (rows, hidden), "gates * hidden, hidden")
    if call.attrs["has_biases"]:
        require_shape(call, first + 2, (rows,), "gates * hidden")
        require_shape(call, first + 3, (rows,), "gates * hidden")
    if known_different(rows, call.type(first).shape[0]):
        raise call.fail(f"operand {first} has {call.type(first).shape[0]} rows, needs {rows}")


def _recurrent_flops(call: Call, results: tuple[TensorType, ...]) -> Dim:
    """For each step, layer and direction the two matrix products and the elementwise part."""
    found, hidden, directions = call.type(0), call.type(1).shape[2], _directions(call)
    steps = found.shape[0] * found.shape[1]
    total: Dim = 0
    for layer in range(call.integer("layers")):
        width = found.shape[2] if layer == 0 else hidden * directions
        total = total + directions * (2 * _GATES[call.op] * hidden * (width + hidden) + _POINTWISE[call.op] * hidden)
    return steps * total


def _register(name: str, states: tuple[str, ...], summary: str) -> None:
    kinds = {"has_biases": BOOL, "layers": INT, "dropout": NUMBER, "mode": MODE, "bidirectional": BOOL, "batch_first": BOOL}
    operands = ("x", *states, "*weights")
    effect = Effect.RANDOM
    register(OpDef(name, "recurrent", operands, _recurrent, _recurrent_flops, summary, kinds=kinds, effect=effect, axes=recurrent_axes))


_register("lstm", ("h0", "c0"), "long short-term memory -> out, h, c")
_register("gru", ("h0",), "gated recurrent unit -> out, h")
_register("rnn_tanh", ("h0",), "Elman network with tanh -> out, h")
_register("rnn_relu", ("h0",), "Elman network with relu -> out, h")
