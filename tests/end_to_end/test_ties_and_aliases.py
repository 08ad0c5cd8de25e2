"""Tied and aliased tensors: as many distinct memories after capture, saving, loading and training as before."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

import graphopt
from graphopt.ir.graph import Graph

Case = tuple[nn.Module, tuple[torch.Tensor, ...]]


class LanguageModel(nn.Module):
    """The head reads the table of the embedding; a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(self.embed(tokens))))


class Twice(nn.Module):
    """One module, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.relu(self.layer(x)))


class TwoPaths(nn.Module):
    """One module under two names, one of them in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.others = nn.ModuleList([nn.Linear(3, 3), self.first])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for layer in self.others:
            x = torch.relu(layer(x))
        return x


class SharedBias(nn.Module):
    """Two layers with one bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.bias = self.a.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


class SharedNorm(nn.Module):
    """One batch norm behind two convolutions, which both could take it in."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.b(torch.relu(self.norm(self.a(x)))))


class Transposed(nn.Module):
    """A decoder that uses the encoder's weight, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 2)
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(torch.relu(self.encoder(x)), self.encoder.weight.t(), self.bias)


class Parts(nn.Module):
    """Two parameters that are parts of one memory, as flattened optimisers leave them."""

    def __init__(self) -> None:
        super().__init__()
        memory = torch.randn(18)
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.a.weight, self.b.weight = nn.Parameter(memory[:9].view(3, 3)), nn.Parameter(memory[9:].view(3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


class SameMemory(nn.Module):
    """Two parameter objects on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = nn.Parameter(self.a.weight.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


class Expanded(nn.Module):
    """A parameter and a buffer with strides of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(1).expand(3))
        self.shift = nn.Buffer(torch.randn(2, 1).expand(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.shift


class TiedBuffers(nn.Module):
    """One buffer under two names, and a parameter that a list holds twice."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.randn(3))
        self.inner = nn.Module()
        self.inner.register_buffer("mean", self.mean)
        weight = nn.Parameter(torch.randn(3))
        self.weights = nn.ParameterList([weight, nn.Parameter(torch.randn(3)), weight])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x - self.mean
        for weight in self.weights:
            x = x * weight
        return x + self.inner.get_buffer("mean")


class Unused(nn.Module):
    """A tie of which only the second name is read, and a parameter that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3)
        self.busy = nn.Linear(3, 3)
        self.busy.weight = self.idle.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.busy(x)


class Recurrent(nn.Module):
    """Two cells of a recurrent network with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.GRU(3, 3, batch_first=True), nn.GRU(3, 3, batch_first=True)
        for name in ("weight_ih_l0", "weight_hh_l0"):
            setattr(self.b, name, getattr(self.a, name))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x)[0])[0]


def case(make: Callable[[], nn.Module], *inputs: torch.Tensor) -> Case:
    torch.manual_seed(0)
    return make().eval(), inputs or (torch.randn(2, 3),)


CASES: dict[str, Callable[[], Case]] = {
    "embedding and head": lambda: case(LanguageModel, torch.tensor([[1, 2, 5]])),
    "module twice": lambda: case(Twice),
    "module at two paths": lambda: case(TwoPaths),
    "shared bias": lambda: case(SharedBias),
    "shared norm": lambda: case(SharedNorm, torch.randn(1, 2, 3, 3)),
    "transposed": lambda: case(Transposed, torch.randn(2, 4)),
    "parts of one memory": lambda: case(Parts),
    "two objects, one memory": lambda: case(SameMemory),
    "expanded": lambda: case(Expanded),
    "buffers and lists": lambda: case(TiedBuffers),
    "unused first name": lambda: case(Unused),
    "recurrent": lambda: case(Recurrent, torch.randn(1, 2, 3)),
}

SPLIT_WHEN_STORED = {"parts of one memory"}
"""Cases whose states each have a memory of their own after loading: files hold whole tensors."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: threads cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return cast("str", request.param)


def memories(module: nn.Module) -> int:
    """Number of distinct memories behind parameters and buffers."""
    return len({tensor.untyped_storage().data_ptr() for tensor in module.state_dict(keep_vars=True).values()})


def tensors(module: nn.Module) -> int:
    """Number of distinct tensors: memories, and where in them."""
    found = module.state_dict().values()
    return len({(t.data_ptr(), t.shape, t.stride()) for t in found})


def ties(module: nn.Module) -> set[frozenset[str]]:
    """Groups of names that are one tensor."""
    groups: dict[object, set[str]] = {}
    for key, tensor in module.state_dict().items():
        groups.setdefault((tensor.data_ptr(), tensor.shape), set()).add(key)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def through_file(graph: Graph, folder: Path) -> Graph:
    graph.save(folder)
    loaded = graphopt.load(folder)
    assert isinstance(loaded, Graph)
    return loaded


def test_memories_names_and_ties_stay(name: str, tmp_path: Path) -> None:
    model, inputs = CASES[name]()
    keys, wanted, before = sorted(model.state_dict()), model(*inputs), copy.deepcopy(model.state_dict())
    graph = graphopt.capture(model, inputs)
    module, loaded = graph.to_module(), through_file(graph, tmp_path / "graph").to_module()
    assert memories(module) == memories(model)
    assert memories(loaded) == (tensors(model) if name in SPLIT_WHEN_STORED else memories(model))
    for made in (module, loaded):
        assert sorted(made.state_dict()) == keys
        assert ties(made) == ties(model)
        assert torch.equal(made(*inputs), wanted)
        assert len(list(made.parameters())) <= len(list(model.parameters()))
        made.load_state_dict(model.state_dict())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_numbers_are_the_models_own(name: str) -> None:
    model, inputs = CASES[name]()
    module = graphopt.capture(model, inputs).to_module()
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert {tensor.data_ptr() for tensor in module.state_dict().values()} == own


def test_optimising_changes_neither_model_nor_inputs(name: str) -> None:
    model, inputs = CASES[name]()
    before, given, wanted = copy.deepcopy(model.state_dict()), [each.clone() for each in inputs], model(*inputs)
    result = graphopt.optimize(model, example_inputs=inputs)
    assert not result.pipeline.failures
    executables = [graphopt.lower(result.graph, target) for target in ("reference", "torch", "onnxruntime")]
    for run in (result.module, *executables):
        torch.testing.assert_close(run(*inputs), wanted, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert all(map(torch.equal, given, inputs))


def test_optimised_artifact_holds_each_tie_once(name: str, tmp_path: Path) -> None:
    model, inputs = CASES[name]()
    result = graphopt.optimize(model, example_inputs=inputs)
    loaded = through_file(result.graph, tmp_path / "graph").to_module()
    assert memories(loaded) <= memories(result.module) or name in SPLIT_WHEN_STORED
    assert ties(loaded) == ties(result.module)
    torch.testing.assert_close(loaded(*inputs), result.module(*inputs), rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in CASES if name != "expanded"])
def test_training_keeps_ties(name: str, tmp_path: Path) -> None:
    """Three steps give what the original gives; numbers on strides of zero can't be trained in torch."""
    model, inputs = CASES[name]()
    captured, loaded = (graphopt.capture(CASES[name]()[0], inputs) for _ in range(2))
    modules = [model, captured.to_module(), through_file(loaded, tmp_path / "graph").to_module()]
    for module in modules:
        module.train()
        optimiser = torch.optim.SGD(module.parameters(), lr=0.05)
        for _ in range(3):
            optimiser.zero_grad()
            module(*inputs).square().sum().backward()
            optimiser.step()
    for module in modules[1:]:
        assert ties(module) == ties(modules[0])
        for key, tensor in modules[0].state_dict().items():
            torch.testing.assert_close(module.state_dict()[key], tensor, msg=lambda text, key=key: f"{key}: {text}")


def test_training_pipeline_keeps_ties(name: str) -> None:
    model, inputs = CASES[name]()
    result = graphopt.optimize(model, ["lossless-training"], example_inputs=inputs, keep_trainable=True)
    assert sorted(result.module.state_dict()) == sorted(model.state_dict())
    assert ties(result.module) == ties(model)
