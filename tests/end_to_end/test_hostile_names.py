"""Names that could break text, files, generated source or ONNX."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import (
    UnsupportedModelError,
)
from graphopt.ir.graph import Graph
from tests.support.small_models import X, everywhere

HOSTILE = {
    "quote": 'a"b',
    "apostrophe": "a'b",
    "newline": "a\nb",
    "return": "a\r\nb",
    "NUL": "a\0b",
    "comment": "*/ /* # //",
    "docstring": '"""',
    "long": "x" * 10_000,
    "keyword": "class",
    "constant": "None",
    "self": "self",
    "right to left": "\u202eevil\u2069",
    "line separator": "\u2028",
    "backslash": "a\\b",
    "template": "${x}{y}%s`z`",
    "code": "import os",
    "accent": "é",
    "path": "a/b",
    "digit": "0",
    "syntax": "%x: f32[2] = $0",
    "alias": "graphopt_state_0",
}


class Named(nn.Module):
    """A module, a parameter and a buffer of one odd name, each in a holder of its own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.a, self.b, self.c = nn.Module(), nn.Module(), nn.Module()
        self.a.__dict__["_modules"][name] = nn.Linear(3, 3)
        self.b.__dict__["_parameters"][name] = nn.Parameter(torch.randn(3))
        self.c.__dict__["_buffers"][name] = torch.randn(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a.get_submodule(self.name)(x) * self.b.get_parameter(self.name) + self.c.get_buffer(self.name)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_names(name: str, tmp_path: Path) -> None:
    model = Named(name).eval()
    everywhere(model, (X,), tmp_path / "optimised")
    graph = graphopt.capture(model, (X,))
    assert str(graphopt.parse(str(graph))) == str(graph)
    graph.save(tmp_path / "graph")
    loaded = graphopt.load(tmp_path / "graph")
    assert isinstance(loaded, Graph)
    for module in (graph.to_module(), loaded.to_module()):
        assert list(module.state_dict()) == list(model.state_dict())
        module.load_state_dict(model.state_dict())
    graph.to_python(tmp_path / "written")
    compile((tmp_path / "written" / "model.py").read_text(encoding="utf-8"), "model.py", "exec")


def test_a_name_that_is_no_text() -> None:
    model = nn.Module()
    model.register_parameter("a\ud800", nn.Parameter(torch.ones(2)))
    with pytest.raises(UnsupportedModelError, match=r"'a\\ud800' holds half of a surrogate pair"):
        graphopt.capture(model, (X,))
