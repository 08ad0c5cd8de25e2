"""Recurrent networks over padded batches. Packed sequences stay opaque."""

from __future__ import annotations

from graphopt.capture.context import Context, NotExpressible, TorchCall, handles
from graphopt.capture.tables.norm import mode_of
from graphopt.ir.graph import Value

__all__: list[str] = []


@handles("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(context: Context, call: TorchCall) -> tuple[Value, ...]:
    if call.overload != "input":
        raise NotExpressible("packed sequences")
    return context.emit_many(
        call.name,
        call.value("input"),
        *call.values("hx"),
        *call.values("params"),
        has_biases=call.flag("has_biases"),
        layers=call.integer("num_layers"),
        dropout=call.number("dropout"),
        mode=mode_of(call.flag("train")),
        bidirectional=call.flag("bidirectional"),
        batch_first=call.flag("batch_first"),
    )
