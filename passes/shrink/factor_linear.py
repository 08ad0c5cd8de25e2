"""Linear layers as a product of two of low rank.

    %y: f32[1,64] = linear(%x, %fc.weight, %fc.bias)                  %fc.weight: f32[64,64]
    -> %y.low_rank: f32[1,16] = linear(%x, %fc.weight, none)          %fc.weight: f32[16,64]
       %y: f32[1,64] = linear(%y.low_rank, %fc.factor.weight, %fc.bias)   %fc.factor.weight: f32[64,16]

The rank r is the largest with `ratio` of the weight's parameters removed, or, where `energy` is given, the smallest
that loses at most that fraction of the outputs' energy. A layer of m outputs and n inputs is only split where
r (m + n) < m n. With calibration data the directions are those in which the layer's outputs really vary, and the bias
takes up the mean of what is lost; without any, those of the weight alone. See `graphopt.passes.shrink.low_rank`.

`matmul` and `einsum` with a parameter are split in the same way, `"btd,dhk->bhtk"` into `"btd,dr->btr"` and `"btr,rhk->bhtk"`;
see `graphopt.passes.shrink.products`. A bias that is added behind such a product takes up the mean as one of a layer's own.

Names: `<layer>.weight` becomes the first factor [r, in]; the second is a new parameter `<layer>.factor.weight`
[out, r]; the bias keeps its name. The layout is that of the old weight, so that of `matmul` has [in, r] and [r, out].
A parameter of another name, as `rel_attn.q`, gets `rel_attn.q_factor`; with outputs on several axes it becomes the second factor.

Numeric class: lossy. Stage: training-safe; both factors train.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from graphopt.ir.graph import Graph, Node
from graphopt.passes.shrink.factors import Halves, factor_layers, removes_nothing
from graphopt.passes.shrink.layers import excluded, layer_name, own_bias, own_dense_weight
from graphopt.passes.shrink.low_rank import Basis, basis_of_inputs, basis_of_outputs, basis_of_weight, rank_for
from graphopt.passes.shrink.products import Product, product_of
from graphopt.passes.shrink.statistics.stream import Stream
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import ContextPass, NumericClass, Outcome, Pass, weakened
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["FactorLinear"]


@dataclass(frozen=True)
class FactorLinear(ContextPass):
    """Split linear layers into two of low rank where that has fewer parameters."""

    name = "factor-linear"
    numeric = NumericClass.LOSSY

    ratio: float = field(default=0.5, metadata={"minimum": 0.0, "maximum": 1.0, "help": "fraction of each weight's parameters to remove"})
    energy: float | None = field(
        default=None, metadata={"minimum": 0.0, "maximum": 1.0, "help": "largest fraction of the outputs' energy to lose; replaces ratio"}
    )
    use_data: bool = field(default=True, metadata={"help": "take the directions of the outputs on calibration data, where there is any"})
    only: tuple[str, ...] = field(default=(), metadata={"help": "patterns of layer names to work on"})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "patterns of layer names to leave alone"})

    def weaker(self, strength: float) -> Pass | None:
        """The pass with a smaller energy or ratio."""
        return super().weaker(strength) if self.energy is None else replace(self, energy=weakened(self.energy, strength))

    def apply_with(self, rewriter: Rewriter, context: Context) -> Outcome:
        """Split each layer as far as it may.

        Raises:
            PassOptionError: a pattern means no linear layer.
        """
        return factor_layers(
            rewriter,
            context,
            self,
            _is_product,
            self._split,
            use_data=self.use_data,
            only=self.only,
            exclude=self.exclude,
        )

    def _split(self, graph: Graph, node: Node, stream: Stream | None) -> Halves | str:
        """The two layers, or why this one stays."""
        name = layer_name(node)
        reason = excluded(name, self.only, self.exclude) or removes_nothing(self.ratio, self.energy)
        weight = reason or own_dense_weight(graph, node)
        if isinstance(weight, str):
            return weight
        assert weight.data is not None, "own_weight asked for numbers"
        product = product_of(node)
        assert product is not None, "only products are split"
        if not product.splits:
            axes = f"its inputs on {len(product.features)} axes and its outputs on {len(product.outputs)}"
            return f"%{weight.name} has {axes}, needs one of them on 1"
        matrix = product.matrix(weight.data.precise().detach().cpu())
        out, inputs = matrix.shape
        most = int((1 - self.ratio) * out * inputs / (out + inputs))
        if self.energy is None and most < 1:
            return (
                f"rank 1 has {out + inputs} parameters, ratio {self.ratio} leaves {int((1 - self.ratio) * out * inputs)} of {out * inputs}"
            )
        basis = _basis(product, matrix, stream, centred=own_bias(graph, node) is not None)
        rank = rank_for(basis, self.energy) if self.energy is not None else min(most, len(basis.energies))
        if rank * (out + inputs) >= out * inputs:
            return f"rank {rank} has {rank * (out + inputs)} parameters, the layer has {out * inputs}"
        vectors = basis.vectors[:, :rank]
        note = f"{name}: rank {rank} of {min(out, inputs)}, loses {basis.lost(rank):.2%}"
        first, second = product.halves(vectors.T @ matrix, vectors)
        return Halves(first, second, note, basis.shift(rank), product.halves_attrs(), product.second_is_named)


def _is_product(node: Node) -> bool:
    """A `matmul` counts where its weight is a parameter; one of values that are both computed is no layer."""
    product = product_of(node)
    return product is not None and (node.op == "linear" or product.has_state)


def _basis(product: Product, matrix: torch.Tensor, stream: Stream | None, *, centred: bool) -> Basis:
    if stream is None or not len(stream):
        return basis_of_weight(matrix)
    inputs = [product.input_rows(x.cpu()) for x in stream.tensors(product.node.operands[product.input])]
    if matrix.shape[0] > matrix.shape[1]:
        return basis_of_inputs(matrix, inputs, centred=centred)
    return basis_of_outputs([x @ matrix.to(x.dtype).T for x in inputs], centred=centred)
