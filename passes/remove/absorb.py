"""How a layer with weights takes a per-channel affine map into them.

    y = a * (W x + b) + c   ->   y = (a W) x + (a b + c)        on the result: `absorb_after`
    y = W (a * x + c) + b   ->   y = (W a) x + (b + W c)        on the operand: `absorb_before`

Both only say which operands become new states (`Derivation`); `rebuild` makes the node. A weight that
another node reads too is left as it is: the new node gets a copy of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.ir.graph import Graph, Node, Operand, State, Value
from graphopt.ir.types import DType, TensorType
from graphopt.passes.remove.channel_affine import ChannelAffine
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import NoMatch

if TYPE_CHECKING:
    import torch

__all__ = ["CONVOLUTIONS", "TRANSPOSED", "Derivation", "absorb_after", "absorb_before", "folded_name", "rebuild"]

CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
"""Convolutions and their number of spatial axes."""
TRANSPOSED = {"conv_transpose1d": 1, "conv_transpose2d": 2, "conv_transpose3d": 3}
"""Transposed convolutions and their number of spatial axes."""
_NORMS = ("layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm")
_NARROW = (DType.f16, DType.f8e4m3, DType.f8e5m2)
_FOLDED = re.compile(r"_folded(_\d+)?\Z")


@dataclass(frozen=True, slots=True)
class Derivation:
    """Operand `operand` of a node becomes a new state, `function` of other states."""

    operand: int
    hint: str
    function: Callable[..., torch.Tensor]
    sources: tuple[Value, ...]
    type: TensorType
    trainable: bool

    def overflow(self, graph: Graph) -> NoMatch | None:
        """Why the new numbers do not fit their dtype; asked for f16 and f8 only, the others have room."""
        if self.type.dtype not in _NARROW:
            return None
        states = [graph.state_of(source) for source in self.sources]
        data = [state.data for state in states if state is not None and state.data is not None]
        if len(data) != len(self.sources):
            return None
        import torch

        exact = self.function(*(item.precise() for item in data))
        rounded = exact.to(getattr(torch, self.type.dtype.torch_name)).double()
        if bool((exact.isfinite() & ~rounded.isfinite()).any()):
            return NoMatch(f"the folded %{self.hint} reaches {float(exact.abs().max()):.3g}, more than {self.type.dtype.text} holds")
        return None


def folded_name(name: str) -> str:
    """Name for a state made from another: the model's `state_dict` must not load into it by accident."""
    return f"{_FOLDED.sub('', name)}_folded"


def rebuild(
    rewriter: Rewriter, node: Node, derivations: Sequence[Derivation], swap: Mapping[Value, Value], *, before: Node, name: str | None = None
) -> Node:
    """A copy of `node` that reads new states for the derivations and `swap[v]` in place of each v."""
    operands: list[Operand] = [swap.get(operand, operand) if isinstance(operand, Value) else operand for operand in node.operands]
    for item in derivations:
        operands[item.operand] = rewriter.derive(item.hint, item.function, item.sources, item.type, trainable=item.trainable)
    return rewriter.create(node.op, operands, node.attrs, before=before, name=name, source=node.source)


def absorb_after(node: Node, affine: ChannelAffine, *, copy_bytes: int | None = None) -> tuple[Derivation, ...] | NoMatch:
    """New states of a node for `affine(node(x))`.

    `copy_bytes` is the largest weight that may be copied because others read it too; None is any.
    """
    if node.op == "embedding":
        return _after_embedding(node, affine, copy_bytes)
    if node.op in _NORMS:
        return _after_norm(node, affine)
    spatial = CONVOLUTIONS.get(node.op) or TRANSPOSED.get(node.op)
    if spatial is None and node.op != "linear":
        return NoMatch(f"%{node.name} is a {node.op}, needs a convolution, linear, norm or embedding")
    found = _weights(node, affine, copy_bytes)
    if isinstance(found, NoMatch):
        return found
    weight, bias = found
    axis = len(node.result.shape) - 1 - (spatial or 0)
    if affine.axis not in (None, axis):
        return NoMatch(f"the scale runs along axis {affine.axis} of %{node.name}, needs its channels, axis {axis}")
    transposed = node.op in TRANSPOSED
    groups = node.attrs["groups"] if transposed else 1
    assert isinstance(groups, int), "the op table promises an integer"
    shape = weight.type.static_shape
    channels = shape[1] * groups if transposed else shape[0]

    def scaled(tensor: torch.Tensor, *sources: torch.Tensor) -> torch.Tensor:
        scale = affine.compute(*sources)[0].expand(channels)
        if transposed:
            grouped = tensor.reshape(groups, shape[0] // groups, *shape[1:])
            return (grouped * scale.reshape(groups, 1, shape[1], *[1] * (len(shape) - 2))).reshape(shape)
        return tensor * scale.reshape(-1, *[1] * (len(shape) - 1))

    made: list[Derivation] = []
    if affine.has_scale:
        made.append(_derivation(1, folded_name(weight.name), scaled, (weight.value, *affine.sources), weight.type, weight))
    if affine.has_shift or (bias is not None and affine.has_scale):
        made.append(_shifted_bias(node, 2, weight, bias, affine, (channels,)))
    return tuple(made)


def absorb_before(node: Node, affine: ChannelAffine, *, copy_bytes: int | None = None) -> tuple[Derivation, ...] | NoMatch:
    """New states of a node for `node(affine(x))`, where x is its operand 0."""
    spatial = CONVOLUTIONS.get(node.op) or TRANSPOSED.get(node.op)
    if spatial is None and node.op != "linear":
        return NoMatch(f"%{node.name} is a {node.op}, needs a convolution or linear")
    found = _weights(node, affine, copy_bytes)
    if isinstance(found, NoMatch):
        return found
    weight, bias = found
    graph = node.graph
    assert graph is not None, "rules see nodes that are in a graph"
    axis = len(node.value(0).shape) - 1 - (spatial or 0)
    if affine.axis not in (None, axis):
        return NoMatch(f"the scale runs along axis {affine.axis} of %{node.value(0).name}, needs its channels, axis {axis}")
    shifted = affine.has_shift and not affine.has_zero_shift(graph)
    if shifted and node.op != "linear" and (reason := _border(node, weight)):
        return NoMatch(reason)
    multiply = _input_scaling(node, weight)
    made: list[Derivation] = []
    if affine.has_scale:

        def scaled(tensor: torch.Tensor, *sources: torch.Tensor) -> torch.Tensor:
            return multiply(tensor, affine.compute(*sources)[0])

        made.append(_derivation(1, folded_name(weight.name), scaled, (weight.value, *affine.sources), weight.type, weight))
    if shifted:
        made.append(_bias_of_shift(node, weight, bias, affine, multiply))
    return tuple(made)


def _weights(node: Node, affine: ChannelAffine, copy_bytes: int | None) -> tuple[State, State | None] | NoMatch:
    """The weight and bias of a convolution or linear, which have to be states."""
    graph = node.graph
    assert graph is not None, "rules see nodes that are in a graph"
    weight, bias = graph.state_of(node.operands[1]), graph.state_of(node.operands[2])
    if weight is None or (bias is None and node.operands[2] is not None):
        computed = node.operands[1] if weight is None else node.operands[2]
        return NoMatch(f"{computed!r} of %{node.name} is computed at run time, needs a parameter")
    if affine.has_scale and (reason := _copy_too_big(weight, copy_bytes)):
        return NoMatch(reason)
    return weight, bias


def _copy_too_big(weight: State, copy_bytes: int | None) -> str:
    size = weight.type.bytes
    readers = weight.value.use_count
    if copy_bytes is None or readers == 1 or not isinstance(size, int) or size <= copy_bytes:
        return ""
    return f"%{weight.name} has {readers} readers, a copy would take {size} bytes, at most {copy_bytes} are worth it"


def _derivation(
    operand: int, hint: str, function: Callable[..., torch.Tensor], sources: tuple[Value, ...], type_: TensorType, like: State
) -> Derivation:
    return Derivation(operand, hint, function, sources, type_, like.trainable)


def _shifted_bias(node: Node, operand: int, weight: State, bias: State | None, affine: ChannelAffine, shape: tuple[int, ...]) -> Derivation:
    """`scale * bias + shift`, a bias being made where there is none."""
    if bias is None:

        def only_shift(*sources: torch.Tensor) -> torch.Tensor:
            return affine.compute(*sources)[1].expand(shape)

        return _derivation(
            operand, folded_name(bias_name(weight.name)), only_shift, affine.sources, TensorType(weight.type.dtype, shape), weight
        )

    def shifted(tensor: torch.Tensor, *sources: torch.Tensor) -> torch.Tensor:
        scale, shift = affine.compute(*sources)
        return tensor * scale + shift

    return _derivation(operand, folded_name(bias.name), shifted, (bias.value, *affine.sources), bias.type, bias)


def bias_name(weight: str) -> str:
    """The name that torch would give to the bias beside a weight: `conv.weight` -> `conv.bias`."""
    base = _FOLDED.sub("", weight)
    return base.removesuffix("weight") + "bias" if base.endswith("weight") else f"{base}.bias"


def _after_embedding(node: Node, affine: ChannelAffine, copy_bytes: int | None) -> tuple[Derivation, ...] | NoMatch:
    graph = node.graph
    assert graph is not None, "rules see nodes that are in a graph"
    weight = graph.state_of(node.operands[0])
    if weight is None:
        return NoMatch(f"the table of %{node.name} is computed at run time, needs a parameter")
    if reason := _copy_too_big(weight, copy_bytes):
        return NoMatch(reason)
    last = len(node.result.shape) - 1
    if affine.axis not in (None, last):
        return NoMatch(f"the scale runs along axis {affine.axis} of %{node.name}, needs the last, axis {last}")

    def moved(tensor: torch.Tensor, *sources: torch.Tensor) -> torch.Tensor:
        scale, shift = affine.compute(*sources)
        return tensor * scale + shift

    return (_derivation(0, folded_name(weight.name), moved, (weight.value, *affine.sources), weight.type, weight),)


def _norm_shape(node: Node, affine: ChannelAffine) -> tuple[int, ...] | NoMatch:
    """Shape of the weight that a norm has or could have."""
    if node.op in ("layer_norm", "rms_norm"):
        shape = node.attrs["normalized_shape"]
        assert isinstance(shape, tuple), "the op table promises a tuple"
        last = len(node.result.shape) - 1
        if affine.axis is not None and (len(shape) != 1 or affine.axis != last):
            return NoMatch(f"the scale runs along axis {affine.axis} of %{node.name}, needs the normalised axis, which is {last}")
    else:
        if affine.axis not in (None, 1):
            return NoMatch(f"the scale runs along axis {affine.axis} of %{node.name}, needs its channels, axis 1")
        shape = (node.value(0).shape[1],)
    sizes = tuple(size for size in shape if isinstance(size, int))
    return sizes if len(sizes) == len(shape) else NoMatch(f"normalises over {shape}, needs integers")


def _after_norm(node: Node, affine: ChannelAffine) -> tuple[Derivation, ...] | NoMatch:
    graph = node.graph
    assert graph is not None, "rules see nodes that are in a graph"
    shape = _norm_shape(node, affine)
    if isinstance(shape, NoMatch):
        return shape
    if node.op == "rms_norm" and affine.has_shift:
        return NoMatch(f"%{node.name} is an rms_norm, which has no bias for the shift")
    weight, bias = node.operands[1], (None if node.op == "rms_norm" else node.operands[2])
    states = [graph.state_of(weight), graph.state_of(bias)]
    if (weight is not None and states[0] is None) or (bias is not None and states[1] is None):
        return NoMatch(f"weight or bias of %{node.name} is computed at run time, needs a parameter")
    hint = node.name

    def scale_of(*sources: torch.Tensor) -> torch.Tensor:
        rest = sources[1:] if weight is not None else sources
        scale = affine.compute(*rest)[0]
        return sources[0] * scale if weight is not None else scale.expand(shape)

    made: list[Derivation] = []
    like = states[0] or states[1]
    type_ = like.type if like is not None else TensorType(node.result.type.dtype, shape)
    trainable = like.trainable if like is not None else True
    # A norm with a bias but no weight is not a call that every kernel takes, so the weight comes with it.
    if affine.has_scale or weight is None:
        sources = affine.sources if not isinstance(weight, Value) else (weight, *affine.sources)
        name = states[0].name if states[0] is not None else f"{hint}.weight"
        made.append(Derivation(1, folded_name(name), scale_of, sources, type_, trainable))
    if affine.has_shift or bias is not None:
        if states[1] is not None:
            made.append(_shifted_bias(node, 2, states[1], states[1], affine, shape))
        else:

            def shift_of(*sources: torch.Tensor) -> torch.Tensor:
                return affine.compute(*sources)[1].expand(shape)

            name = bias_name(states[0].name) if states[0] is not None else f"{hint}.bias"
            made.append(Derivation(2, folded_name(name), shift_of, affine.sources, type_, trainable))
    return tuple(made)


def _border(node: Node, weight: State) -> str:
    """Why a shift of the input is no constant at the output: zeros come in at the border."""
    kernel = weight.type.static_shape[2:]
    padding, stride = node.attrs["padding"], node.attrs["stride"]
    assert isinstance(padding, tuple), "the op table promises a tuple"
    assert isinstance(stride, tuple), "the op table promises a tuple"
    if any(pad != 0 for pad in padding):
        return f"%{node.name} pads by {padding}, needs no padding or a shift of zero: the border has no shift"
    if node.op in TRANSPOSED and (any(k != 1 for k in kernel) or any(s != 1 for s in stride)):
        return f"%{node.name} spreads a {kernel} kernel by {stride}, needs size and stride 1 or a shift of zero"
    return ""


def _input_scaling(node: Node, weight: State) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """How a vector over input channels multiplies the weight."""
    shape = weight.type.static_shape
    tail = [1] * (len(shape) - 2)
    if node.op in TRANSPOSED:
        return lambda tensor, vector: tensor * (vector.reshape(-1, 1, *tail) if vector.dim() else vector)
    groups = node.attrs["groups"] if node.op in CONVOLUTIONS else 1
    assert isinstance(groups, int), "the op table promises an integer"

    def multiply(tensor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        if not vector.dim():
            return tensor * vector
        grouped = tensor.reshape(groups, shape[0] // groups, *shape[1:])
        return (grouped * vector.reshape(groups, 1, shape[1], *tail)).reshape(shape)

    return multiply


def _bias_of_shift(
    node: Node, weight: State, bias: State | None, affine: ChannelAffine, multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> Derivation:
    """`bias + sum over inputs of weight * shift`, for each output channel."""
    shape = weight.type.static_shape
    transposed = node.op in TRANSPOSED
    groups = node.attrs["groups"] if node.op != "linear" else 1
    assert isinstance(groups, int), "the op table promises an integer"
    channels = shape[1] * groups if transposed else shape[0]

    def summed(tensor: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        shift = affine.compute(*rest[1:] if bias is not None else rest)[1]
        terms = multiply(tensor, shift)
        if transposed:
            total = terms.reshape(groups, shape[0] // groups, shape[1], -1).sum((1, 3)).reshape(-1)
        else:
            total = terms.reshape(shape[0], -1).sum(1)
        return total + rest[0] if bias is not None else total

    name = bias.name if bias is not None else bias_name(weight.name)
    type_ = bias.type if bias is not None else TensorType(weight.type.dtype, (channels,))
    sources = (weight.value, bias.value, *affine.sources) if bias is not None else (weight.value, *affine.sources)
    return _derivation(2, folded_name(name), summed, sources, type_, bias or weight)
