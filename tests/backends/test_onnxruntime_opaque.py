"""Opaque ops that have a form in ONNX, and graphs that are cut where one has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graphopt.backends.onnxruntime import OnnxRuntimeBackend, export_onnx
from graphopt.backends.onnxruntime.executable import OnnxRuntimeExecutable
from graphopt.backends.onnxruntime.steps import ForeignStep, NativeStep
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.capture import capture
from graphopt.errors import LoweringError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse

pytestmark = pytest.mark.onnxruntime


def lower(graph: Graph, **options: Any) -> OnnxRuntimeExecutable:
    return OnnxRuntimeBackend().lower(graph, threads=1, **options)


class Opaque(nn.Module):
    def forward(self, x: torch.Tensor, i: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            x.diff(dim=1),
            x.diff(n=2),
            x.diff(dim=1, prepend=x[:, :2], append=x[:, :1]),
            nn.functional.one_hot(i, 7),
            x.unfold(1, 3, 2),
            x.unfold(0, 2, 1),
        )


def test_opaque_ops_with_a_form() -> None:
    x, i = torch.randn(4, 9), torch.randint(0, 7, (2, 3))
    graph = capture(Opaque(), (x, i))
    executable = lower(graph)
    assert executable.report == ()
    for found, wanted in zip(executable(x, i), Opaque()(x, i), strict=True):
        assert torch.equal(found, wanted)


# %h alone can't run in ONNX Runtime; %a, %b, %c need it not, %d and %e do
CUT = """
graph cut(%x: f32[batch,4]) where batch in [1, 8] {
  %a: f32[batch,4] = relu(%x)
  %h: f32[5] = aten.histc.default(%a) {bins=5, self=$0}
  %b: f32[batch,4] = exp(%a)
  %c: f32[batch,4] = add(%a, %b)
  %d: f32[5] = mul(%h, batch)
  %e: f32[batch] = sum(%c) {axes=(1,), keepdims=false}
  %f: f32[5] = add(%d, 1.0)
  return %e, %f, %h
}
"""


def test_graph_is_cut_into_as_few_segments_as_can_be() -> None:
    executable = lower(parse(CUT))
    first, middle, last = executable.steps
    assert isinstance(first, NativeStep)
    assert isinstance(middle, ForeignStep)
    assert isinstance(last, NativeStep)
    assert [value.name for value, _ in first.outputs] == ["a", "e"]
    assert [node.name for node in middle.nodes] == ["h"]
    assert [value.name for value, _ in last.inputs] == ["h"]
    assert last.symbols == (("batch", "dim.batch"),)


def test_report_names_the_node_and_the_reason() -> None:
    assert lower(parse(CUT)).report == (
        "%h = aten.histc.default runs in the reference interpreter: aten.histc.default has no form in ONNX",
    )


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_cut_graph_runs(batch: int) -> None:
    graph = parse(CUT)
    x = torch.randn(batch, 4)
    executable = lower(graph)
    for found, wanted in zip(executable.run([x]), Interpreter(graph).run(x), strict=True):
        torch.testing.assert_close(found, wanted)
    for array, wanted in zip(executable.run([x.numpy()]), Interpreter(graph).run(x), strict=True):
        assert isinstance(array, np.ndarray)
        np.testing.assert_allclose(array, wanted.numpy(), rtol=1e-5)


DATA_DEPENDENT = """
graph pick(%x: f32[6]) where u0 in [0, 6] {
  %m: bool[6] = gt(%x, 0.0)
  %n: i64[u0,1] = aten.nonzero.default(%m) {self=$0}
  %r: i64[u0] = reshape(%n) {shape=(u0,)}
  %y: f32[u0] = index_select(%x, %r) {axis=0}
  %z: f32[u0,2] = expand(%w) {shape=(u0, 2)}
  return %y, %z
}
""".replace("  %z", "  %w: f32[u0,1] = reshape(%y) {shape=(u0, 1)}\n  %z")


@pytest.mark.parametrize("values", [[1.0, -1, 2, -3, 4, 5], [-1.0] * 6])
def test_sizes_that_follow_from_the_data(values: list[float]) -> None:
    graph = parse(DATA_DEPENDENT)
    x = torch.tensor(values)
    for found, wanted in zip(lower(graph).run([x]), Interpreter(graph).run(x), strict=True):
        assert torch.equal(found, wanted)


def test_export_names_what_it_cannot_express(tmp_path: Any) -> None:
    with pytest.raises(LoweringError, match=r"%h = aten\.histc\.default can't be exported: aten\.histc\.default has no form in ONNX"):
        export_onnx(parse(CUT), tmp_path / "cut.onnx")
    assert list(tmp_path.iterdir()) == []
