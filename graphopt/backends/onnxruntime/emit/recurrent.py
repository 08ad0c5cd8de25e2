"""Recurrent networks: one node per layer, both directions in it. Gates are put into ONNX's order at build time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.backends.onnxruntime.records import Array
from graphopt.ir.graph import Node, Operand
from graphopt.ops import call_of

__all__ = ["EMITTERS"]

_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""Torch's gate at each place of ONNX's order: i f g o -> i o f c, and r z n -> z r h."""


class _Cells:
    """Weights of one layer, all directions stacked."""

    def __init__(self, context: Context, op: str, weights: Sequence[Operand]) -> None:
        self._context = context
        self._op = op
        self._weights = weights

    def _ordered(self, operand: Operand) -> Array:
        numbers = self._context.numbers(operand)
        if numbers is None:
            raise UnsupportedNodeError("weights of a recurrent network that are computed")
        gates = np.split(numbers, len(_GATES[self._op]))
        return np.concatenate([gates[index] for index in _GATES[self._op]])

    def stacked(self, offset: int, per_cell: int) -> Array:
        """[directions, rows, columns] of the weight at `offset` in each cell."""
        return np.stack([self._ordered(self._weights[start + offset]) for start in range(0, len(self._weights), per_cell)])


def _recurrent(op: str, activation: str | None = None) -> Emitter:
    def emit(context: Context, node: Node) -> Sequence[str]:
        states = 2 if op == "LSTM" else 1
        directions = 2 if node.attrs["bidirectional"] else 1
        layers = call_of(node).integer("layers")
        if node.attrs["mode"] == "train" and node.attrs["dropout"]:
            raise UnsupportedNodeError("a recurrent network whose dropout draws random numbers at inference too")
        per_cell = 4 if node.attrs["has_biases"] else 2
        weights = node.operands[1 + states :]
        x = context.read(node.operands[0])
        if node.attrs["batch_first"]:
            x = context.add("Transpose", x, perm=(1, 0, 2))
        last: list[list[str]] = [[] for _ in range(states)]
        for layer in range(layers):
            count = directions * per_cell
            cells = _Cells(context, op, weights[layer * count : (layer + 1) * count])
            start = [_initial(context, node, 1 + index, layer, layers, directions) for index in range(states)]
            results = _layer(context, node, op, activation, x, cells, start)
            x = _merged(context, node, results[0], directions)
            for index in range(states):
                last[index].append(results[1 + index])
        if node.attrs["batch_first"]:
            x = context.add("Transpose", x, perm=(1, 0, 2))
        finals = [names[0] if layers == 1 else context.add("Concat", *names, axis=0) for names in last]
        return [x, *finals]

    return emit


def _initial(context: Context, node: Node, index: int, layer: int, layers: int, directions: int) -> str:
    name = context.read(node.operands[index])
    return name if layers == 1 else context.slice(name, 0, layer * directions, (layer + 1) * directions)


def _layer(context: Context, node: Node, op: str, activation: str | None, x: str, cells: _Cells, start: Sequence[str]) -> tuple[str, ...]:
    dtype, hidden = context.target(node), node.value(1).shape[2]
    if not isinstance(hidden, int):
        raise UnsupportedNodeError(f"the hidden size {hidden} is symbolic")
    has_biases = bool(node.attrs["has_biases"])
    per_cell = 4 if has_biases else 2
    bias = ""
    if has_biases:
        both = np.concatenate([cells.stacked(2, per_cell), cells.stacked(3, per_cell)], axis=1)
        bias = context.constant(both, dtype, "bias")
    directions = 2 if node.attrs["bidirectional"] else 1
    attributes: dict[str, int | str | list[str]] = {"hidden_size": hidden}
    if directions == 2:
        attributes["direction"] = "bidirectional"
    if op == "GRU":
        attributes["linear_before_reset"] = 1
    if activation is not None:
        attributes["activations"] = [activation] * directions
    weights = (context.constant(cells.stacked(0, per_cell), dtype, "weight"), context.constant(cells.stacked(1, per_cell), dtype, "weight"))
    return context.add_many(op, (x, *weights, bias, "", *start), 1 + len(start), **attributes)


def _merged(context: Context, node: Node, name: str, directions: int) -> str:
    """[steps, directions, batch, hidden] -> [steps, batch, directions * hidden]."""
    if directions == 1:
        return context.squeeze(name, 1)
    return context.add("Reshape", context.add("Transpose", name, perm=(0, 2, 1, 3)), context.integers((0, 0, -1)))


EMITTERS: dict[str, Emitter] = {
    "lstm": _recurrent("LSTM"),
    "gru": _recurrent("GRU"),
    "rnn_tanh": _recurrent("RNN", "Tanh"),
    "rnn_relu": _recurrent("RNN", "Relu"),
}
