"""Put two layers in the place of one, layer by layer: one of them keeps the weight's name, mostly the first, the other gets a new one.

Finding the directions of a layer with many outputs takes minutes, so the halves of each are kept where there is a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import torch

from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Graph, Node, State
from graphopt.ir.types import TensorType
from graphopt.passes.finished import Finished
from graphopt.passes.shrink.layers import check_patterns, constant_numbers, layer_name, own_bias, own_weight
from graphopt.passes.shrink.products import weight_index
from graphopt.passes.shrink.statistics.stream import Stream
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import Outcome, Pass
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["Attributes", "Halves", "Split", "factor_layers", "removes_nothing"]

Attributes: TypeAlias = Mapping[str, Attribute]


@dataclass(frozen=True, slots=True)
class Halves:
    """Weights of the two layers, float64, their attributes where they differ from the old layer's, and a note.

    `shift` is to be added to the bias where the layer has one of its own. The name of the old weight goes to the half that has its
    axes: the first, or with `second_is_named` the second.
    """

    first: torch.Tensor
    second: torch.Tensor
    note: str
    shift: torch.Tensor | None = None
    attrs: tuple[Attributes, Attributes] | None = None
    second_is_named: bool = False


Split: TypeAlias = Callable[[Graph, Node, "Stream | None"], Halves | str]
"""The halves of a layer, or why it stays as it is."""


def factor_layers(
    rewriter: Rewriter,
    context: Context,
    pass_: Pass,
    is_layer: Callable[[Node], bool],
    split: Split,
    *,
    use_data: bool,
    only: Sequence[str],
    exclude: Sequence[str],
) -> Outcome:
    """Call `split` for each layer, in execution order, with what reaches it behind the layers that are split already.

    Raises:
        PassError: the checkpoint can't be written.
        PassOptionError: a pattern means no layer.
    """
    graph, calibration = rewriter.graph, context.calibration if use_data else None
    layers = [node for node in graph.nodes if is_layer(node)]
    check_patterns(map(layer_name, layers), only=only, exclude=exclude)
    if not layers:
        return Outcome(0)
    finished = Finished(context, pass_.name, pass_.options(), graph, calibration, seeded=False)
    stream = Stream.of(graph, calibration) if calibration is not None else None
    numbers = {node: number for number, node in enumerate(layers, 1)}
    skipped: list[tuple[str, str]] = []
    notes: list[str] = []
    count = 0
    for node in list(graph.nodes) if stream is not None else layers:
        made: tuple[Node, ...] = (node,)
        if node in numbers:
            if context.progress is not None:
                what = f"{pass_.name} {layer_name(node)}, {numbers[node]} of {len(layers)}"
                context.progress(what, (numbers[node] - 1) / len(layers))
            found = _found(finished, numbers[node], split, graph, node, stream)
            if isinstance(found, str):
                skipped.append((layer_name(node), found))
            else:
                made = _replace(rewriter, node, found)
                notes.append(found.note)
                count += 1
        if stream is not None:
            stream.step(*made)
    if stream is not None:
        notes += stream.notes
    elif use_data and count:
        notes.append("directions are those of the weights alone: there is no calibration data")
    return Outcome(count, tuple(skipped), (*notes, *finished.notes))


def removes_nothing(ratio: float, energy: float | None) -> str | None:
    """Why a layer stays at ratio 0: the largest rank with fewer parameters would lose something for next to nothing."""
    return "ratio 0 removes nothing" if energy is None and ratio == 0 else None


def _found(finished: Finished, number: int, split: Split, graph: Graph, node: Node, stream: Stream | None) -> Halves | str:
    """What `split` gives, or gave before a kill."""

    def compute() -> dict[str, Any]:
        made = split(graph, node, stream)
        if isinstance(made, str):
            return {"reason": made}
        rows = {"first": made.first.contiguous(), "second": made.second.contiguous()}  # as they come out of a file
        return {entry.name: getattr(made, entry.name) for entry in fields(made)} | rows

    found = finished.result(f"layer-{number:05}", compute)
    return found["reason"] if "reason" in found else Halves(**found)


def _replace(rewriter: Rewriter, node: Node, halves: Halves) -> tuple[Node, Node]:
    """`second(first(x)) + bias + shift` in the place of a product with a weight or a convolution.

    One weight goes by the name of the old one, the other is `<layer>.factor.weight`.
    """
    weight, bias, place = own_weight(rewriter.graph, node), own_bias(rewriter.graph, node), weight_index(node)
    assert isinstance(weight, State), "it was split"
    first_attrs, second_attrs = halves.attrs or (node.attrs, node.attrs)
    named, new = (halves.second, halves.first) if halves.second_is_named else (halves.first, halves.second)
    dtype = weight.type.dtype
    factor = rewriter.derive(
        _factor_name(weight.name),
        constant_numbers(new),
        (weight.value,),
        TensorType(dtype, tuple(new.shape)),
        kind=weight.kind,
        trainable=weight.trainable,
    )
    small = rewriter.replace_state(weight.name, constant_numbers(named), TensorType(dtype, tuple(named.shape)))
    if bias is not None and halves.shift is not None:
        rewriter.replace_state(bias.name, _shifted(halves.shift), bias.type)
    first, second = (factor, small) if halves.second_is_named else (small, factor)
    reads = [first if index == place else None if index > 1 else operand for index, operand in enumerate(node.operands)]
    low = rewriter.create(node.op, reads, first_attrs, before=node, name=f"{node.name}.low_rank", source=node.source)
    reads = [second if index == place else operand if index > 1 else low.result for index, operand in enumerate(node.operands)]
    high = rewriter.create(node.op, reads, second_attrs, before=node, source=node.source)
    rewriter.replace(node, high.result)
    return low, high


def _factor_name(weight_name: str) -> str:
    """`fc.factor.weight` of `fc.weight`. A parameter of another name need not have a module of its own: `rel_attn.q_factor`."""
    layer, dot, last = weight_name.rpartition(".")
    return f"{layer}.factor.weight" if dot and "weight" in last else f"{weight_name}_factor"


def _shifted(shift: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    def add(tensor: torch.Tensor) -> torch.Tensor:
        return tensor + shift.to(tensor)

    return add
