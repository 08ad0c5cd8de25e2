"""Attention, kept whole: it is what an optimizer and a backend want to see."""

from __future__ import annotations

from graphopt.capture.context import Context, TorchCall, handles
from graphopt.ir.graph import Value

__all__: list[str] = []


@handles("scaled_dot_product_attention")
def _attention(context: Context, call: TorchCall) -> Value:
    return context.emit(
        "scaled_dot_product_attention",
        call.value("query"),
        call.value("key"),
        call.value("value"),
        call.optional("attn_mask"),
        dropout_p=call.number("dropout_p"),
        causal=call.flag("is_causal"),
        scale=call.number("scale") if call.has("scale") else None,
        grouped=call.flag("enable_gqa"),
    )
