"""Write a matrix product with a weight as a linear layer.

    %m: f32[batch,4,16] = matmul(%x, %w)                param %w: f32[8,16]
    -> %m: f32[batch,4,16] = linear(%x, %w_folded, none)       param %w_folded: f32[16,8], %w transposed

What follows (`merge-affine`, `merge-linear-layers`) folds biases and scales into it, and ONNX has one `Gemm` for it.
GPT-2's `Conv1D` (`addmm`) is of this form. A weight that others read too is left: the transposed copy would cost memory.

Numeric class: rounding, since another kernel may sum in another order. Stage: deploy; the parameter has another shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.ir.graph import Node, State
from graphopt.ir.types import TensorType
from graphopt.passes.remove.absorb import folded_name
from graphopt.passes.remove.states import drop_orphans
from graphopt.pipeline.passes import NumericClass, RulePass, Stage
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

if TYPE_CHECKING:
    import torch

__all__ = ["FormLinear", "MatmulToLinear", "Site"]


@dataclass(frozen=True, slots=True)
class Site:
    """A product `x @ weight`."""

    product: Node
    weight: State


class MatmulToLinear(Rule[Site]):
    """`matmul` with a matrix of parameters on the right becomes `linear`."""

    ops = frozenset({"matmul"})

    def match(self, node: Node) -> Site | NoMatch:
        """A product whose right side is a parameter."""
        graph = node.graph
        assert graph is not None, "rules see nodes that are in a graph"
        left, right = node.value(0), node.value(1)
        weight = graph.state_of(right)
        if weight is None or graph.state_of(left) is not None:
            return UNRELATED
        if weight.type.rank != 2:
            return NoMatch(f"%{weight.name} is {weight.type.text}, needs 2 axes")
        if left.type.rank < 2:
            return NoMatch(f"%{left.name} is {left.type.text}, needs 2 or more axes")
        if weight.value.use_count != 1:
            return NoMatch(f"%{weight.name} has {weight.value.use_count} readers, needs 1")
        if left.type.dtype is not weight.type.dtype or not weight.type.dtype.is_float:
            return NoMatch(f"dtypes are {left.type.dtype.text} and {weight.type.dtype.text}, needs one float dtype")
        return Site(node, weight)

    def rewrite(self, site: Site, rewriter: Rewriter) -> None:
        """Derive the transposed weight and make the linear."""
        node, weight = site.product, site.weight
        rows, columns = weight.type.static_shape
        type_ = TensorType(weight.type.dtype, (columns, rows))
        name = folded_name(weight.name)
        kind = "param" if weight.kind == "param" else "constant"
        trainable = weight.trainable and kind == "param"
        sources = (weight.value,)
        turned = rewriter.derive(name, _transposed, sources, type_, exact=True, kind=kind, trainable=trainable)
        rewriter.replace(node, rewriter.emit("linear", node.value(0), turned, None, before=node))
        drop_orphans(rewriter, (weight,))


@dataclass(frozen=True)
class FormLinear(RulePass):
    """Write matrix products with a parameter as linear layers."""

    name = "form-linear"
    numeric = NumericClass.ROUNDING
    stage = Stage.DEPLOY
    rules = (MatmulToLinear(),)


def _transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.t().contiguous()
