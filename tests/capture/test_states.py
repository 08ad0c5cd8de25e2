from __future__ import annotations

import pytest
import torch
from torch import nn

from graphopt.capture import capture
from graphopt.errors import GraphoptWarning, UnsupportedModelError
from tests.support.capturing import capture_checked, run


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.first = nn.Linear(4, 4)
        self.second = self.first
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.unused = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(self.embed(ids))) + self.table)


def test_states_follow_state_dict_and_keep_ties() -> None:
    model = Tied()
    graph = capture_checked(model, (torch.tensor([[1, 2, 3]]),))
    assert list(graph.states) == ["unused", "table", "embed.weight", "first.weight", "first.bias"]
    assert [name for name in model.state_dict() if name in graph.states] == [name for name in graph.states if name != "table"]
    assert graph.states["embed.weight"].tied == ("head.weight",)
    assert graph.states["first.weight"].tied == ("second.weight",)
    assert not graph.states["unused"].trainable
    assert graph.states["first.bias"].trainable
    assert (graph.states["table"].kind, graph.states["table"].persistent) == ("buffer", False)


def test_equal_numbers_in_two_places_are_no_tie() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].load_state_dict(model[0].state_dict())
    assert [state.tied for state in capture_checked(model, (torch.randn(1, 2),)).states.values()] == [(), ()]


def test_two_views_of_one_memory_are_two_states() -> None:
    flat = torch.randn(8)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[0].weight = nn.Parameter(flat[:4].view(2, 2))
    model[1].weight = nn.Parameter(flat[4:].view(2, 2))
    graph = capture_checked(model, (torch.randn(1, 2),))
    assert len(graph.states) == 2


class Cached(nn.Module):
    """Keeps a tensor that it computed from a parameter, as some attention biases are kept in eval mode."""

    def __init__(self, clears: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(4))
        self.cache: dict[str, torch.Tensor] = {}
        self.clears = clears

    def train(self, mode: bool = True) -> Cached:
        if mode and self.clears:
            self.cache = {}
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias[[0, 1, 2, 3]] * 2
        return x + self.cache["bias"]


def test_caches_that_train_mode_clears_are_cleared_before_and_after() -> None:
    model, x = Cached(clears=True).eval(), torch.randn(2, 4)
    with torch.no_grad():
        wanted = model(x)
    graph = capture(model, (x,))
    assert graph.states["bias"].value.use_count == 1
    torch.testing.assert_close(run(graph, (x,))[0], wanted)
    with torch.no_grad():
        torch.testing.assert_close(model(x), wanted)


def test_a_cache_that_stays_is_told() -> None:
    model, x = Cached(clears=False).eval(), torch.randn(2, 4)
    with torch.no_grad():
        model(x)
    with pytest.warns(GraphoptWarning, match="does not read the parameters bias, and holds 1 constant"):
        capture(model, (x,))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.Linear(2, 2, device="meta"), "'weight' is on the meta device"),
        (nn.LazyLinear(2), "'weight' is not initialised"),
    ],
)
def test_parameters_without_numbers(model: nn.Module, text: str) -> None:
    with pytest.raises(UnsupportedModelError, match=text):
        capture(model.eval(), (torch.randn(1, 2),))


def test_sparse_and_quantised_tensors_are_named() -> None:
    model = nn.Linear(2, 2).eval()
    model.register_buffer("mask", torch.eye(2).to_sparse())
    with pytest.raises(UnsupportedModelError, match=r"'mask' has the layout torch\.sparse_coo"):
        capture(model, (torch.randn(1, 2),))
    model.register_buffer("mask", torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8))
    with pytest.raises(UnsupportedModelError, match="'mask' is quantised"):
        capture(model, (torch.randn(1, 2),))


def test_odd_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 0), nn.Linear(0, 2))
    turned = nn.Linear(3, 2)
    turned.weight = nn.Parameter(torch.randn(3, 2).t())
    with torch.no_grad():
        turned.weight[0, 0] = float("nan")
    capture_checked(model, (torch.randn(2, 3),))
    capture_checked(turned, (torch.randn(2, 3),))


def test_input_called_like_a_buffer() -> None:
    class Same(nn.Module):
        x: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("y", torch.ones(2))

        def forward(self, y: torch.Tensor) -> torch.Tensor:
            return y + self.get_buffer("y")

    graph = capture_checked(Same(), (torch.randn(2),))
    assert [value.name for value in graph.inputs] == ["y_1"]
