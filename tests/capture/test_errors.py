from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from graphopt.capture import capture
from graphopt.errors import ExampleInputError, UnsupportedModelError


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


class Item(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.max().item()


class Size(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(int(x.max())) + x.sum()


class Loop(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        from torch._higher_order_ops.while_loop import while_loop

        return while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2), (torch.zeros((), dtype=torch.int64), x))  # pyright: ignore


@pytest.mark.parametrize("model", [Branch(), Size()])
def test_data_dependent_control_flow_names_the_line_and_the_ways_out(model: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        capture(model.eval(), (torch.ones(3),))
    text = str(caught.value)
    assert "by the values of a tensor" in text
    assert "tests/capture/test_errors.py:" in text
    assert "capture a sub-module" in text
    assert "torch.cond" in text
    assert caught.value.__cause__ is not None
    assert capfd.readouterr() == ("", "")


def test_number_read_from_a_tensor() -> None:
    with pytest.raises(UnsupportedModelError, match=r"is used in a computation(.|\n)*test_errors\.py:\d+(.|\n)*no \.item\(\)"):
        capture(Item().eval(), (torch.ones(3),))


def test_higher_order_op_without_a_form() -> None:
    with pytest.raises(UnsupportedModelError, match=r"higher-order op 'while_loop'(.|\n)*capture a sub-module"):
        capture(Loop().eval(), (torch.ones(3),))


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), r"missing a required argument: 'input'; got \(\)"),
        ((torch.ones(2, 3), torch.ones(2)), r"too many positional arguments; got \(float32\[2,3\], float32\[2\]\)"),
        ((torch.ones(2, 4),), r"Linear fails on the example inputs \(float32\[2,4\]\)(.|\n)*fix: pass inputs with which the model runs"),
        ((torch.ones(2, 3, dtype=torch.float64),), r"linear gets operands of different dtypes: input f64\[2,3\], weight f32\[2,3\]"),
        ((torch.ones(2, 3, dtype=torch.int64),), r"linear gets operands of different dtypes: input i64\[2,3\]"),
        ((torch.ones(2, 3, device="meta"),), r"an input is on meta, the parameters are on cpu"),
        ((None,), r"Linear fails on the example inputs"),
    ],
)
def test_inputs_that_do_not_fit(args: tuple[Any, ...], text: str) -> None:
    with pytest.raises(ExampleInputError, match=text):
        capture(nn.Linear(3, 2).eval(), args)


def test_missing_inputs_say_what_was_tried_and_what_to_pass() -> None:
    with pytest.raises(ExampleInputError) as caught:
        capture(nn.Linear(3, 2).eval())
    for word in ("example_input_array", "dummy_inputs", "pretrained_cfg", "torchvision", '{"x": (1, 3, 224, 224)}'):
        assert word in str(caught.value)


def test_torchscript() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Linear(3, 2))
    with pytest.raises(UnsupportedModelError, match="TorchScript"):
        capture(scripted, (torch.ones(2, 3),))


def test_error_inside_the_model_names_its_line() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError("no such layer")

    with pytest.raises(ExampleInputError, match=r"KeyError: 'no such layer'(.|\n)*tests/capture/test_errors\.py:\d+: raise KeyError"):
        capture(Broken().eval(), (torch.ones(2),))
