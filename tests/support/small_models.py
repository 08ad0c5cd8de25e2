"""Small models, and a check of one model through every way out of a graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.backends.base import Executable
from graphopt.ir.graph import Graph

TARGETS = ("reference", "torch", "onnxruntime")
pytestmark = pytest.mark.onnxruntime


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2).eval()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(16, 2)).eval()


def quantised(tensor: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def everywhere(model: nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path, **options: Any) -> Graph:
    """Optimise, and compare with the model: the module, each backend, and what comes back from files."""
    given = [each.clone() for each in inputs]
    wanted = model(*inputs)
    result = graphopt.optimize(model, example_inputs=inputs, **options)
    assert not result.pipeline.failures
    result.graph.save(folder / "graph")
    loaded = graphopt.load(folder / "graph")
    assert isinstance(loaded, Graph)
    assert str(loaded) == str(result.graph)
    result.graph.to_python(folder / "written")
    runs: list[Callable[..., Any]] = [result.module, loaded.to_module()]
    for target in ("torch", "onnxruntime"):
        executable = graphopt.lower(result.graph, target)
        executable.save(folder / target)
        again = graphopt.load(folder / target)
        assert isinstance(again, Executable)
        runs += [executable, again]
    runs.append(graphopt.lower(result.graph, "reference"))
    for run in runs:
        torch.testing.assert_close(run(*inputs), wanted, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert all(map(torch.equal, given, inputs))
    return result.graph


class Sum(nn.Module):
    """No parameters, two inputs."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a + 2 * b, a
