"""Compensation through the real analysis, on captured models whose units have copies or little to say."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch
from torch import nn

import graphopt
from graphopt.analysis.axes import AxisGroups, axis_groups
from graphopt.ir.graph import Graph
from graphopt.passes.shrink.compensation import compensate
from graphopt.passes.shrink.importance import METHODS, score
from graphopt.pipeline.calibration import Batch, Calibration
from graphopt.pipeline.context import Context
from graphopt.rewrite.cut import cut
from graphopt.rewrite.rewriter import Rewriter


class Residual(nn.Module):
    """Convolutions, batch norms and a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(
            nn.Conv2d(8, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 8, 3, stride=1, padding=1),
            nn.BatchNorm2d(8),
        )
        self.head = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(32, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(torch.relu(x + self.branch(x)))


def _settled(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Running statistics and scales like those of a trained model."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = 0.5
    model.train()
    with torch.no_grad():
        for _ in range(8):
            model(x)
    return model.eval()


def _twice(model: Residual) -> Residual:
    """Every odd channel of the branch does what the even one before it does."""
    first, norm = model.branch[0], model.branch[1]
    with torch.no_grad():
        for tensor in (first.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert isinstance(tensor, torch.Tensor)
            tensor[1::2] = tensor[::2]
    return model


def _data(batches: int = 4, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(16, 3, 8, 8, generator=generator) for _ in range(batches)]


def _context(batches: list[torch.Tensor]) -> Context:
    return Context(calibration=Calibration([Batch((x,)) for x in batches]))


def _lowest(graph: Graph, groups: AxisGroups, ratio: float) -> dict[str, numpy.ndarray]:
    scores = score(graph, groups, "l2", Context())
    return {group.name: numpy.argsort(numpy.argsort(scores[group])) < int(ratio * group.size) for group in groups}


def _after(graph: Graph, gone: dict[str, numpy.ndarray], method: str, context: Context) -> tuple[Graph, tuple[str, ...]]:
    """The graph cut and compensated."""
    smaller = graph.clone()
    groups = axis_groups(smaller)
    rewriter = Rewriter(smaller)
    record = cut(rewriter, groups, {groups[name]: mask for name, mask in gone.items() if mask.any()})
    notes = compensate(rewriter, graph, record, context, method)  # pyright: ignore[reportArgumentType]
    return smaller, notes


def _error(before: Graph, after: Graph, fresh: torch.Tensor | None = None) -> float:
    x = _data(1, seed=77)[0] if fresh is None else fresh
    with torch.no_grad():
        old, new = before.to_module()(x), after.to_module()(x)
    return float((old - new).norm() / old.norm())


def _captured(make: Callable[[], nn.Module]) -> Graph:
    torch.manual_seed(0)
    return graphopt.capture(make(), (_data()[0],))


@pytest.mark.parametrize("folded", [False, True])
def test_copies_of_channels_are_taken_over(folded: bool) -> None:
    graph = _captured(lambda: _twice(_settled(Residual(), torch.cat(_data()))))  # pyright: ignore[reportArgumentType]
    if folded:
        graph = graphopt.optimize(graph, ["fold-batch-norm"]).graph
    groups = axis_groups(graph)
    (branch,) = [group for group in groups if group.size == 12]
    gone = {branch.name: numpy.arange(12) % 2 == 1}
    plain, _ = _after(graph, gone, "none", Context())
    mended, notes = _after(graph, gone, "least-squares", _context(_data()))
    assert _error(graph, plain) > 0.05
    assert _error(graph, mended) < 1e-4, notes
    assert {name: state.type for name, state in mended.states.items()} == {name: state.type for name, state in plain.states.items()}


class Tokens(nn.Module):
    """Layers along tokens, whose rows are channels that others cut: mixers, gated MLPs, batch norms over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 6)
        self.convolution, self.norm = nn.Conv1d(6, 6, 1), nn.BatchNorm1d(6)
        self.inner, self.outer = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` is [batch, 6 tokens, 8]."""
        h = self.inner(torch.relu(self.embed(x)))
        h = h + self.second(torch.relu(self.first(h.transpose(1, 2)))).transpose(1, 2)
        return self.outer(torch.relu(self.norm(self.convolution(h))))


class Broadcast(nn.Module):
    """A branch is added to one number per sample."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.one, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(8, 1), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` is [batch, 6, 8]."""
        return self.head(self.one(x) + self.second(torch.relu(self.first(x))))


@pytest.mark.parametrize("ratio", [0.4, 0.97])
@pytest.mark.parametrize("make", [Tokens, Broadcast])
def test_other_axes_than_channels_lose_positions_too(make: Callable[[], nn.Module], ratio: float) -> None:
    torch.manual_seed(0)
    batches = [torch.randn(16, 6, 8) + 0.5 for _ in range(9)]
    graph = graphopt.capture(make().eval(), (batches[0],))
    gone = _lowest(graph, axis_groups(graph), ratio)
    plain, _ = _after(graph, gone, "none", Context())
    errors: list[float] = []
    for method in ("bias", "least-squares"):
        mended, notes = _after(graph, gone, method, _context(batches[:8]))
        assert not any("can't be matched" in note for note in notes), notes
        errors.append(_error(graph, mended, batches[8]))
    assert max(errors) < _error(graph, plain, batches[8])


@pytest.mark.parametrize("folded", [False, True])
def test_half_of_all_units(folded: bool) -> None:
    """Nothing is redundant here; each method does better than the one before it."""
    graph = _captured(lambda: _settled(Residual(), torch.cat(_data())))
    if folded:
        graph = graphopt.optimize(graph, ["fold-batch-norm"]).graph
    gone = _lowest(graph, axis_groups(graph), 0.4)
    errors = [_error(graph, _after(graph, gone, method, _context(_data(24)))[0]) for method in ("none", "bias", "least-squares")]
    assert errors[2] < errors[1] < errors[0], errors
    assert errors[2] < 0.6 * errors[0], errors


class Attention(nn.Module):
    """A pre-norm transformer layer on 8 tokens, with copies of heads and of neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(24, 16)
        self.first_norm, self.second_norm = nn.LayerNorm(16), nn.LayerNorm(16)
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        with torch.no_grad():
            for layer in (self.q, self.k, self.v):
                layer.weight[8:], layer.bias[8:] = layer.weight[:8], layer.bias[:8]
            self.up.weight[12:], self.up.bias[12:] = self.up.weight[:12], self.up.bias[:12]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x.permute(0, 2, 1, 3).flatten(2))
        h = self.first_norm(x)
        q, k, v = (layer(h).unflatten(-1, (4, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.second_norm(x))))


def test_copies_of_heads_and_neurons_are_taken_over() -> None:
    graph = _captured(lambda: Attention().eval())
    groups = axis_groups(graph)
    gone = {group.name: numpy.arange(group.size) >= group.size // 2 for group in groups if group.size in (4, 24)}
    assert len(gone) == 2, [repr(group) for group in groups]
    plain, _ = _after(graph, gone, "none", Context())
    mended, notes = _after(graph, gone, "least-squares", _context(_data()))
    assert _error(graph, plain) > 0.05
    assert _error(graph, mended) < 1e-4, notes


@pytest.mark.parametrize("method", METHODS)
def test_every_importance_ranks_every_group(method: str) -> None:
    graph = _captured(lambda: _settled(Residual(), torch.cat(_data())))
    groups = axis_groups(graph)
    scores = score(graph, groups, method, _context(_data(2)))
    assert set(scores) == set(groups)
    for group, numbers in scores.items():
        assert numbers.shape == (group.size,)
        assert numbers.dtype == numpy.float64
        assert len(numpy.unique(numbers)) == group.size
