"""Pieces, single samples and checkpoints: the gradients are those of the plain way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import graphopt
from graphopt.errors import UsageError
from graphopt.train import accumulate_gradients, checkpointed, fisher_diagonal, measure_training, per_sample_gradients, plan_checkpoints


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).double().eval()


def batch(rows: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 1, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (rows,), generator=generator)


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_pieces_have_the_gradients_of_the_large_batch(size: int) -> None:
    whole, pieces = network(), network()
    x, y = batch()
    loss = functional.cross_entropy(whole(x), y)
    loss.backward()
    found = accumulate_gradients(pieces, functional.cross_entropy, (x,), y, micro_batch=size)
    assert torch.allclose(found, loss, rtol=1e-14, atol=0)
    expected = gradients(whole)
    for name, gradient in gradients(pieces).items():
        assert torch.allclose(gradient, expected[name], rtol=1e-12, atol=1e-15)


class Dependent(nn.Module):
    """Has control flow that vmap can't follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return self.layer(x if bool(x.sum() > 0) else -x)


@pytest.mark.parametrize("make", [network, Dependent])
@pytest.mark.parametrize("chunk_bytes", [1, 2000, 1 << 20])
def test_gradients_of_single_samples(make: Callable[[], nn.Module], chunk_bytes: int) -> None:
    module = make()
    x, y = batch()
    chunks = list(per_sample_gradients(module, functional.cross_entropy, (x,), y, chunk_bytes=chunk_bytes))
    assert (len(chunks) == 7) == (chunk_bytes == 1)
    found = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    assert gradients(module) == {}
    fisher = fisher_diagonal(module, functional.cross_entropy, [((x[:3],), y[:3]), ((x[3:],), y[3:])], chunk_bytes=chunk_bytes)
    for row in range(7):
        module.zero_grad()
        functional.cross_entropy(module(x[row : row + 1]), y[row : row + 1]).backward()
        for name, gradient in gradients(module).items():
            assert torch.allclose(found[name][row], gradient, rtol=1e-10, atol=1e-14)
    for name, squares in fisher.items():
        assert torch.allclose(squares, found[name].square().mean(0), rtol=1e-12)


def test_what_mixes_rows_is_refused() -> None:
    module, (x, y) = network().train(), batch()
    with pytest.raises(UsageError, match=r"'1' is a batch norm with statistics of the batch it sees.*\n  fix: call module.eval\(\) first"):
        accumulate_gradients(module, functional.cross_entropy, (x,), y, micro_batch=2)
    accumulate_gradients(module, functional.cross_entropy, (x,), y, micro_batch=7)
    with pytest.raises(UsageError, match=r"'1' is a batch norm with statistics of the batch it sees: samples have"):
        next(per_sample_gradients(module, functional.cross_entropy, (x,), y))
    stateless = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, track_running_stats=False), nn.Linear(16, 3)).double().eval()
    with pytest.raises(UsageError, match=r"'1' is a batch norm with statistics"):
        accumulate_gradients(stateless, functional.cross_entropy, (x,), y, micro_batch=2)
    by_rows = nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Linear(16, 3)).double().train()
    accumulate_gradients(by_rows, functional.cross_entropy, (x,), y, micro_batch=2)


def test_batches_that_do_not_fit_say_so() -> None:
    module, (x, y) = network(), batch()
    with pytest.raises(UsageError, match=r"inputs is a tensor of shape \[3, 3\], needs .* in a tuple\n  fix: inputs=\(x,\)"):
        accumulate_gradients(module, functional.cross_entropy, torch.ones(3, 3), y[:3], micro_batch=1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match=r"inputs and targets have \[7, 3\] rows, need one number"):
        accumulate_gradients(module, functional.cross_entropy, (x,), y[:3], micro_batch=2)
    with pytest.raises(UsageError, match=r"inputs and targets have \[0, 0\] rows"):
        next(per_sample_gradients(module, functional.cross_entropy, (x[:0],), y[:0]))
    with pytest.raises(UsageError, match=r"micro_batch is 0, needs at least 1"):
        accumulate_gradients(module, functional.cross_entropy, (x,), y, micro_batch=0)
    with pytest.raises(UsageError, match=r"no parameter of the module requires a gradient"):
        next(per_sample_gradients(module.requires_grad_(False), functional.cross_entropy, (x,), y))
    with pytest.raises(UsageError, match=r"there are no batches to take gradients of"):
        fisher_diagonal(network(), functional.cross_entropy, [])


class Residual(nn.Module):
    """Blocks of unequal width with a path around each, dropout and batch norm."""

    def __init__(self, blocks: int = 6, width: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 3 * width, 3, padding=1), nn.BatchNorm2d(3 * width), nn.GELU(), nn.Conv2d(3 * width, width, 1))
            for _ in range(blocks)
        )
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        for block in self.blocks:
            x = x + self.dropout(block(x))
        return {"map": x, "mean": x.mean((2, 3))}


@pytest.fixture(scope="module", params=[False, True], ids=["static", "symbolic"])
def graph(request: pytest.FixtureRequest) -> graphopt.Graph:
    torch.manual_seed(0)
    dynamic: Any = {"x": {0: "batch"}} if request.param else None
    return graphopt.capture(Residual().eval(), (torch.randn(4, 8, 12, 12),), dynamic=dynamic)


def trained(module: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients and buffers after one step in train mode."""
    module = copy.deepcopy(module).train()
    torch.manual_seed(3)
    found = module(x)
    (found["map"].square().mean() + found["mean"].sum()).backward()
    return gradients(module) | {name: buffer.clone() for name, buffer in module.named_buffers()}


def test_checkpoints_change_no_gradient_and_no_statistic(graph: graphopt.Graph) -> None:
    dims = dict.fromkeys(graph.symbols, 4)
    plan = plan_checkpoints(graph, dims=dims)
    assert plan.again >= 2
    module = checkpointed(graph, plan)
    x = torch.randn(4, 8, 12, 12)
    expected, found = trained(graph.to_module(), x), trained(module, x)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.allclose(tensor, found[name], rtol=1e-4, atol=1e-6), name
    assert list(module.state_dict()) == list(graph.to_module().state_dict())
    with torch.no_grad():
        assert torch.allclose(module(x)["map"], graph.to_module()(x)["map"], atol=1e-6)


def test_plans_keep_to_their_budget(graph: graphopt.Graph) -> None:
    dims = dict.fromkeys(graph.symbols, 4)
    least = plan_checkpoints(graph, dims=dims)
    assert least.bytes < 0.5 * least.without
    middle = (least.bytes + least.without) // 2
    plan = plan_checkpoints(graph, budget=middle, dims=dims)
    assert plan.bytes <= middle
    assert 0 < sum(segment.last - segment.first + 1 for segment in plan.segments if segment.again) < graph.node_count
    assert plan_checkpoints(graph, budget=least.without, dims=dims).again == 0
    assert [segment.first for segment in plan.segments[1:]] == [segment.last + 1 for segment in plan.segments[:-1]]
    with pytest.raises(UsageError, match=r"need .* at least with checkpoints, 1.*B are allowed\n  fix: use smaller batches"):
        plan_checkpoints(graph, budget=1, dims=dims)
    assert str(plan).startswith(f"{len(plan.segments)} segments, {plan.again} run again: about ")


def test_measured_memory_falls_as_planned() -> None:
    torch.manual_seed(0)
    graph = graphopt.capture(Residual(blocks=8).eval(), (torch.randn(8, 8, 24, 24),))
    plan = plan_checkpoints(graph)
    x = torch.randn(8, 8, 24, 24)
    plain, less = (measure_training(module.train(), x, repeats=1) for module in (graph.to_module(), checkpointed(graph, plan)))
    assert less.peak_bytes < 0.7 * plain.peak_bytes
    assert plain.milliseconds > 0
    assert "peak" in str(less)


def test_plans_need_sizes_and_their_own_graph(graph: graphopt.Graph) -> None:
    if graph.symbols:
        with pytest.raises(UsageError, match=r"the size of %.* is not known\n  fix: give sizes of its symbols: dims="):
            plan_checkpoints(graph)
        return
    other = graphopt.capture(nn.Linear(2, 2).eval(), (torch.randn(1, 2),))
    with pytest.raises(UsageError, match=r"the plan is for \d+ nodes, graph '.*' has 1"):
        checkpointed(other, plan_checkpoints(graph))
