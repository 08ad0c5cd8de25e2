"""Zeros stay +0.0, bit for bit; everything else is what torch computes."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import graphopt
from graphopt.errors import UsageError
from graphopt.ir.types import Sparsity, SparsityPattern
from graphopt.rewrite.rewriter import Rewriter
from graphopt.train import SparseAdamW, SparseSGD, masks_of

Make = Callable[..., Any]

SGD: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
ADAMW: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}
KINDS = [
    pytest.param(SparseSGD, torch.optim.SGD, SGD, id="nesterov"),
    pytest.param(SparseSGD, torch.optim.SGD, {**SGD, "nesterov": False, "foreach": True}, id="foreach"),
    pytest.param(SparseSGD, torch.optim.SGD, {**SGD, "fused": True}, id="fused"),
    pytest.param(SparseAdamW, torch.optim.AdamW, ADAMW, id="adamw"),
    pytest.param(SparseAdamW, torch.optim.AdamW, {**ADAMW, "foreach": True}, id="adamw-foreach"),
]


class Network(nn.Module):
    """Two layers of which some weights are zero."""

    def __init__(self, seed: int, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        if sparse:
            with torch.no_grad():
                for weight in (self.first.weight, self.second.weight):
                    weight[torch.rand_like(weight) < 0.6] = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).tanh())


def network(seed: int = 0, sparse: bool = True) -> Network:
    return Network(seed, sparse)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(4, 6, generator=generator), torch.randint(0, 3, (4,), generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(module(x), y).backward()
        optimizer.step()


def bits(module: nn.Module) -> list[bytes]:
    return [parameter.detach().numpy().tobytes() for parameter in module.parameters()]


@pytest.mark.parametrize(("sparse", "dense", "options"), KINDS)
def test_zeros_are_positive_zero_after_a_thousand_steps(sparse: Make, dense: Make, options: dict[str, Any]) -> None:
    module = network()
    masks = masks_of(module)
    before = bits(module)
    optimizer = sparse(module.parameters(), **options)
    train(module, optimizer, 1000)
    parameters = dict(module.named_parameters())
    assert sorted(masks) == ["first.weight", "second.weight"]
    for name, mask in masks.items():
        assert (parameters[name].detach()[~mask].view(torch.int32) == 0).all()
        assert bool((parameters[name][mask] != 0).all())
        for value in optimizer.state[parameters[name]].values():
            if value.shape == mask.shape:
                assert (value[~mask].view(torch.int32) == 0).all()
    assert bits(module) != before


@pytest.mark.parametrize(("sparse", "dense", "options"), KINDS)
def test_dense_parameters_are_trained_as_torch_trains_them(sparse: Make, dense: Make, options: dict[str, Any]) -> None:
    ours, theirs = network(sparse=False), network(sparse=False)
    train(ours, sparse(ours.parameters(), **options), 50)
    train(theirs, dense(theirs.parameters(), **options), 50)
    assert bits(ours) == bits(theirs)


@pytest.mark.parametrize(("sparse", "dense", "options"), KINDS)
def test_resuming_changes_no_bit(sparse: Make, dense: Make, options: dict[str, Any]) -> None:
    module = network()
    optimizer = sparse(module.parameters(), **options)
    train(module, optimizer, 20)
    file = io.BytesIO()
    torch.save({"module": module.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(module, optimizer, 20, start=20)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = network(seed=7, sparse=False)
    again = sparse(resumed.parameters(), **options)
    resumed.load_state_dict(saved["module"])
    again.load_state_dict(saved["optimizer"])
    train(resumed, again, 20, start=20)
    assert bits(resumed) == bits(module)
    assert all(torch.equal(a, b) for a, b in zip(again.masks.values(), optimizer.masks.values(), strict=True))


def test_masks_take_one_bit_per_weight_in_the_state_dict() -> None:
    packed = SparseSGD(network().parameters()).state_dict()["masks"]
    assert {index: (entry["shape"], entry["bits"].dtype, entry["bits"].numel()) for index, entry in packed.items()} == {
        0: ([8, 6], torch.uint8, 6),
        2: ([3, 8], torch.uint8, 3),
    }


def test_a_state_dict_of_torch_leaves_the_masks_that_are() -> None:
    module = network()
    optimizer = SparseSGD(module.parameters(), **SGD)
    masks = list(optimizer.masks.values())
    dense = torch.optim.SGD(module.parameters(), **SGD)
    train(module, dense, 1)
    optimizer.load_state_dict(dense.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(masks, optimizer.masks.values(), strict=True))
    buffer = optimizer.state[module.first.weight]["momentum_buffer"]
    assert not buffer[~masks[0]].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0])
@pytest.mark.parametrize("make", [SparseSGD, SparseAdamW])
def test_gradients_of_masked_weights_never_come_through(make: Make, value: float) -> None:
    weight = nn.Parameter(torch.tensor([[1.0, -0.0], [0.0, 2.0]]))
    optimizer = make([weight], lr=0.1, weight_decay=0.1)
    assert (weight.detach().view(torch.int32)[[0, 1], [1, 0]] == 0).all()  # -0.0 was made 0.0
    for _ in range(3):
        weight.grad = torch.tensor([[0.5, value], [value, -0.5]])
        optimizer.step()
    assert (weight.detach().view(torch.int32)[[0, 1], [1, 0]] == 0).all()
    assert bool(weight.isfinite().all())


def test_a_gradient_of_nan_for_a_kept_weight_is_passed_on() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, 0.0]]))
    weight.grad = torch.tensor([[float("nan"), 1.0]])
    SparseSGD([weight], lr=0.1).step()
    assert weight[0, 0].isnan()
    assert weight[0, 1] == 0


def test_what_starts_at_zero_is_trained() -> None:
    module = nn.ParameterDict({"bias": torch.zeros(3), "gate": torch.tensor([0.0, 1.0]), "adapter": torch.zeros(2, 2)})
    assert SparseSGD(module.parameters()).masks == {}


def test_a_copy_of_an_optimizer_keeps_zeros_too() -> None:
    first = network()
    module, optimizer = copy.deepcopy((first, SparseSGD(first.parameters(), **SGD)))
    masks = masks_of(module)
    train(module, optimizer, 5)
    assert all(torch.equal(mask, masks_of(module)[name]) for name, mask in masks.items())
    assert optimizer.masks.keys() == {module.first.weight, module.second.weight}


def test_closures_groups_and_schedulers() -> None:
    module, plain = network(), network()
    losses: list[float] = []

    def run(module: Network, make: Make) -> None:
        groups = [{"params": [module.first.weight], "lr": 0.1}, {"params": [module.first.bias, *module.second.parameters()]}]
        optimizer = make(groups, lr=0.01, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        x = torch.ones(2, 6)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = module(x).square().mean()
            loss.backward()
            return loss

        for _ in range(6):
            losses.append(optimizer.step(closure).item())
            scheduler.step()
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0125, 0.00125])

    masks = masks_of(module)
    run(module, SparseSGD)
    assert all(torch.equal(mask, masks_of(module)[name]) for name, mask in masks.items())
    run(plain, torch.optim.SGD)
    assert losses[0] == losses[6]


def test_a_group_added_later_is_masked_by_the_same_rule() -> None:
    module = network()
    optimizer = SparseSGD(module.first.parameters(), **SGD)
    optimizer.add_param_group({"params": list(module.second.parameters())})
    assert optimizer.masks.keys() == {module.first.weight, module.second.weight}


def test_regrown_weights_start_without_momentum() -> None:
    module = network()
    optimizer = SparseSGD(module.parameters(), **SGD)
    train(module, optimizer, 5)
    weight = module.first.weight
    old = optimizer.masks[weight]
    optimizer.set_mask(weight, torch.ones_like(old))
    assert not weight[~old].any()
    assert not optimizer.state[weight]["momentum_buffer"][~old].any()
    train(module, optimizer, 1)
    assert int((weight[~old] != 0).sum()) > 10


def test_masks_by_name_and_by_parameter() -> None:
    mask = torch.arange(48).reshape(8, 6) % 2 == 0
    for wrapped in (False, True):
        module = network(sparse=False)
        named = (nn.ModuleDict({"module": module}) if wrapped else module).named_parameters()
        assert torch.equal(SparseAdamW(named, masks={"first.weight": mask}).masks[module.first.weight], mask)
        assert not module.first.weight[~mask].any()
    module = network(sparse=False)
    assert torch.equal(SparseAdamW(module.parameters(), masks={module.first.weight: mask}).masks[module.first.weight], mask)
    assert SparseAdamW(network().parameters(), masks={}).masks == {}


@pytest.fixture
def annotated() -> graphopt.Graph:
    """A linear layer of 4x4 with one 2x2 block of zeros and a zero inside a kept block."""
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight[:2, :2] = 0.0
        layer.weight[3, 3] = 0.0
    graph = graphopt.capture(nn.Sequential(layer).eval(), (torch.randn(1, 4),))
    annotation = Sparsity(SparsityPattern.BLOCK, 0.25, (2, 2))
    type_ = replace(graph.states["0.weight"].type, sparsity=annotation)
    Rewriter(graph).replace_state("0.weight", lambda old: old, type_, exact=True)
    return graph


def test_annotations_say_which_zeros_stay(annotated: graphopt.Graph) -> None:
    mask = masks_of(annotated)["0.weight"]
    assert mask.tolist() == [[False, False, True, True]] * 2 + [[True] * 4] * 2
    module = annotated.to_module()
    wrapped = nn.ModuleDict({"student": module})
    assert torch.equal(masks_of(copy.deepcopy(wrapped))["student.0.weight"], mask)
    for optimizer in (
        SparseSGD(module.parameters(), masks=module),
        SparseSGD(module.named_parameters(), masks=annotated),
        SparseSGD(wrapped.parameters(), masks=wrapped),
    ):
        assert torch.equal(next(iter(optimizer.masks.values())), mask)


def test_masks_of_a_copy_are_refused_and_those_of_frozen_layers_are_not_needed(annotated: graphopt.Graph) -> None:
    module = annotated.to_module()
    with pytest.raises(
        UsageError, match=r"masks is a .* with 1 sparse parameters, and none of its parameters is optimised\n  fix: give the mod"
    ):
        SparseSGD(copy.deepcopy(module).parameters(), masks=module)
    with pytest.raises(UsageError, match=r"given for '0.weight', and the optimizer knows no names"):
        SparseSGD(copy.deepcopy(module).parameters(), masks=annotated)
    bias = [(name, parameter) for name, parameter in module.named_parameters() if name == "0.bias"]
    for masks in (module, annotated):
        assert SparseSGD(bias, masks=masks).masks == {}


def test_masks_that_do_not_fit_say_so() -> None:
    module = network()
    with pytest.raises(UsageError, match=r"the mask is float32\[8, 6\], needs bool\[8, 6\]"):
        SparseSGD(module.named_parameters(), masks={"first.weight": torch.ones(8, 6)})
    with pytest.raises(UsageError, match=r"the mask is bool\[6\], needs bool\[8, 6\]"):
        SparseSGD(module.named_parameters(), masks={"first.weight": torch.ones(6, dtype=torch.bool)})
    with pytest.raises(UsageError, match=r"given for 'first.wieght', which no parameter is called\n  fix: names are first.weight"):
        SparseSGD(module.named_parameters(), masks={"first.wieght": torch.ones(8, 6, dtype=torch.bool)})
    with pytest.raises(UsageError, match=r"the optimizer knows no names\n  fix: pass module.named_parameters"):
        SparseSGD(module.parameters(), masks={"first.weight": torch.ones(8, 6, dtype=torch.bool)})
    with pytest.raises(UsageError, match=r"a parameter of shape \[2\] that is not optimised"):
        SparseSGD(module.parameters(), masks={nn.Parameter(torch.ones(2)): torch.ones(2, dtype=torch.bool)})
    with pytest.raises(UsageError, match=r"a parameter of shape \[2\] that is not optimised"):
        SparseSGD(module.parameters()).set_mask(torch.ones(2), None)
    with pytest.raises(UsageError, match=r"masks can't be read from a int"):
        masks_of(3)  # pyright: ignore[reportArgumentType]


def test_what_is_no_mask_is_refused_with_what_would_be_one(annotated: graphopt.Graph) -> None:
    result: Any = graphopt.optimize(annotated, ["annotate-sparsity"])
    layer = nn.Linear(4, 4)
    given: list[tuple[Any, str]] = [
        (result, "masks is a Result, needs a module, a graph, or bool tensors by name or parameter\n  fix: masks=result.graph"),
        ("weight", "masks is a str, needs a module, a graph, or bool tensors"),
        (
            {"weight": [[True] * 4] * 4},
            "the mask of a parameter of shape [4, 4] is a list, needs a bool tensor\n  fix: give torch.as_tensor",
        ),
    ]
    for masks, says in given:
        with pytest.raises(UsageError) as caught:
            SparseSGD(layer.named_parameters(), lr=0.1, masks=masks)
        assert says in str(caught.value)
    with pytest.raises(UsageError, match=r"masks can't be read from a Result, needs a module or a graph\n  fix: masks_of\(result.module\)"):
        masks_of(result)


def test_a_graph_without_numbers_has_no_masks() -> None:
    text = """graph g(%x: f32[1,4]) {
  param %w: f32[4,4] sparse<unstructured 0.5>
  %y: f32[1,4] = linear(%x, %w, none)
  return %y
}
"""
    with pytest.raises(UsageError, match=r"%w is annotated sparse<unstructured 0.5> and has no numbers"):
        masks_of(graphopt.parse(text))
