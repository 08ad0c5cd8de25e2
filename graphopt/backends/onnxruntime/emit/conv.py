"""Convolutions: one node each, bias inside."""

from __future__ import annotations

from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.ir.graph import Node
from graphopt.ops import call_of

__all__ = ["EMITTERS", "static_sizes"]


def _batched(context: Context, node: Node, spatial: int) -> tuple[str, bool]:
    """The operand with a batch axis, and whether it had to be put in."""
    x = node.value(0)
    lone = x.type.rank == spatial + 1
    name = context.read(x)
    return (context.unsqueeze(name, 0) if lone else name), lone


def static_sizes(node: Node, name: str) -> tuple[int, ...]:
    """Attribute `name`, which is a tuple of integers.

    Raises:
        UnsupportedNodeError: one is symbolic.
    """
    found = call_of(node).dims(name)
    if not all(isinstance(item, int) for item in found):
        raise UnsupportedNodeError(f"{name} {found} is symbolic")
    return tuple(item for item in found if isinstance(item, int))


def _conv(spatial: int) -> Emitter:
    def emit(context: Context, node: Node) -> str:
        x, lone = _batched(context, node, spatial)
        padding = static_sizes(node, "padding")
        result = context.add(
            "Conv",
            x,
            *(context.read(operand) for operand in node.operands[1:]),
            **_weight_shape(node),
            strides=static_sizes(node, "stride"),
            pads=(*padding, *padding),
            dilations=static_sizes(node, "dilation"),
            group=call_of(node).integer("groups"),
        )
        return context.squeeze(result, 0) if lone else result

    return emit


def _weight_shape(node: Node) -> dict[str, tuple[int, ...]]:
    shape = node.value(1).shape[2:]
    return {"kernel_shape": tuple(size for size in shape if isinstance(size, int))} if all(isinstance(s, int) for s in shape) else {}


def _transposed_padding(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """pads and output_padding. More at the end of the output is less padding there, where there is some; ONNX
    Runtime takes an output_padding below the stride alone."""
    ends: list[int] = []
    rest: list[int] = []
    padding, stride = static_sizes(node, "padding"), static_sizes(node, "stride")
    for pad, step, extra in zip(padding, stride, static_sizes(node, "output_padding"), strict=True):
        moved = min(pad, extra)
        ends.append(pad - moved)
        rest.append(extra - moved)
        if extra - moved >= step and extra:
            raise UnsupportedNodeError(f"output_padding {extra} with padding {pad} and stride {step}, needs less than the stride")
    return (*padding, *ends), tuple(rest)


def _conv_transpose(spatial: int) -> Emitter:
    def emit(context: Context, node: Node) -> str:
        x, lone = _batched(context, node, spatial)
        pads, output_padding = _transposed_padding(node)
        result = context.add(
            "ConvTranspose",
            x,
            *(context.read(operand) for operand in node.operands[1:]),
            **_weight_shape(node),
            strides=static_sizes(node, "stride"),
            pads=pads,
            output_padding=output_padding,
            dilations=static_sizes(node, "dilation"),
            group=call_of(node).integer("groups"),
        )
        return context.squeeze(result, 0) if lone else result

    return emit


_RANKS = (1, 2, 3)

EMITTERS: dict[str, Emitter] = {
    **{f"conv{rank}d": _conv(rank) for rank in _RANKS},
    **{f"conv_transpose{rank}d": _conv_transpose(rank) for rank in _RANKS},
}
