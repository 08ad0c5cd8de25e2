"""Normalisation and dropout: single nodes that keep their train/eval behaviour.

batch_norm(x, ..., training=False, ...)   ->  mode "follow": does what module.train()/eval() says
batch_norm(x, ..., training=True, ...)    ->  mode "train": batch statistics always, as captured in eval
"""

from __future__ import annotations

from graphopt.capture.context import Context, NotExpressible, TorchCall, handles
from graphopt.ir.graph import Value

__all__ = ["mode_of"]


def mode_of(training: bool) -> str:
    """The `mode` attribute for a train flag that was traced in eval mode."""
    return "train" if training else "follow"


@handles("batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(context: Context, call: TorchCall) -> Value | tuple[Value, None, None]:
    if call.used - {0}:
        raise NotExpressible("the saved statistics of a batch norm are used")
    result = context.emit(
        "batch_norm",
        call.value("input"),
        call.optional("weight"),
        call.optional("bias"),
        call.optional("running_mean"),
        call.optional("running_var"),
        mode=mode_of(call.flag("training")),
        momentum=None if call.momentum_unset else call.number("momentum"),
        eps=call.number("eps"),
    )
    return result if call.name == "batch_norm" else (result, None, None)


@handles("instance_norm")
def _instance_norm(context: Context, call: TorchCall) -> Value:
    return context.emit(
        "instance_norm",
        call.value("input"),
        call.optional("weight"),
        call.optional("bias"),
        call.optional("running_mean"),
        call.optional("running_var"),
        mode=mode_of(call.flag("use_input_stats")),
        momentum=None if call.momentum_unset else call.number("momentum"),
        eps=call.number("eps"),
    )


@handles("layer_norm", "native_layer_norm")
def _layer_norm(context: Context, call: TorchCall) -> Value | tuple[Value, None, None]:
    if call.used - {0}:
        raise NotExpressible("the saved statistics of a layer norm are used")
    result = context.emit(
        "layer_norm",
        call.value("input"),
        call.optional("weight"),
        call.optional("bias"),
        normalized_shape=call.dims("normalized_shape"),
        eps=call.number("eps"),
    )
    return result if call.name == "layer_norm" else (result, None, None)


@handles("group_norm", "native_group_norm")
def _group_norm(context: Context, call: TorchCall) -> Value | tuple[Value, None, None]:
    if call.used - {0}:
        raise NotExpressible("the saved statistics of a group norm are used")
    groups = call.integer("num_groups" if call.name == "group_norm" else "group")
    result = context.emit(
        "group_norm", call.value("input"), call.optional("weight"), call.optional("bias"), groups=groups, eps=call.number("eps")
    )
    return result if call.name == "group_norm" else (result, None, None)


@handles("rms_norm")
def _rms_norm(context: Context, call: TorchCall) -> Value:
    eps = call.number("eps") if call.has("eps") else None
    return context.emit("rms_norm", call.value("input"), call.optional("weight"), normalized_shape=call.dims("normalized_shape"), eps=eps)


@handles("_weight_norm")
def _weight_norm(context: Context, call: TorchCall) -> Value:
    v = call.value("v")
    return context.emit("weight_norm", v, call.value("g"), axis=call.axis("dim", v.type.rank))


@handles("dropout", "feature_dropout", "alpha_dropout")
def _dropout(context: Context, call: TorchCall) -> Value:
    return context.emit(call.name, call.value("input"), p=call.number("p"), mode=mode_of(call.flag("train")))
