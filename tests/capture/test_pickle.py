"""Whole modules that `to_module` made go to other processes and through `torch.save`."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

import graphopt
from graphopt.capture import capture
from graphopt.capture.module import CapturedModule, to_module


class Tied(nn.Module):
    """Two layers that share their weight, and a name that Python code can't say."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)
        self.register_parameter("lambda", nn.Parameter(torch.ones(4)))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.norm(self.second(self.first(x))) * getattr(self, "lambda")}


def _again(module: nn.Module) -> nn.Module:
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize("flat", [False, True])
def test_saved_and_loaded_modules_are_equal_and_train_alike(flat: bool) -> None:
    module = to_module(capture(Tied().eval(), (torch.randn(3, 4),), dynamic=({0: "batch"},)), flat=flat).train()
    module.get_parameter("first.bias").requires_grad_(False)
    loaded = _again(module)
    assert loaded.training
    assert list(loaded.state_dict()) == list(module.state_dict())
    assert loaded.get_submodule("first").weight is loaded.get_submodule("second").weight
    assert [name for name, value in loaded.named_parameters() if not value.requires_grad] == ["first.bias"]
    x = torch.randn(5, 4)
    for each in (module, loaded):
        given = each(x)
        torch.nn.functional.mse_loss(given[0] if flat else given["y"], x).backward()
    for own, other in zip(module.parameters(), loaded.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=0, atol=0)
    torch.testing.assert_close(loaded.state_dict(), module.state_dict(), rtol=0, atol=0)


def test_a_loaded_module_can_be_saved_again() -> None:
    module = _again(_again(to_module(capture(Tied().eval(), (torch.randn(3, 4),)))))
    assert isinstance(module, CapturedModule)
    assert module(torch.zeros(3, 4))["y"].shape == (3, 4)


def test_copies_keep_the_class() -> None:
    module = to_module(capture(Tied().eval(), (torch.randn(3, 4),)))
    assert type(copy.deepcopy(module)) is type(copy.copy(module)) is type(module)


def test_another_process_reads_the_module_with_its_sparsity_and_the_class_of_its_output(tmp_path: Path) -> None:
    config = BertConfig(num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=64, vocab_size=50)
    ids = torch.arange(8)[None]
    result = graphopt.optimize(BertModel(config).eval(), ["lossless", "sparsify-magnitude{ratio=0.5}"], example_inputs=(ids,))
    torch.save({"module": result.module, "ids": ids, "output": result.module(ids).last_hidden_state.detach()}, tmp_path / "whole.pt")
    code = (
        "import sys, torch; found = torch.load(sys.argv[1], weights_only=False); module = found['module']; output = module(found['ids']); "
        "torch.testing.assert_close(output.last_hidden_state, found['output']); print(type(output).__name__, len(module.sparsity))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "whole.pt")], capture_output=True, text=True, check=True, timeout=300)
    assert isinstance(result.module, CapturedModule)
    assert done.stdout.split() == ["BaseModelOutputWithPoolingAndCrossAttentions", str(len(result.module.sparsity))]
