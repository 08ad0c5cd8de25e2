"""Merge two layers with nothing between them where one layer is less work.

    %h = linear(%x, %a, %b)       %y = linear(%h, %c, %d)
    -> %y = linear(%x, %c_folded, %d_folded)        with c @ a and c @ b + d

    %h = conv2d(%x, %a, %b) {...}      %y = conv2d(%h, %c, %d) {1x1}
    -> %y = conv2d(%x, %c_folded, %d_folded) {as the first}

Layers: two linears, a convolution followed by a 1x1 one, a 1x1 one followed by a convolution (whose zero padding
needs that the first has no bias), without groups. It is done only if FLOPs and parameters both do not grow and one
of them falls, so a low-rank factorisation stays what it is. Of weights that are annotated as sparse those that are not zero
may not become more either: the product of two sparse ones is dense.

Numeric class: rounding; weights are multiplied in float64 and rounded once. Stage: deploy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.ir.dims import Dim, evaluate_dim, product
from graphopt.ir.graph import Graph, Node, Operand, State, Value
from graphopt.ir.types import TensorType
from graphopt.ops import call_of, definition
from graphopt.passes.remove.absorb import CONVOLUTIONS, Derivation, bias_name, folded_name
from graphopt.passes.remove.states import drop_orphans, state_operands
from graphopt.pipeline.passes import NumericClass, RulePass, Stage
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

if TYPE_CHECKING:
    import torch

__all__ = ["LayersToLayer", "MergeLinearLayers", "Site"]


@dataclass(frozen=True, slots=True)
class Site:
    """Two layers, the one of them whose attributes stay, and the new weight and bias."""

    first: Node
    second: Node
    model: Node
    derivations: tuple[Derivation, ...]


class LayersToLayer(Rule[Site]):
    """Two layers in a row become one."""

    ops = frozenset({"linear", *CONVOLUTIONS})

    def match(self, node: Node) -> Site | NoMatch:
        """The layer before, if the two can be one and that is less work."""
        first = node.value(0).producer
        if first is None or first.op != node.op:
            return UNRELATED
        graph = node.graph
        assert graph is not None, "rules see nodes that are in a graph"
        if first.result.use_count != 1:
            return NoMatch(f"%{first.name} has {first.result.use_count} readers, needs 1")
        operands = (*first.operands[1:3], *node.operands[1:3])
        states = [graph.state_of(operand) for operand in operands]
        if any(state is None and operand is not None for state, operand in zip(states, operands, strict=True)):
            return NoMatch("a weight or bias is computed at run time, needs parameters")
        before, before_bias, after, after_bias = states
        assert before is not None, "the op table promises a weight"
        assert after is not None, "the op table promises a weight"
        model = node
        if node.op != "linear":
            found = _model(first, node, before, after, before_bias is not None)
            if isinstance(found, NoMatch):
                return found
            model = found
        shape = (after.type.static_shape[0], before.type.static_shape[1], *_kernel(model))
        if (reason := _cost(graph, first, node, product(shape))) is not None:
            return reason
        derivations = _derivations(before, before_bias, after, after_bias, shape)
        if (reason := _filled_zeros(before, after, derivations[0])) is not None:
            return reason
        return Site(first, node, model, derivations)

    def rewrite(self, site: Site, rewriter: Rewriter) -> None:
        """Make the one layer."""
        read = state_operands(site.first, site.second)
        operands: list[Operand] = [site.first.value(0), None, site.second.operands[2]]
        for item in site.derivations:
            operands[item.operand] = rewriter.derive(item.hint, item.function, item.sources, item.type, trainable=item.trainable)
        made = rewriter.create(site.model.op, operands, site.model.attrs, before=site.second, source=site.second.source)
        rewriter.replace(site.second, made.result)
        rewriter.erase_unused(site.first)
        drop_orphans(rewriter, read)


@dataclass(frozen=True)
class MergeLinearLayers(RulePass):
    """Merge linear layers and pointwise convolutions in a row where that saves work."""

    name = "merge-linear-layers"
    numeric = NumericClass.ROUNDING
    stage = Stage.DEPLOY
    rules = (LayersToLayer(),)


def _kernel(node: Node) -> tuple[int, ...]:
    return node.value(1).type.static_shape[2:]


def _is_pointwise(node: Node) -> bool:
    plain = all(item == 1 for item in (*_kernel(node), *_ints(node, "stride")))
    return plain and all(pad == 0 for pad in _ints(node, "padding"))


def _ints(node: Node, name: str) -> tuple[int, ...]:
    found = node.attrs[name]
    return tuple(item for item in found if isinstance(item, int)) if isinstance(found, tuple) else ()


def _model(first: Node, second: Node, before: State, after: State, has_bias: bool) -> Node | NoMatch:
    """The convolution whose kernel, stride and padding the merged one has."""
    groups = (first.attrs["groups"], second.attrs["groups"])
    if groups != (1, 1):
        return NoMatch(f"groups are {groups[0]} and {groups[1]}, needs 1 and 1")
    if _is_pointwise(second):
        return first
    if not _is_pointwise(first):
        return NoMatch(f"kernels are {_kernel(first)} and {_kernel(second)}, needs one of 1 with stride 1 and no padding")
    padding = _ints(second, "padding")
    if has_bias and any(pad != 0 for pad in padding):
        return NoMatch(f"%{second.name} pads by {padding} what has a bias, needs no padding or no bias in %{first.name}")
    assert before.type.rank == after.type.rank, "both convolve over the same axes"
    return second


def _cost(graph: Graph, first: Node, second: Node, merged: Dim) -> NoMatch | None:
    """Why one layer is no less work than two."""
    weights = [layer.value(1).type.elements for layer in (first, second)]
    parameters = sum(size for size in weights if isinstance(size, int))
    assert isinstance(merged, int), "weights have static shapes"
    sizes = {name: max(limits.minimum, 1) for name, limits in graph.symbols.items()}

    def flops(node: Node) -> int:
        count = evaluate_dim(definition(node.op).flops(call_of(node), tuple(result.type for result in node.results)), sizes)
        assert isinstance(count, int), "every symbol has a size"
        return count

    places = evaluate_dim(second.result.type.elements, sizes)
    assert isinstance(places, int), "every symbol has a size"
    outputs = second.value(1).type.static_shape[0]
    after = places * (2 * merged // max(outputs, 1))  # as the table counts: without the bias
    before = flops(first) + flops(second)
    if after <= before and merged <= parameters and (after, merged) != (before, parameters):
        return None
    return NoMatch(f"one layer takes {after} FLOPs and {merged} weights, needs less than the {before} and {parameters} of two")


def _filled_zeros(before: State, after: State, weight: Derivation) -> NoMatch | None:
    """Where weights are sparse: why the product of both, which has few zeros, is more to store than they are."""
    if (before.type.sparsity is None and after.type.sparsity is None) or before.data is None or after.data is None:
        return None
    first, second = before.data.tensor().detach(), after.data.tensor().detach()
    if first.is_meta or second.is_meta:
        return None
    early, late = first != 0, second != 0
    merged = int((weight.function(late.double(), early.double()) != 0).sum())
    apart = int(early.sum()) + int(late.sum())
    if merged <= apart:
        return None
    return NoMatch(f"one layer has {merged} weights that are not zero, needs no more than the {apart} of two")


def _derivations(
    before: State, before_bias: State | None, after: State, after_bias: State | None, shape: tuple[int, ...]
) -> tuple[Derivation, ...]:
    """New weight `after @ before`, new bias `after @ before_bias + after_bias`."""
    outer, inner = after.type.static_shape, before.type.static_shape

    def weight(late: torch.Tensor, early: torch.Tensor) -> torch.Tensor:
        import torch

        left, right = late.reshape(outer[0], outer[1], -1), early.reshape(inner[0], inner[1], -1)
        return torch.einsum("omk,mij->oikj", left, right).reshape(shape)

    trainable = before.trainable or after.trainable
    made = [Derivation(1, folded_name(after.name), weight, (after.value, before.value), TensorType(after.type.dtype, shape), trainable)]
    if before_bias is not None:
        size = len(outer)

        def bias(late: torch.Tensor, early: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            total = (late.reshape(outer[0], outer[1], -1).sum(2) if size > 2 else late) @ early
            return total + rest[0] if rest else total

        sources: tuple[Value, ...] = (after.value, before_bias.value)
        if after_bias is not None:
            sources = (*sources, after_bias.value)
        name = after_bias.name if after_bias is not None else bias_name(after.name)
        made.append(Derivation(2, folded_name(name), bias, sources, TensorType(after.type.dtype, (outer[0],)), trainable))
    return tuple(made)
