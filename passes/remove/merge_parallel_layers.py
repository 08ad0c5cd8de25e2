"""Merge layers that read the same input and whose results are added.

    %a = conv2d(%x, %w3, %b3) {3x3, padding=(1, 1)}
    %b = conv2d(%x, %w1, %b1) {1x1}
    %c = batch_norm(%x, ...)
    %s = add(%a, %b)          %y = add(%s, %c)
    -> %y = conv2d(%x, %w3_folded, %b3_folded) {3x3, padding=(1, 1)}

The largest kernel is the *host*; a smaller one is laid into it where the paddings put it, %x itself and a batch norm
of it are 1x1 kernels with one number per channel. So the branches of RepVGG, MobileOne and FastViT become one
convolution, and a LoRA adapter `linear(%x, %w) + linear(linear(%x, %a), %b)` becomes one linear. Signs count, so
a subtracted branch goes too. It is always less work.

Numeric class: rounding; weights are added in float64 and rounded once. Stage: deploy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.ir.types import TensorType
from graphopt.passes.remove.absorb import CONVOLUTIONS, Derivation, bias_name, folded_name
from graphopt.passes.remove.channel_affine import affine_of_batch_norm, unusable
from graphopt.passes.remove.common import int_of, ints_of
from graphopt.passes.remove.states import drop_orphans, state_operands
from graphopt.pipeline.passes import NumericClass, RulePass, Stage
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

if TYPE_CHECKING:
    import torch

__all__ = ["MergeParallelLayers", "Site", "SumToLayer"]

_MOST_TERMS = 64
"""Longest sum that is looked at as a whole."""
_LAYERS = frozenset({"linear", *CONVOLUTIONS})


@dataclass(frozen=True, slots=True)
class Term:
    """One summand as a change of the host's weight and bias.

    `compute(*sources)` gives (weight of the host's shape, bias vector or 0-dim zero).
    """

    nodes: tuple[Node, ...]
    sources: tuple[Value, ...]
    compute: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    has_bias: bool


@dataclass(frozen=True, slots=True)
class Site:
    """The last addition of a sum, its host, the other terms that go into it, and the summands that stay, with signs."""

    root: Node
    host: Node
    host_sign: int
    terms: tuple[tuple[int, Term], ...]
    rest: tuple[tuple[int, Value], ...]


class SumToLayer(Rule[Site]):
    """A sum of layers of one input becomes one layer."""

    ops = frozenset({"add", "sub"})

    def match(self, node: Node) -> Site | NoMatch:
        """The summands that go into the largest layer among them."""
        if _is_inner(node):
            return UNRELATED
        leaves = _leaves(node)
        hosts = [(sign, leaf.producer) for sign, leaf in leaves if leaf.producer is not None and _is_layer(leaf.producer)]
        hosts.sort(key=lambda item: _size(item[1]), reverse=True)
        refusal: NoMatch = UNRELATED
        for host_sign, host in hosts:
            terms: list[tuple[int, Term]] = []
            rest: list[tuple[int, Value]] = []
            for sign, leaf in leaves:
                if leaf is host.result:
                    continue
                term = _term(leaf, host)
                if isinstance(term, Term):
                    terms.append((sign, term))
                    continue
                rest.append((sign, leaf))
                refusal = refusal if refusal.reason else term
            if terms:
                site = Site(node, host, host_sign, tuple(terms), tuple(rest))
                return _overflow(site) or site
        return refusal

    def rewrite(self, site: Site, rewriter: Rewriter) -> None:
        """Make the host again with the sum of all weights, and add what is left."""
        merged = [node for _, term in site.terms for node in term.nodes]
        read = state_operands(site.host, *merged)
        operands: list[Operand] = list(site.host.operands)
        for item in _derivations(site):
            operands[item.operand] = rewriter.derive(item.hint, item.function, item.sources, item.type, trainable=item.trainable)
        total = rewriter.create(site.host.op, operands, site.host.attrs, before=site.root, source=site.host.source).result
        for sign, value in site.rest:
            total = rewriter.emit("add" if sign > 0 else "sub", total, value, before=site.root)
        inner = [operand.producer for operand in site.root.operands if isinstance(operand, Value)]
        rewriter.replace(site.root, total)
        rewriter.erase_unused(*inner, site.host, *merged)
        drop_orphans(rewriter, read)


@dataclass(frozen=True)
class MergeParallelLayers(RulePass):
    """Merge layers of one input whose results are added: RepVGG branches, LoRA adapters."""

    name = "merge-parallel-layers"
    numeric = NumericClass.ROUNDING
    stage = Stage.DEPLOY
    rules = (SumToLayer(),)


def _is_sum(node: Node) -> bool:
    """True for an addition or subtraction of two tensors of one floating-point type."""
    if node.op not in ("add", "sub") or not node.result.type.dtype.is_float:
        return False
    type_ = node.result.type
    return all(isinstance(o, Value) and (o.type.dtype, o.type.shape) == (type_.dtype, type_.shape) for o in node.operands)


def _is_inner(node: Node) -> bool:
    """True when the node is part of a longer sum, whose last addition stands for it; or no sum at all."""
    if not _is_sum(node):
        return True
    return node.result.use_count == 1 and _is_sum(node.result.users[0])


def _leaves(root: Node) -> list[tuple[int, Value]]:
    """The summands of a sum with their signs, in order."""
    found: list[tuple[int, Value]] = []
    pending = _operands(root, 1)
    while pending:
        sign, value = pending.pop()
        inner = value.producer
        if inner is not None and value.use_count == 1 and _is_sum(inner) and len(found) + len(pending) < _MOST_TERMS:
            pending += _operands(inner, sign)
        else:
            found.append((sign, value))
    return found


def _operands(node: Node, sign: int) -> list[tuple[int, Value]]:
    return [(-sign if node.op == "sub" else sign, node.value(1)), (sign, node.value(0))]


def _is_layer(node: Node) -> bool:
    """True for a layer with one reader whose weights are states."""
    graph = node.graph
    assert graph is not None, "rules see nodes that are in a graph"
    if node.op not in _LAYERS or node.result.use_count != 1:
        return False
    return all(operand is None or graph.state_of(operand) is not None for operand in node.operands[1:3])


def _size(node: Node) -> int:
    elements = node.value(1).type.elements
    return elements if isinstance(elements, int) else 0


def _term(leaf: Value, host: Node) -> Term | NoMatch:
    """A summand as a change of the host, or why it can't be one."""
    x = host.value(0)
    if leaf is x:
        return _diagonal(host, (), (), None)
    node = leaf.producer
    if node is None or leaf.use_count != 1:
        return UNRELATED
    if node.op == "batch_norm" and node.value(0) is x:
        return _batch_norm_term(node, host)
    if node.op != host.op or not _is_layer(node):
        return UNRELATED
    if node.value(0) is x:
        return _linear_term(node) if host.op == "linear" else _kernel_term(node, host)
    first = node.value(0).producer
    if host.op == "linear" and first is not None and first.op == "linear" and first.value(0) is x and _is_layer(first):
        return _product_term(first, node)
    return UNRELATED


def _batch_norm_term(node: Node, host: Node) -> Term | NoMatch:
    graph = node.graph
    assert graph is not None, "rules see nodes that are in a graph"
    affine = affine_of_batch_norm(node)
    if isinstance(affine, NoMatch):
        return affine
    return unusable(affine, graph) or _diagonal(host, (node,), affine.sources, affine.compute)


def _diagonal(
    host: Node, nodes: tuple[Node, ...], sources: tuple[Value, ...], numbers: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None
) -> Term | NoMatch:
    """x itself, or scale * x + shift for each channel, as a kernel of one tap."""
    shape = host.value(1).type.static_shape
    place: tuple[int, ...] = ()
    groups = 1
    if host.op != "linear":
        stride, dilation, padding = (ints_of(host.attrs[name]) for name in ("stride", "dilation", "padding"))
        groups = int_of(host.attrs["groups"])
        found = _place(padding, (0,) * len(padding), dilation, (1,) * len(padding), shape[2:])
        if found is None or any(step != 1 for step in stride):
            return NoMatch(f"%{host.name} has stride {stride} and padding {padding}, needs stride 1 and a tap above its input")
        place = found
    elif numbers is not None and len(host.result.shape) != 2:
        return NoMatch(f"the channels of a batch norm are axis 1 of %{host.result.name}, needs the last axis")
    if shape[0] != shape[1] * groups:
        return NoMatch(f"%{host.name} makes {shape[0]} channels of {shape[1] * groups}, needs the same number")

    def compute(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        scale, shift = (
            numbers(*given) if numbers is not None else (torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
        )
        weight = torch.zeros(shape, dtype=scale.dtype, device=scale.device)
        rows = torch.arange(shape[0], device=scale.device)
        weight[(rows, rows % shape[1], *place)] = scale.expand(shape[0])
        return weight, shift

    return Term(nodes, sources, compute, has_bias=numbers is not None)


def _place(
    host_pad: tuple[int, ...], pad: tuple[int, ...], dilation: tuple[int, ...], kernel: tuple[int, ...], room: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Which tap of the host's kernel the first tap of a smaller one falls on; None where it falls beside."""
    found: list[int] = []
    for outer, inner, step, size, space in zip(host_pad, pad, dilation, kernel, room, strict=True):
        tap, between = divmod(outer - inner, step)
        if between or tap < 0 or tap + size > space:
            return None
        found.append(tap)
    return tuple(found)


def _kernel_term(node: Node, host: Node) -> Term | NoMatch:
    """Another convolution of x with a kernel that lies within the host's."""
    small, large = node.value(1).type.static_shape, host.value(1).type.static_shape
    for name in ("stride", "groups"):
        if node.attrs[name] != host.attrs[name]:
            return NoMatch(f"%{node.name} and %{host.name} have {name} {node.attrs[name]} and {host.attrs[name]}, needs the same")
    dilation = ints_of(host.attrs["dilation"])
    if node.attrs["dilation"] != dilation and any(size != 1 for size in small[2:]):
        return NoMatch(f"%{node.name} and %{host.name} have dilation {node.attrs['dilation']} and {dilation}, needs the same")
    paddings = ints_of(host.attrs["padding"]), ints_of(node.attrs["padding"])
    place = _place(*paddings, dilation, small[2:], large[2:])
    if place is None:
        return NoMatch(f"kernel {small[2:]} padded by {paddings[1]} is not within kernel {large[2:]} padded by {paddings[0]}")
    window = (slice(None), slice(None), *(slice(tap, tap + size) for tap, size in zip(place, small[2:], strict=True)))
    has_bias = node.operands[2] is not None

    def compute(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weight = given[0].new_zeros(large)
        weight[window] = given[0]
        return weight, given[1] if has_bias else given[0].new_zeros(())

    return Term((node,), _weights(node), compute, has_bias)


def _linear_term(node: Node) -> Term:
    has_bias = node.operands[2] is not None

    def compute(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return given[0], given[1] if has_bias else given[0].new_zeros(())

    return Term((node,), _weights(node), compute, has_bias)


def _product_term(first: Node, second: Node) -> Term:
    """`linear(linear(x, a), b)` as one weight, `b @ a`."""
    count = len(_weights(second))
    first_bias, second_bias = first.operands[2] is not None, second.operands[2] is not None

    def compute(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        late, early = given[:count], given[count:]
        shift = late[0] @ early[1] if first_bias else late[0].new_zeros(())
        return late[0] @ early[0], shift + late[1] if second_bias else shift

    return Term((second, first), (*_weights(second), *_weights(first)), compute, first_bias or second_bias)


def _weights(node: Node) -> tuple[Value, ...]:
    return tuple(operand for operand in node.operands[1:3] if isinstance(operand, Value))


def _derivations(site: Site) -> tuple[Derivation, ...]:
    """The host's weight and bias with those of all terms added."""
    host = site.host
    graph = host.graph
    assert graph is not None, "rules see nodes that are in a graph"
    own = _weights(host)
    counts = [len(term.sources) for _, term in site.terms]
    functions = [(sign, term.compute) for sign, term in site.terms]

    def total(part: int, start: torch.Tensor | None, given: tuple[torch.Tensor, ...]) -> torch.Tensor:
        position = 0
        for count, (sign, function) in zip(counts, functions, strict=True):
            change = sign * function(*given[position : position + count])[part]
            start = change if start is None else start + change
            position += count
        assert start is not None, "a site has terms"
        return start

    def weight(mine: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        return total(0, site.host_sign * mine, given)

    def bias(*given: torch.Tensor) -> torch.Tensor:
        if len(own) == 2:
            return total(1, site.host_sign * given[0], given[1:])
        return total(1, None, given).expand(host.value(1).type.static_shape[0])

    state = graph.state_of(own[0])
    assert state is not None, "the host's weight is a state"
    sources = tuple(source for _, term in site.terms for source in term.sources)
    made = [Derivation(1, folded_name(state.name), weight, (own[0], *sources), state.type, state.trainable)]
    if any(term.has_bias for _, term in site.terms) or (len(own) == 2 and site.host_sign < 0):
        name = own[1].name if len(own) == 2 else bias_name(state.name)
        type_ = own[1].type if len(own) == 2 else TensorType(state.type.dtype, (state.type.static_shape[0],))
        made.append(Derivation(2, folded_name(name), bias, (*own[1:], *sources), type_, state.trainable))
    return tuple(made)


def _overflow(site: Site) -> NoMatch | None:
    graph: Graph | None = site.host.graph
    assert graph is not None, "rules see nodes that are in a graph"
    return next((reason for item in _derivations(site) if (reason := item.overflow(graph)) is not None), None)
