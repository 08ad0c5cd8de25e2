from __future__ import annotations

import pytest
import torch
from torch import nn

from graphopt.capture import capture
from graphopt.errors import UnsupportedModelError
from graphopt.ir.attributes import Ref
from graphopt.ir.parser import parse
from graphopt.ir.printer import show
from tests.support.capturing import capture_checked, opaque_ops


@torch.library.custom_op("graphopt_tests::scale_all", mutates_args=())
def scale_all(xs: list[torch.Tensor], factor: float, mode: str = "plain") -> torch.Tensor:
    return torch.stack(xs).sum(0) * factor


@scale_all.register_fake
def _(xs: list[torch.Tensor], factor: float, mode: str = "plain") -> torch.Tensor:
    return torch.empty_like(xs[0])


@torch.library.custom_op("graphopt_tests::shift_in_place", mutates_args=("target",))
def shift_in_place(source: torch.Tensor, target: torch.Tensor) -> None:
    target.add_(source)


@shift_in_place.register_fake
def _(source: torch.Tensor, target: torch.Tensor) -> None:
    return None


def test_op_that_is_not_in_the_table() -> None:
    class Histogram(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.histc(x, bins=4, min=-1.0) * 2

    graph = capture_checked(Histogram(), (torch.randn(10),))
    node = graph.first_node
    assert node is not None
    assert node.op == "aten.histc.default"
    assert dict(node.attrs) == {"bins": 4, "min": -1.0, "self": Ref(0)}
    assert parse(show(graph)) == graph


def test_custom_op_with_a_list_of_tensors() -> None:
    class Custom(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.graphopt_tests.scale_all([x, x + 1], 0.5)

    graph = capture_checked(Custom(), (torch.randn(3),))
    node = graph.value("scale_all").producer
    assert node is not None
    assert node.op == "graphopt_tests.scale_all.default"
    assert dict(node.attrs) == {"xs": (Ref(0), Ref(1)), "factor": 0.5}


def test_custom_op_that_writes_its_second_argument() -> None:
    class Writes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            torch.ops.graphopt_tests.shift_in_place(x, y)
            return y

    with pytest.raises(UnsupportedModelError, match=r"shift_in_place.default writes its arguments \['target'\]"):
        capture(Writes().eval(), (torch.randn(3),))


def test_in_place_op_that_is_not_in_the_table_uses_its_functional_form() -> None:
    class Writes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            y[0].lerp_(torch.ones(3), 0.25)
            return y

    assert opaque_ops(capture_checked(Writes(), (torch.randn(2, 3),), double=False)) == {"aten.lerp.Scalar"}


def test_max_pool_with_indices() -> None:
    class Pool(nn.Module):
        def __init__(self, indices: bool) -> None:
            super().__init__()
            self.indices = indices

        def forward(self, x: torch.Tensor) -> object:
            values, indices = nn.functional.adaptive_max_pool2d(x, 2, return_indices=True)
            return (values, indices) if self.indices else values

    x = torch.randn(1, 2, 6, 6)
    assert opaque_ops(capture_checked(Pool(True), (x,))) == {"aten.adaptive_max_pool2d.default"}
    assert opaque_ops(capture_checked(Pool(False), (x,))) == set()
