from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from graphopt.capture import capture
from graphopt.errors import CaptureError, ExampleInputError
from graphopt.ir.graph import Range
from tests.support.capturing import capture_checked, run


class Shapes(nn.Module):
    def forward(self, x: torch.Tensor, others: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        rows, columns = x.shape
        y = x[:, 1:].reshape(rows * (columns - 1)) + torch.arange(rows * (columns - 1))
        z = torch.cat([y, y.new_zeros(rows)])
        return z if others is None else z + others["scale"]


@pytest.mark.parametrize(
    "dynamic", [{"x": {0: "rows"}}, {0: "rows"}, ({0: "rows"},), {"x": ("rows", None)}, {"x": {-2: Dim("rows", min=1)}}]
)
def test_forms(dynamic: Any) -> None:
    graph = capture_checked(Shapes(), (torch.randn(3, 5),), dynamic=dynamic)
    assert graph.inputs[0].type.text == "f32[rows,5]"
    assert graph.symbols == {"rows": Range(1, None)}
    assert graph.outputs[0].type.text == "f32[5*rows]"  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]


def test_two_dynamic_axes_run_at_other_sizes() -> None:
    model = Shapes()
    graph = capture_checked(model, (torch.randn(3, 5),), dynamic={"x": {0: "rows", 1: "columns"}})
    for shape in ((1, 3), (2, 9), (7, 4)):
        x = torch.randn(shape)
        torch.testing.assert_close(run(graph, (x,))[0], model(x))


def test_batch_of_one_as_example() -> None:
    graph = capture(nn.Linear(3, 2).eval(), (torch.randn(1, 3),), dynamic={0: "batch"})
    assert graph.inputs[0].type.text == "f32[batch,3]"


def test_declared_range_and_nested_inputs() -> None:
    inputs = (torch.randn(3, 5), {"scale": torch.ones(1)})
    graph = capture_checked(Shapes(), inputs, dynamic={"x": {0: Dim("rows", min=2, max=64)}, "others": {"scale": None}})
    assert graph.symbols == {"rows": Range(2, 64)}


def test_same_name_is_the_same_size() -> None:
    class Add(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    graph = capture_checked(Add(), (torch.randn(3, 2), torch.randn(3, 2)), dynamic={"a": {0: "n"}, "b": {0: "n"}})
    assert [value.type.text for value in graph.inputs] == ["f32[n,2]", "f32[n,2]"]


def test_image_sizes_through_strided_convolutions() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(3, 2, 1), nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    graph = capture_checked(model, (torch.randn(2, 3, 32, 40),), dynamic={0: "batch", 2: "height", 3: "width"}, double=False)
    assert list(graph.symbols) == ["batch", "height", "width"]
    x = torch.randn(1, 3, 27, 50)
    torch.testing.assert_close(run(graph, (x,))[0], model(x))


@pytest.mark.parametrize(
    ("dynamic", "text"),
    [
        ({"y": {0: "n"}}, r"names the inputs \['y'\]; the call has \['x'\]"),
        ({"x": {2: "n"}}, r"axis 2 of 'x', which has the shape \(3, 5\)\n  fix: use 0 to 1"),
        ({"x": "n"}, "gives 'n' for the tensor 'x'"),
        (({0: "n"}, {0: "m"}), r"has 2 entries for 1 inputs \['x'\]\n  fix: give one entry per input"),
        ("batch", "dynamic= is a str"),
    ],
)
def test_what_does_not_fit(dynamic: Any, text: str) -> None:
    with pytest.raises(ExampleInputError, match=text):
        capture(Shapes().eval(), (torch.randn(3, 5),), dynamic=dynamic)


def test_an_axis_that_the_model_fixes() -> None:
    with pytest.raises(CaptureError, match=r"dynamic dimensions do not fit Linear(.|\n)*leave that axis out"):
        capture(nn.Linear(3, 2).eval(), (torch.randn(4, 3),), dynamic={"input": {1: "features"}})


def test_smallest_size_is_found_and_other_assumptions_are_refused() -> None:
    class Parity(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 1:] + 1 if x.shape[0] % 2 else x

    x = torch.randn(3, 5)
    assert capture(Parity().eval(), (x,), dynamic={"x": {1: "columns"}}).symbols == {"columns": Range(3, None)}
    with pytest.raises(CaptureError, match=r"the trace assumed that Ne\(Mod\(s\d+, 2\), 0\) does not hold at s\d+ = 66"):
        capture(Parity().eval(), (x,), dynamic={"x": {0: "rows"}})


def test_data_dependent_result_gets_its_own_dimension() -> None:
    class NonZero(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nonzero(x) * 2

    graph = capture_checked(NonZero(), (torch.tensor([1.0, 0.0, 3.0]),))
    assert graph.symbols == {"u0": Range(0, 3)}
