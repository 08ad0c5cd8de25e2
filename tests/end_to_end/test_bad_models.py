"""Models in odd states and with odd outputs: each gets one clear error, or works."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphopt
from graphopt.backends.base import Executable
from graphopt.errors import (
    ExampleInputError,
    GraphoptWarning,
    UnsupportedModelError,
)
from graphopt.ir.graph import Graph
from tests.support.small_models import IMAGE, TARGETS, Sum, X, everywhere, linear, network, quantised


def test_train_mode_is_told_and_restored() -> None:
    model = network().train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    with pytest.warns(GraphoptWarning, match=r"train mode \(6 of 7 modules\): it is captured in eval mode, and left in train mode"):
        result = graphopt.optimize(model, ["lossless-training"], example_inputs=(IMAGE,), keep_trainable=True)
    assert [module.training for module in model.modules()] == modes
    module = result.module
    assert not module.training
    torch.testing.assert_close(module(IMAGE), model.eval()(IMAGE))
    optimiser = torch.optim.SGD(module.train().parameters(), lr=0.1)
    before = module(IMAGE).square().mean()
    assert not torch.equal(module(IMAGE), module(IMAGE)), "dropout follows train()"
    before.backward()
    optimiser.step()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_eval_mode_is_not_warned_about() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", GraphoptWarning)
        graphopt.capture(network(), (IMAGE,))


def test_modes_are_restored_after_an_error() -> None:
    model = network().train()
    with pytest.warns(GraphoptWarning), pytest.raises(ExampleInputError):
        graphopt.capture(model, (X,))
    assert all(module.training for module in model.modules())


def test_meta_models() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'weight' is on the meta device and has no numbers(.|\n)*to_empty"):
        graphopt.optimize(nn.Linear(3, 2, device="meta").eval(), example_inputs=(X.to("meta"),))
    result = graphopt.optimize(Sum().eval(), example_inputs=(X.to("meta"), X.to("meta")))
    assert result.module(X, X)[1].shape == (2, 3), "a model without parameters has all its numbers"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("convert", "text"),
    [
        (torch.Tensor.to_sparse, r"'mask' has the layout torch\.sparse_coo, needs torch\.strided(.|\n)*mask\.to_dense\(\)"),
        (torch.Tensor.to_sparse_csr, r"'mask' has the layout torch\.sparse_csr"),
        (torch.Tensor.to_mkldnn, r"'mask' has the layout torch\._mkldnn"),
        (quantised, r"'mask' is quantised(.|\n)*before quantisation"),
    ],
)
def test_tensors_that_are_not_dense(convert: Callable[[torch.Tensor], torch.Tensor], text: str) -> None:
    model = linear()
    model.register_buffer("mask", convert(torch.eye(3)))
    with pytest.raises(UnsupportedModelError, match=text):
        graphopt.optimize(model, example_inputs=(X,))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -0.0, 1e-40])
@pytest.mark.parametrize("key", ["0.weight", "1.weight", "1.running_mean", "1.running_var", "5.bias"])
def test_special_weights(key: str, number: float, tmp_path: Path) -> None:
    model = network()
    model.state_dict()[key].view(-1)[0] = number
    everywhere(model, (IMAGE,), tmp_path)


class Empty(nn.Module):
    """Layers without features, an empty parameter, and their outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Linear(3, 0), nn.Linear(0, 2)
        self.rows = nn.Parameter(torch.zeros(0, 3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.wide(self.narrow(x)), torch.cat([x, self.rows]), (x @ self.rows.t()).sum(-1), self.rows


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_empty_weights(tmp_path: Path) -> None:
    everywhere(Empty().eval(), (X,), tmp_path)


def test_weights_and_inputs_in_odd_orders_of_memory(tmp_path: Path) -> None:
    model = network().to(memory_format=torch.channels_last)
    model[5].weight = nn.Parameter(torch.randn(16, 2).t())
    everywhere(model, (IMAGE.to(memory_format=torch.channels_last),), tmp_path / "a")
    everywhere(linear(), (torch.randn(3, 4).t()[::2],), tmp_path / "b")
    everywhere(linear(), (torch.randn(1, 3).expand(4, 3),), tmp_path / "c")


class Outputs(nn.Module):
    """Outputs that are inputs, parameters, buffers and views of them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.table = nn.Parameter(torch.randn(3)), nn.Buffer(torch.randn(2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x, self.weight, self.table, self.weight.view(1, 3), x.view(-1), x


class Constant(nn.Module):
    """No input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self) -> torch.Tensor:
        return self.weight * 2


def test_outputs_that_nothing_computes(tmp_path: Path) -> None:
    everywhere(Outputs().eval(), (X,), tmp_path / "a")
    everywhere(Constant().eval(), (), tmp_path / "b")
    everywhere(nn.Identity().eval(), (X,), tmp_path / "c")


def test_results_are_not_the_callers_memory() -> None:
    executable = graphopt.lower(graphopt.capture(nn.Identity().eval(), (X,)), "onnxruntime")
    x = X.clone()
    executable(x).zero_()
    assert torch.equal(x, X)


class WritesInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return x * 2


class WritesParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.weight.add_(1)
        return x * self.weight


class WritesBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = nn.Buffer(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize("make", [WritesInput, WritesParameter])
def test_writes_are_told_and_left_out(make: Callable[[], nn.Module]) -> None:
    model, x = make().eval(), X.clone()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.warns(GraphoptWarning, match="forward changes tensors in place that it does not own: '(x|weight)'"):
        graph = graphopt.capture(model, (x,))
    assert torch.equal(x, X)
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
    wanted = model(X.clone())
    for run in (graph.to_module(), *(graphopt.lower(graph, target) for target in TARGETS)):
        for _ in range(2):
            torch.testing.assert_close(run(x), wanted)
        assert torch.equal(x, X)


def test_writes_to_buffers_are_refused() -> None:
    model = WritesBuffer().eval()
    with pytest.raises(UnsupportedModelError, match=r"forward changes the buffer 'calls' in place(.|\n)*test_bad_models\.py:\d+(.|\n)*fix"):
        graphopt.capture(model, (X,))
    assert model.calls.item() == 0


@dataclass
class Answer:
    logits: torch.Tensor
    size: int


def returns_answer(y: torch.Tensor) -> Answer:
    return Answer(y, 3)


def returns_set(_: torch.Tensor) -> set[int]:
    return {1, 2}


def returns_numbered(y: torch.Tensor) -> dict[int, torch.Tensor]:
    return {3: y}


class Returns(nn.Module):
    def __init__(self, make: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor) -> Any:
        return self.make(x + 1)


RETURNED: dict[str, Callable[[torch.Tensor], Any]] = {
    "none": lambda _: None,
    "integer": lambda _: 3,
    "empty": lambda _: (),
    "mixed": lambda y: (y, None, 3, {"a": {"b": [y, 2.5, "s", True], "": {}}}),
    "sizes": lambda y: (y, y.shape[0], {"shape": tuple(y.shape)}),
    "twice": lambda y: [y, y],
    "odd keys": lambda y: {'a"\n*/\0\u202e': y, "class": y * 2},
}


@pytest.mark.parametrize("kind", RETURNED)
def test_outputs_of_any_structure(kind: str, tmp_path: Path) -> None:
    model = Returns(RETURNED[kind]).eval()
    graph, wanted = graphopt.capture(model, (X,)), model(X)
    assert str(graphopt.parse(str(graph))) == str(graph)
    executables = [graphopt.lower(graph, target) for target in TARGETS]
    executables[2].save(tmp_path / "executable")
    graph.save(tmp_path / "graph")
    loaded, again = graphopt.load(tmp_path / "graph"), graphopt.load(tmp_path / "executable")
    assert isinstance(loaded, Graph)
    assert isinstance(again, Executable)
    for run in (graph.to_module(), *executables, loaded.to_module(), again):
        found = run(X)
        assert pytree.tree_structure(found) == pytree.tree_structure(wanted)
        for leaf, other in zip(pytree.tree_leaves(found), pytree.tree_leaves(wanted), strict=True):
            assert torch.equal(leaf, other) if isinstance(other, torch.Tensor) else leaf == other


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (returns_answer, r"returns a class that torch can't take apart(.|\n)*Answer(.|\n)*register_dataclass"),
        (returns_set, r"returns a class that torch can't take apart(.|\n)*set"),
        (returns_numbered, r"a dict has the keys \[3\], needs strings"),
    ],
)
def test_outputs_that_no_graph_can_return(make: Callable[[torch.Tensor], Any], text: str) -> None:
    with pytest.raises(UnsupportedModelError, match=text):
        graphopt.capture(Returns(make).eval(), (X,))
