"""A small network and calibration data for the tests of passes that make weights sparse."""

# ruff: noqa: E501
from __future__ import annotations

import torch

from graphopt.ir.graph import Graph
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import Pass, PassResult
from graphopt.rewrite.rewriter import Rewriter
from tests.support.folding import filled

__all__ = ["NETWORK", "correlated_images", "network", "run_pass", "weight_of"]

NETWORK = """
graph network(%x: f32[8,4,6,6]) {
  param %stem.weight: f32[16,4,3,3]
  param %depthwise.weight: f32[16,1,3,3]
  param %grouped.weight: f32[16,8,3,3]
  param %grouped.bias: f32[16]
  param %up.weight: f32[16,8,2,2]
  param %fc.weight: f32[12,8]
  param %fc.bias: f32[12]
  param %head.weight: f32[5,12]
  %stem: f32[8,16,6,6] = conv2d(%x, %stem.weight, none) {dilation=(1, 1), groups=1, padding=(1, 1), stride=(1, 1)}
  %act: f32[8,16,6,6] = relu(%stem)
  %depthwise: f32[8,16,6,6] = conv2d(%act, %depthwise.weight, none) {dilation=(1, 1), groups=16, padding=(1, 1), stride=(1, 1)}
  %grouped: f32[8,16,3,3] = conv2d(%depthwise, %grouped.weight, %grouped.bias) {dilation=(1, 1), groups=2, padding=(1, 1), stride=(2, 2)}
  %act2: f32[8,16,3,3] = relu(%grouped)
  %up: f32[8,8,6,6] = conv_transpose2d(%act2, %up.weight, none) {dilation=(1, 1), groups=1, output_padding=(0, 0), padding=(0, 0), stride=(2, 2)}
  %rows: f32[8,6,6,8] = permute(%up) {axes=(0, 2, 3, 1)}
  %fc: f32[8,6,6,12] = linear(%rows, %fc.weight, %fc.bias)
  %act3: f32[8,6,6,12] = relu(%fc)
  %head: f32[8,6,6,5] = linear(%act3, %head.weight, none)
  return %head
}
"""


def network() -> Graph:
    """Layers of all kinds, with random numbers."""
    return filled(NETWORK)


def correlated_images(batches: int = 4, seed: int = 0) -> Context:
    """Images whose channels and pixels are mixtures of a few sources, as real ones are."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(2, 4, generator=generator)
    sources = torch.randn(batches, 8, 2, 6, 6, generator=generator).cumsum(-1)
    noise = 0.1 * torch.randn(batches, 8, 4, 6, 6, generator=generator)
    images = torch.einsum("bnshw,sc->bnchw", sources, mixing) + noise
    return Context(calibration=Calibration([Batch((x,)) for x in images]))


def run_pass(pass_: Pass, graph: Graph, context: Context | None = None) -> PassResult:
    """Apply a pass in place, with data where it takes some."""
    from graphopt.ops import verify
    from graphopt.pipeline.passes import ContextPass

    rewriter = Rewriter(graph)
    outcome = pass_.apply_with(rewriter, context or Context()) if isinstance(pass_, ContextPass) else pass_.apply(rewriter)
    verify(graph)
    return PassResult(graph, outcome.rewritten, outcome.skipped, outcome.notes)


def weight_of(graph: Graph, layer: str) -> torch.Tensor:
    """The weight of a layer."""
    data = graph.states[f"{layer}.weight"].data
    assert data is not None
    return data.tensor()
