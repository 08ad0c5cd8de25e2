"""Put two layers in the place of one, layer by layer: the first keeps the weight's name, the second gets a new one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Node, State
from graphopt.ir.types import TensorType
from graphopt.passes.shrink.layers import check_patterns, constant_numbers, layer_name
from graphopt.passes.shrink.names import layer_of
from graphopt.passes.shrink.statistics.stream import Stream
from graphopt.pipeline.calibration import Calibration
from graphopt.pipeline.passes import Outcome
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["Split", "factor_layers", "split_layer"]

Split = Callable[[Rewriter, Node, "Stream | None", list[str]], "tuple[Node, ...] | str"]
"""Puts two layers in the place of one, with a note: the two, or why it stays."""


def factor_layers(
    rewriter: Rewriter,
    ops: Collection[str],
    split: Split,
    *,
    calibration: Calibration | None,
    use_data: bool,
    only: Sequence[str],
    exclude: Sequence[str],
) -> Outcome:
    """Call `split` for each layer, in execution order, with what reaches it behind the layers that are split already.

    Raises:
        PassOptionError: a pattern means no layer.
    """
    graph = rewriter.graph
    layers = [node for node in graph.nodes if node.op in ops]
    check_patterns(map(layer_name, layers), only=only, exclude=exclude)
    stream = Stream.of(graph, calibration) if use_data and calibration is not None else None
    skipped: list[tuple[str, str]] = []
    notes: list[str] = []
    count = 0
    for node in list(graph.nodes) if stream is not None else layers:
        made: tuple[Node, ...] | str = split(rewriter, node, stream, notes) if node.op in ops else (node,)
        if isinstance(made, str):
            skipped.append((layer_name(node), made))
            made = (node,)
        count += len(made) == 2
        if stream is not None:
            stream.step(*made)
    if stream is not None:
        notes += stream.notes
    elif use_data and count:
        notes.append("directions are those of the weights alone: there is no calibration data")
    return Outcome(count, tuple(skipped), tuple(notes))


def split_layer(
    rewriter: Rewriter,
    node: Node,
    weight: State,
    first: torch.Tensor,
    second: torch.Tensor,
    bias: State | None,
    shift: torch.Tensor | None,
    *,
    attrs: tuple[Mapping[str, Attribute], Mapping[str, Attribute]] | None = None,
) -> tuple[Node, Node]:
    """`second(first(x)) + bias + shift` in the place of a linear layer or convolution.

    `first` and `second` are the weights, float64; `attrs` the attributes of both where they differ from the node's.
    `shift` is added to `bias`, which the layer alone reads. The first weight goes by the name of the old one,
    the second is `<layer>.factor.weight`.
    """
    first_attrs, second_attrs = attrs or (node.attrs, node.attrs)
    dtype = weight.type.dtype
    factor = rewriter.derive(
        f"{layer_of(weight.name)}.factor.weight",
        constant_numbers(second),
        (weight.value,),
        TensorType(dtype, tuple(second.shape)),
        kind=weight.kind,
        trainable=weight.trainable,
    )
    small = rewriter.replace_state(weight.name, constant_numbers(first), TensorType(dtype, tuple(first.shape)))
    if bias is not None and shift is not None:
        rewriter.replace_state(bias.name, _shifted(shift), bias.type)
    low = rewriter.create(
        node.op, (node.operands[0], small, None), first_attrs, before=node, name=f"{node.name}.low_rank", source=node.source
    )
    high = rewriter.create(node.op, (low.result, factor, node.operands[2]), second_attrs, before=node, source=node.source)
    rewriter.replace(node, high.result)
    return low, high


def _shifted(shift: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    def add(tensor: torch.Tensor) -> torch.Tensor:
        return tensor + shift.to(tensor)

    return add
