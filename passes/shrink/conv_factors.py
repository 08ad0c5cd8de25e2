"""Ways of writing a convolution as two of low rank, and what they cost.

    channels   k x k into r channels, then 1 x 1         r (c k k + m)            Zhang et al., Accelerating Very Deep
                                                                                Convolutional Networks, 2015
    spatial    k x 1 into r channels, then 1 x k         r (c k s + m k)          Jaderberg et al., Speeding up
                                                                                Convolutional Neural Networks, 2014

Costs are multiplications per output position of a convolution from c to m channels (c k k m); s is how many more
columns the k x 1 convolution computes than there are outputs: the stride along the other axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Node
from graphopt.passes.remove.common import ints_of
from graphopt.passes.shrink.low_rank import Basis

__all__ = ["Factors", "Form", "channel_form", "spatial_form", "spatial_matrix", "split"]


@dataclass(frozen=True, slots=True)
class Form:
    """One way to split a convolution: its `basis`, the multiplications per output position of rank 1, those of the
    whole layer, and the largest rank there is."""

    kind: str
    basis: Basis
    unit_cost: float
    full_cost: float
    most: int

    def rank_within(self, ratio: float) -> int:
        """The largest rank that removes at least `ratio` of the multiplications; 0 where rank 1 is too much."""
        return min(int((1 - ratio) * self.full_cost / self.unit_cost + 1e-9), self.most)

    def cost(self, rank: int) -> float:
        """Multiplications per output position."""
        return rank * self.unit_cost


@dataclass(frozen=True, slots=True)
class Factors:
    """Weights of both convolutions, float64, and their attributes."""

    first: torch.Tensor
    second: torch.Tensor
    attrs: tuple[dict[str, Attribute], dict[str, Attribute]]

    def product(self) -> torch.Tensor:
        """The one kernel that both make together."""
        if self.second.shape[2:].numel() == 1:
            return torch.einsum("mr,rc...->mc...", self.second.flatten(1), self.first)
        return torch.einsum("mrj,rci->mcij", self.second[:, :, 0], self.first[:, :, :, 0])


def channel_form(weight: torch.Tensor, basis: Basis) -> Form:
    """Into r channels first; `basis` is that of the outputs, [out, ...]."""
    out, reads = weight.shape[0], prod(weight.shape[1:])
    return Form("channels", basis, reads + out, out * reads, min(len(basis.energies), out))


def _split_channels(node: Node, weight: torch.Tensor, basis: Basis, rank: int) -> Factors:
    """The factors of a channel form."""
    vectors = basis.vectors[:, :rank]
    first = (vectors.T @ weight.flatten(1)).reshape(rank, *weight.shape[1:])
    spatial = weight.dim() - 2
    ones: dict[str, Attribute] = {"stride": (1,) * spatial, "padding": (0,) * spatial, "dilation": (1,) * spatial, "groups": 1}
    return Factors(first, vectors.reshape(weight.shape[0], rank, *(1,) * spatial), (dict(node.attrs), ones))


def spatial_matrix(weight: torch.Tensor) -> torch.Tensor:
    """[in x height, out x width] of a 2-d kernel, whose low rank makes columns and rows apart."""
    out, channels, height, width = weight.shape
    return weight.permute(1, 2, 0, 3).reshape(channels * height, out * width)


def spatial_form(node: Node, weight: torch.Tensor, basis: Basis) -> Form:
    """Down the columns first, then along the rows; `basis` is that of `spatial_matrix`."""
    out, channels, height, width = weight.shape
    before, after = node.value(0).shape[-1], node.result.shape[-1]
    more = before / after if isinstance(before, int) and isinstance(after, int) and after else float(ints_of(node.attrs["stride"])[1])
    unit = channels * height * more + out * width
    return Form("spatial", basis, unit, out * channels * height * width, min(len(basis.energies), out))


def _split_spatial(node: Node, weight: torch.Tensor, basis: Basis, rank: int) -> Factors:
    """The factors of a spatial form."""
    out, channels, height, width = weight.shape
    vectors = basis.vectors[:, :rank]
    first = vectors.T.reshape(rank, channels, height, 1)
    second = (vectors.T @ spatial_matrix(weight)).reshape(rank, out, width).permute(1, 0, 2).unsqueeze(2)
    numbers = {name: ints_of(node.attrs[name]) for name in ("stride", "padding", "dilation")}
    neutral = {"stride": 1, "padding": 0, "dilation": 1}
    down: dict[str, Attribute] = {name: (found[0], neutral[name]) for name, found in numbers.items()}
    along: dict[str, Attribute] = {name: (neutral[name], found[1]) for name, found in numbers.items()}
    return Factors(first, second, ({**down, "groups": 1}, {**along, "groups": 1}))


def split(node: Node, weight: torch.Tensor, form: Form, rank: int) -> Factors:
    """The factors of either form."""
    return (_split_channels if form.kind == "channels" else _split_spatial)(node, weight, form.basis, rank)
