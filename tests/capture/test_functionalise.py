from __future__ import annotations

import pytest
import torch
from torch import nn

from graphopt.capture import capture
from graphopt.errors import GraphoptWarning, UnsupportedModelError
from tests.support.capturing import body, capture_checked, run


class Function(nn.Module):
    """A module around a function of tensors."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.function(*inputs)  # pyright: ignore[reportCallIssue]


def test_in_place_activation_becomes_functional() -> None:
    graph = capture_checked(nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True)), (torch.randn(2, 3),))
    assert body(graph) == ["%0 = linear(%input, %0.weight, %0.bias)", "%1 = relu(%0)"]


def test_write_through_a_view_updates_the_base() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        y[:, 1].fill_(5.0)
        return y

    graph = capture_checked(Function(function), (torch.randn(2, 3),))
    assert [line.split(" = ")[1] for line in body(graph)] == ["mul(%inputs_0, 2)", "full()", "select_scatter(%mul, %full)"]


def views(y: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "reshape": y.reshape(-1),
        "copying reshape": y.transpose(0, 1).reshape(-1),
        "permute": y.permute(2, 0, 1),
        "slice": y[:, 1:],
        "step": y[:, ::2],
        "select": y[0],
        "split": y.chunk(2, dim=2)[1],
        "unbind": y.unbind(1)[2],
        "expand": y.expand(2, *y.shape),
        "detach": y.detach(),
        "contiguous": y.contiguous(),
        "clone": y.clone(),
        "same dtype": y.to(torch.float32),
        "other dtype": y.to(torch.float64),
        "dropout": nn.functional.dropout(y, 0.5, False),
        "diagonal": y.diagonal(dim1=1, dim2=2),
        "unfold": y.unfold(1, 2, 1),
    }


WRITERS = [
    "reshape",
    "copying reshape",
    "permute",
    "slice",
    "step",
    "select",
    "split",
    "unbind",
    "detach",
    "contiguous",
    "clone",
    "dropout",
]


@pytest.mark.parametrize("writer", WRITERS)
def test_every_alias_sees_a_write_through_every_view(writer: str) -> None:
    def function(x: torch.Tensor) -> list[torch.Tensor]:
        y = x * 2
        seen = views(y)
        seen[writer].mul_(3.0)
        seen[writer].add_(1.0)
        return [y, *seen.values()]

    capture_checked(Function(function), (torch.randn(2, 4, 4),), double=False)


def test_chain_of_writes_through_different_views() -> None:
    def function(x: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x.clone()
        flat, turned = y.view(-1), y.t()
        flat[3:7] = 0.0
        turned[1] += z
        y[:, 2:].copy_(turned[:2].t())
        y[y > 1] = -1.0
        return y, flat, turned

    capture_checked(Function(function), (torch.randn(4, 4), torch.randn(4)))


def test_write_between_reads_keeps_the_order() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x + 1
        before = y * 2
        y.zero_()
        return before, y * 2 + before

    capture_checked(Function(function), (torch.randn(3),))


def test_write_through_diagonal_says_what_to_do() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        y.diagonal().fill_(0.0)
        return y

    with pytest.raises(UnsupportedModelError, match=r"writes through aten\.diagonal\.default(.|\n)*test_functionalise\.py:\d+(.|\n)*clone"):
        capture(Function(function).eval(), (torch.randn(3, 3),))


class Counter(nn.Module):
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return x * self.count


def test_buffer_mutation_names_buffer_line_and_way_out() -> None:
    with pytest.raises(UnsupportedModelError, match=r"buffer 'count' in place(.|\n)*test_functionalise\.py:\d+(.|\n)*if self\.training"):
        capture(Counter().eval(), (torch.ones(2),))


def test_input_mutation_is_told_and_not_done() -> None:
    model = Function(lambda x: x.add_(1).mul_(2) * 2).eval()  # pyright: ignore[reportUnknownLambdaType]
    with pytest.warns(GraphoptWarning, match=r"'inputs_0' \(aten\.add_\.Tensor at .*test_functionalise\.py:\d+\)\. The graph"):
        graph = capture(model, (torch.ones(2),))
    assert [line.split(" = ")[1] for line in body(graph)] == ["add(%inputs_0, 1)", "mul(%add, 2)", "mul(%mul, 2)"]


class Rescaled(nn.Module):
    """Halves its weight at the first call in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.done = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.done:
            self.weight.div_(2)
            self.done = True
        return x * self.weight


def test_parameter_that_forward_changes_is_copied_and_the_model_left_as_found() -> None:
    model, x = Rescaled().eval(), torch.ones(3)
    with pytest.warns(GraphoptWarning, match=r"'weight' \(aten\.div_\.Tensor"):
        graph = capture(model, (x,))
    assert not model.done
    with torch.no_grad():
        wanted = model(x)
    assert model.done
    assert torch.equal(run(graph, (x,))[0], wanted)
    assert torch.equal(run(graph, (x,))[0], wanted)
