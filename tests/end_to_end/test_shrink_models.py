"""Real architectures at half the width: dead units, training, names, and replay on another checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

import graphopt
from graphopt.analysis.axes import axis_groups
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor
from graphopt.ops import verify
from graphopt.rewrite.cut import cut, replay
from graphopt.rewrite.rewriter import Rewriter
from tests.support.cutting import by_name, half_of, with_dead_units
from tests.support.folding import largest_difference

MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": torchvision.models.resnet18,
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "densenet121": torchvision.models.densenet121,
    "shufflenet_v2_x1_0": torchvision.models.shufflenet_v2_x1_0,
    "googlenet": lambda: torchvision.models.googlenet(init_weights=False, aux_logits=False),
    # Two layers of a quarter of the width: all twelve are alike, and 86 M parameters in float64 take long.
    "vit_b_16": lambda: VisionTransformer(image_size=64, patch_size=16, num_layers=2, num_heads=12, hidden_dim=192, mlp_dim=768),
    "swin_t": torchvision.models.swin_t,
    "convnext_tiny": torchvision.models.convnext_tiny,
}
LAYER_NORMS = {"vit_b_16", "swin_t", "convnext_tiny"}


@cache
def _captured(name: str) -> Graph:
    torch.manual_seed(0)
    graph = graphopt.capture(MODELS[name]().eval(), (torch.randn(1, 3, 64, 64),))
    _stir(graph, seed=1)
    return graph


def _stir(graph: Graph, seed: int) -> None:
    """Other numbers in every float state: fresh norms, biases and layer scales are all equal and would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    editor = GraphEditor(graph)
    for state in tuple(graph.states.values()):
        if state.data is None or not state.type.dtype.is_float or state.kind == "constant":
            continue
        numbers = state.data.tensor().detach()
        noise = torch.randn(numbers.shape, generator=generator) * 0.1
        editor.update_state(replace(state, data=TensorData((numbers + noise * numbers.abs().mean().clamp_min(0.1)).clone())))


@pytest.mark.parametrize("name", MODELS)
def test_dead_units_leave_the_outputs_as_they_are(name: str) -> None:
    graph = _captured(name)
    copy = graph.clone()
    groups = axis_groups(copy)
    removal = half_of(groups, renormalised=False)
    assert len(removal) >= 3
    assert len(removal) == len(groups) or name in LAYER_NORMS
    dead = with_dead_units(graph, by_name(removal, axis_groups(graph)))
    record = cut(Rewriter(copy), groups, removal)
    verify(copy)
    assert largest_difference(dead, replay(dead, record)) <= 1e-9


@pytest.mark.parametrize("name", MODELS)
def test_half_the_units_go_the_rest_trains_and_another_checkpoint_follows(name: str) -> None:
    graph = _captured(name)
    result = graphopt.optimize(graph, ["shrink-channels{ratio=0.5}"], strict=True)
    verify(result.graph)
    before, after = (sum(p.numel() for p in module.parameters()) for module in (graph.to_module(), result.module))
    assert after < 0.45 * before
    assert set(result.module.state_dict()) == set(graph.to_module().state_dict())
    _train_one_step(result.module)
    (record,) = result.pipeline.shrinks
    other = graph.clone()
    _stir(other, seed=2)
    replayed = replay(other, record)
    assert str(replayed) == str(result.graph)
    groups = axis_groups(other)
    assert record.groups.keys() <= {group.name for group in groups}


def _train_one_step(module: nn.Module) -> None:
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    output = module(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)))
    loss = nn.functional.cross_entropy(output, torch.tensor([1]))
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    held = [parameter.detach().clone() for parameter in module.parameters()]
    optimizer.step()
    assert bool(torch.isfinite(loss))
    assert any(not torch.equal(old, new) for old, new in zip(held, module.parameters(), strict=True))


@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_replay_has_the_numbers_of_the_same_removal(name: str) -> None:
    graph, other = _captured(name).clone(), _captured(name).clone()
    _stir(other, seed=4)
    untouched = other.clone()
    groups = axis_groups(graph)
    removal = half_of(groups, seed=5)
    record = cut(Rewriter(graph), groups, removal)
    others = axis_groups(other)
    cut(Rewriter(other), others, by_name(removal, others))
    assert largest_difference(other, replay(untouched, record)) == 0
