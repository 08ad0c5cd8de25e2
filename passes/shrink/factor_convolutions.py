"""Convolutions as two of low rank, where those multiply less.

    %y: f32[1,64,8,8] = conv2d(%x, %c.weight, %c.bias) {padding=(1, 1), ...}                    %c.weight: f32[64,64,3,3]
    -> %y.low_rank: f32[1,29,8,8] = conv2d(%x, %c.weight, none) {padding=(1, 1), ...}           %c.weight: f32[29,64,3,3]
       %y: f32[1,64,8,8] = conv2d(%y.low_rank, %c.factor.weight, %c.bias) {padding=(0, 0), ...}
                                                                                   %c.factor.weight: f32[64,29,1,1]

Two forms, see `graphopt.passes.shrink.conv_factors`: "channels" makes fewer channels and mixes them by a 1x1
convolution, "spatial" goes down the columns and then along the rows (2-d kernels). `form="best"` takes, of those with
`ratio` of the layer's multiplications removed, the one that loses less; with `energy`, of those that lose at most that
fraction of the outputs' energy, the one that multiplies less. A layer that would not multiply less stays.

With calibration data the channels are the directions in which the layer's outputs really vary, the bias takes up the
mean of what is lost, and forms are compared by what they lose on the data.

Names: `<layer>.weight` becomes the first kernel, `<layer>.factor.weight` is new, the bias keeps its name.

Numeric class: lossy. Stage: training-safe; both factors train.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch.nn import functional

from graphopt.ir.graph import Graph, Node, State
from graphopt.ops import CONVOLUTIONS
from graphopt.passes.remove.common import int_of, ints_of
from graphopt.passes.shrink.conv_factors import Factors, Form, channel_form, spatial_form, spatial_matrix, split
from graphopt.passes.shrink.factors import Halves, factor_layers, removes_nothing
from graphopt.passes.shrink.layers import excluded, layer_name, own_bias, own_dense_weight
from graphopt.passes.shrink.low_rank import basis_of_outputs, basis_of_weight, rank_for
from graphopt.passes.shrink.statistics.stream import Stream
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import ContextPass, NumericClass, Outcome, Pass, weakened
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["FactorConvolutions"]


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to split a layer: rank, weights, and the fraction of the outputs' energy that it loses."""

    form: Form
    rank: int
    factors: Factors
    loss: float


@dataclass(frozen=True)
class FactorConvolutions(ContextPass):
    """Split convolutions into two of low rank where that multiplies less."""

    name = "factor-convolutions"
    numeric = NumericClass.LOSSY

    ratio: float = field(
        default=0.5, metadata={"minimum": 0.0, "maximum": 1.0, "help": "fraction of each layer's multiplications to remove"}
    )
    energy: float | None = field(
        default=None, metadata={"minimum": 0.0, "maximum": 1.0, "help": "largest fraction of the outputs' energy to lose; replaces ratio"}
    )
    form: Literal["best", "channels", "spatial"] = field(default="best", metadata={"help": "into fewer channels, or k x 1 and 1 x k"})
    use_data: bool = field(default=True, metadata={"help": "take the directions of the outputs on calibration data, where there is any"})
    only: tuple[str, ...] = field(default=(), metadata={"help": "patterns of layer names to work on"})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "patterns of layer names to leave alone"})

    def weaker(self, strength: float) -> Pass | None:
        """The pass with a smaller energy or ratio."""
        return super().weaker(strength) if self.energy is None else replace(self, energy=weakened(self.energy, strength))

    def apply_with(self, rewriter: Rewriter, context: Context) -> Outcome:
        """Split each convolution as far as it may.

        Raises:
            PassOptionError: a pattern means no convolution.
        """
        return factor_layers(
            rewriter,
            context,
            self,
            _is_convolution,
            self._split,
            use_data=self.use_data,
            only=self.only,
            exclude=self.exclude,
        )

    def _split(self, graph: Graph, node: Node, stream: Stream | None) -> Halves | str:
        """The two convolutions, or why this one stays."""
        name = layer_name(node)
        reason = excluded(name, self.only, self.exclude) or removes_nothing(self.ratio, self.energy)
        weight = reason or own_dense_weight(graph, node)
        if isinstance(weight, str):
            return weight
        groups = int_of(node.attrs["groups"])
        if groups != 1:
            return f"has {groups} groups, needs 1"
        assert weight.data is not None, "own_weight asked for numbers"
        tensor = weight.data.precise().detach().cpu()
        forms = self._forms(node, tensor, own_bias(graph, node), stream)
        if not forms:
            return f"a kernel of {tuple(tensor.shape[2:])} can't be split into columns and rows"
        ways = [way for form in forms if (way := self._way(node, tensor, form, stream)) is not None]
        if not ways:
            return self._reason(forms)
        best = min(ways, key=lambda way: way.form.cost(way.rank) if self.energy is not None else way.loss)
        shift = best.form.basis.shift(best.rank) if best.form.kind == "channels" else None
        factors = best.factors
        less = 1 - best.form.cost(best.rank) / best.form.full_cost
        note = f"{name}: {best.form.kind}, rank {best.rank}, {less:.0%} fewer multiplications, loses {best.loss:.2%}"
        return Halves(factors.first, factors.second, note, shift, factors.attrs)

    def _forms(self, node: Node, weight: torch.Tensor, bias: State | None, stream: Stream | None) -> list[Form]:
        found: list[Form] = []
        if self.form != "spatial":
            basis = basis_of_weight(weight.flatten(1))
            if stream is not None and len(stream):
                basis = basis_of_outputs(_outputs(node, weight, stream), centred=bias is not None)
            found.append(channel_form(weight, basis))
        if self.form != "channels" and weight.dim() == 4 and all(size > 1 for size in weight.shape[2:]):
            found.append(spatial_form(node, weight, basis_of_weight(spatial_matrix(weight))))
        return found

    def _way(self, node: Node, weight: torch.Tensor, form: Form, stream: Stream | None) -> _Way | None:
        rank = form.rank_within(self.ratio) if self.energy is None else rank_for(form.basis, self.energy)
        if not 1 <= rank <= form.most or form.cost(rank) >= form.full_cost:
            return None
        factors = split(node, weight, form, rank)
        loss = form.basis.lost(rank)
        if stream is not None and len(stream) and form.kind == "spatial":
            loss = _measured_loss(node, weight, factors.product() - weight, stream)
            if self.energy is not None and loss > self.energy:
                return None
        return _Way(form, rank, factors, loss)

    def _reason(self, forms: list[Form]) -> str:
        form = min(forms, key=lambda form: form.unit_cost)
        full = f"the layer needs {form.full_cost:.0f}"
        if self.energy is None:
            return f"rank 1 needs {form.unit_cost:.0f} multiplications per position, {full} and ratio {self.ratio} leaves less"
        rank = rank_for(form.basis, self.energy)
        return f"rank {rank}, which loses at most {self.energy:.2%}, needs {form.cost(rank):.0f} multiplications per position, {full}"


def _is_convolution(node: Node) -> bool:
    return node.op in CONVOLUTIONS


def _convolved(node: Node, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Rows [positions, out] of a convolution without bias."""
    spatial = weight.dim() - 2
    convolution = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[spatial]
    stride, padding, dilation = (ints_of(node.attrs[name]) for name in ("stride", "padding", "dilation"))
    found = convolution(x.cpu(), weight.to(x.dtype), None, stride, padding, dilation)
    return found.movedim(-spatial - 1, -1).flatten(0, -2)


def _outputs(node: Node, weight: torch.Tensor, stream: Stream) -> list[torch.Tensor]:
    return [_convolved(node, x, weight) for x in stream.tensors(node.operands[0])]


def _measured_loss(node: Node, weight: torch.Tensor, difference: torch.Tensor, stream: Stream) -> float:
    """Squared error of the outputs over their variance, on the first batch."""
    x = stream.tensors(node.operands[0])[0]
    rows, error = _convolved(node, x, weight).double(), _convolved(node, x, difference).double()
    variance = float((rows - rows.mean(0)).square().sum())
    return float(error.square().sum()) / variance if variance > 0 else 0.0
