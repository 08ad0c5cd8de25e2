"""The layers whose weights may become sparse: linear layers and convolutions, by name, without the ends of the network.

A layer is known by its module's name (`layer1.0.conv1` of `%layer1.0.conv1.weight`). A weight that several layers read
is one layer here, so it is looked at once and stays shared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import torch

from graphopt.errors import PassError
from graphopt.ir.graph import Graph, Node, State, Value
from graphopt.ops import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from graphopt.passes.remove.common import int_of
from graphopt.passes.shrink.layers import check_patterns, excluded
from graphopt.passes.shrink.names import layer_of

__all__ = ["LAYERS", "Layer", "Scope", "find_layers"]

LAYERS = CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS | {"linear"}
"""Ops whose operand 1 is a weight that may be sparse."""

_WITH_WEIGHTS = LAYERS | {"embedding", "lstm", "gru", "rnn"}
"""Ops that make a layer behind them no first layer any more."""

_PRODUCT = "it is a matrix product, which form-linear makes a linear layer of: run that pass first"


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A weight and the nodes that read it, all of the same op and groups, in execution order.

    `first` and `last` tell that no layer comes before or after it.
    """

    name: str
    nodes: tuple[Node, ...]
    weight: State
    groups: int
    first: bool
    last: bool

    @property
    def transposed(self) -> bool:
        """True for transposed convolutions, whose weight is [in, out / groups, taps...]."""
        return self.nodes[0].op in TRANSPOSED_CONVOLUTIONS

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.weight.type.static_shape

    @property
    def elements(self) -> int:
        """Numbers in the weight."""
        return prod(self.shape)

    @property
    def inputs(self) -> int:
        """Input channels of one group."""
        return self.shape[0] // self.groups if self.transposed else self.shape[1]

    @property
    def outputs(self) -> int:
        """Output channels of one group."""
        return self.shape[1] if self.transposed else self.shape[0] // self.groups

    @property
    def is_depthwise(self) -> bool:
        """True where each input channel has filters of its own."""
        return self.groups > 1 and self.inputs == 1

    def numbers(self) -> torch.Tensor:
        """The weight in float64, on the CPU, as it is in its own dtype.

        Raises:
            PassError: a number is NaN or infinite.
        """
        assert self.weight.data is not None, "find_layers asked for numbers"
        tensor = self.weight.data.tensor().detach().cpu().double()
        if not bool(tensor.isfinite().all()):
            broken = int((~tensor.isfinite()).sum())
            raise PassError(
                f"%{self.weight.name} has {broken} NaN or infinite values among {tensor.numel()}, which can't be ranked",
                fix=f"repair the weight, or exclude '{self.name}'",
            )
        return tensor


@dataclass(frozen=True, slots=True)
class Scope:
    """Which layers a pass works on. Patterns are those of `fnmatch`, over names of layers."""

    only: Sequence[str] = ()
    exclude: Sequence[str] = ()
    dense_ends: bool = True
    depthwise: bool = False


def find_layers(graph: Graph, scope: Scope) -> tuple[list[Layer], list[tuple[str, str]]]:
    """The layers to work on, in execution order, and the others with the reason why not.

    Raises:
        PassOptionError: a pattern means no layer; the message has near names.
    """
    nodes = [node for node in graph.nodes if node.op in LAYERS]
    readers: dict[str, list[Node]] = {}
    skipped: list[tuple[str, str]] = []
    for node in nodes:
        state = graph.state_of(node.operands[1])
        if state is None:
            skipped.append((node.name, "its weight is computed at run time, needs a parameter"))
        else:
            readers.setdefault(state.name, []).append(node)
    products = _products(graph, readers)
    check_patterns(map(layer_of, (*readers, *products)), only=scope.only, exclude=scope.exclude)
    skipped += [(layer_of(name), excluded(layer_of(name), scope.only, scope.exclude) or _PRODUCT) for name in products]
    firsts, lasts = _ends(graph)
    found: list[Layer] = []
    for name, users in readers.items():
        state = graph.states[name]
        reason = excluded(layer_of(name), scope.only, scope.exclude) or _unfit(state, users)
        if reason is None:
            groups = int_of(users[0].attrs["groups"]) if users[0].op != "linear" else 1
            first, last = any(node in firsts for node in users), any(node in lasts for node in users)
            layer = Layer(layer_of(name), tuple(users), state, groups, first, last)
            reason = _left_alone(layer, scope)
            if reason is None:
                found.append(layer)
                continue
        skipped.append((layer_of(name), reason))
    return found, skipped


def _products(graph: Graph, layers: Collection[str]) -> list[str]:
    """Matrices on the right of a `matmul`, as of GPT-2's `Conv1D`, by name: `form-linear` makes linear layers of them."""
    weights = [graph.state_of(node.operands[1]) for node in graph.nodes if node.op == "matmul"]
    found = [state.name for state in weights if state is not None and state.kind == "param" and state.type.rank == 2]
    return [name for name in dict.fromkeys(found) if name not in layers]


def _unfit(state: State, users: Sequence[Node]) -> str | None:
    """Why a weight can't be sparse."""
    if state.data is None:
        return f"%{state.name} has no numbers, the graph was read from text alone"
    if not state.type.dtype.is_float or state.type.dtype.bytes < 2:
        return f"%{state.name} is {state.type.dtype.text}, needs f64, f32, f16 or bf16"
    if not state.type.is_static or not prod(state.type.static_shape):
        return f"%{state.name} is {state.type.text}, needs a static shape and elements"
    other = next((use.node for use in state.value.uses if use.node not in users or use.index != 1), None)
    if other is not None:
        return f"%{state.name} is also read by {'the outputs' if other.is_return else other.op}"
    if len({(node.op, node.attrs.get("groups")) for node in users}) > 1:
        return f"%{state.name} is read by layers of different kinds"
    return None


def _left_alone(layer: Layer, scope: Scope) -> str | None:
    """Why a layer stays dense by a default that the user may change."""
    if layer.is_depthwise and not scope.depthwise:
        return "depthwise convolutions stay dense (depthwise=False)"
    if scope.dense_ends and (layer.first or layer.last):
        return f"the {'first' if layer.first else 'last'} layer stays dense (dense_ends=True)"
    return None


def _ends(graph: Graph) -> tuple[set[Node], set[Node]]:
    """The layers that no layer comes before, and those that none comes after."""
    nodes = [node for node in graph.nodes if not node.is_return]
    firsts: set[Node] = set()
    behind: set[Value] = set()
    for node in nodes:
        is_behind = any(operand in behind for operand in _values(node.operands))
        if node.op in LAYERS and not is_behind:
            firsts.add(node)
        if is_behind or node.op in _WITH_WEIGHTS:
            behind.update(node.results)
    lasts: set[Node] = set()
    before: set[Value] = set()
    for node in reversed(nodes):
        is_before = any(result in before for result in node.results)
        if node.op in LAYERS and not is_before:
            lasts.add(node)
        if is_before or node.op in _WITH_WEIGHTS:
            before.update(_values(node.operands))
    return firsts, lasts


def _values(operands: Iterable[object]) -> list[Value]:
    return [operand for operand in operands if isinstance(operand, Value)]
