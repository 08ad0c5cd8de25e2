from __future__ import annotations

import pytest
import torch
from torch import nn

from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from tests.support.capturing import body, capture_checked, opaque_ops, run


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def lower(y: torch.Tensor) -> torch.Tensor:
            return y - self.get_buffer("shift")

        return torch.cond(x.sum() > 0, self.first.forward, lower, (x,))


def test_cond_becomes_a_node_with_two_regions() -> None:
    model = Conditional()
    graph = capture_checked(model, (torch.ones(2, 3),))
    node = next(node for node in graph.nodes if node.op == "cond")
    assert [region.name for region in node.regions] == ["then", "else"]
    assert [[inner.op for inner in region.nodes] for region in node.regions] == [["linear"], ["sub"]]
    for x in (torch.ones(2, 3), -torch.ones(2, 3)):
        torch.testing.assert_close(run(graph, (x,))[0], model(x))
    assert parse(show(graph)) == graph


def test_cond_with_a_dynamic_size() -> None:
    model = Conditional()
    graph = capture_checked(model, (torch.ones(2, 3),), dynamic={0: "batch"})
    x = -torch.ones(5, 3)
    torch.testing.assert_close(run(graph, (x,))[0], model(x))


def test_no_grad_regions_are_inlined() -> None:
    class Frozen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                y = x * 2
                y.add_(1)
            return y + x

    assert body(capture_checked(Frozen(), (torch.ones(2),))) == ["%mul = mul(%x, 2)", "%add = add(%mul, 1)", "%add_1 = add(%add, %x)"]


@pytest.mark.parametrize("enabled", [True, False])
def test_casts_of_autocast_become_explicit(enabled: bool) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.norm = nn.LayerNorm(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                y = torch.relu(self.linear(x))
                z = torch.softmax(y @ y.transpose(0, 1), dim=-1)
            return self.norm((z @ y.to(z.dtype)).float())

    graph = capture_checked(Mixed(), (torch.randn(4, 4),), double=False)
    assert opaque_ops(graph) == set()
    assert ("cast" in [node.op for node in graph.nodes]) is enabled
