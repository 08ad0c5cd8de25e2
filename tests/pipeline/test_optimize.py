"""optimize() from end to end on small models: what it takes, what it leaves alone, and its report."""

from __future__ import annotations

import importlib
import json
from io import StringIO
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import graphopt
from graphopt.errors import PipelineOrderError, UnknownPassError, UsageError
from graphopt.optimize import _probe_inputs  # pyright: ignore[reportPrivateUsage]
from graphopt.pipeline.registry import resolve
from graphopt.report.measure import interleave
from tests.support.folding import filled
from tests.support.wrong_passes import NETWORK, DropBias


class Net(nn.Module):
    """A convolution, a batch norm that trains, dropout and a tied pair of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
        y = torch.relu(self.norm(self.conv(x)))
        y = nn.functional.max_pool2d(y, 4).flatten(1)
        return {"out": self.second(self.drop(self.first(y))) * scale}


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net().eval()
    net.norm.running_mean = torch.randn(4)
    net.norm.running_var = torch.rand(4) + 0.5
    return net


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_module_is_optimised_and_itself_stays_as_it_was(net: Net) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    expected = net(X)["out"]
    result = graphopt.optimize(net, example_inputs=(X,))
    assert not result.report.pipeline.failures
    assert result.graph.node_count < result.original.node_count
    torch.testing.assert_close(result.module(X)["out"], expected)
    assert result.module is result.module
    assert result.executable is None
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert net.second.weight is net.first.weight


@pytest.mark.parametrize("kind", ["program", "fx", "graph"])
def test_programs_fx_modules_and_graphs_are_taken(net: Net, kind: str) -> None:
    subject: Any
    options: dict[str, Any] = {}
    if kind == "program":
        subject = torch.export.export(net, (X,), strict=False)
    elif kind == "fx":
        subject, options = torch.fx.symbolic_trace(net), {"example_inputs": (X,)}
    else:
        subject = graphopt.capture(net, (X,))
    result = graphopt.optimize(subject, ["lossless"], strict=True, **options)
    torch.testing.assert_close(result.module(X)["out"], net(X)["out"])
    if kind == "graph":
        assert subject.node_count == result.original.node_count


def test_a_result_that_stays_trainable_trains_as_before(net: Net) -> None:
    result = graphopt.optimize(net, ["lossless-training"], example_inputs=(X,), keep_trainable=True, strict=True)
    module = result.module
    assert dict(module.named_parameters()).keys() == dict(net.named_parameters()).keys()
    module.load_state_dict(net.state_dict())
    module.train()
    torch.manual_seed(3)
    got = module(X)["out"]
    net.train()
    torch.manual_seed(3)
    torch.testing.assert_close(got, net(X)["out"])
    got.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    with pytest.raises(PipelineOrderError, match="for deployment only and the result has to stay trainable"):
        graphopt.optimize(net, ["lossless"], example_inputs=(X,), keep_trainable=True)


def test_dynamic_sizes_are_checked_at_sizes_of_their_own(net: Net) -> None:
    result = graphopt.optimize(net, ["lossless"], example_inputs=(X,), dynamic={"x": {0: "batch"}}, probes=2, strict=True)
    assert result.report.pipeline.final_error is not None
    for batch in (1, 5):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(result.module(x)["out"], net(x)["out"])


def test_the_report_has_costs_and_is_plain_data_too(net: Net) -> None:
    result = graphopt.optimize(net, ["lossless"], example_inputs=(X,))
    report = result.report
    assert report.before.nodes == result.original.node_count
    assert report.after.flops is not None
    assert report.before.flops is not None
    assert report.after.flops < report.before.flops
    data = json.loads(json.dumps(report.to_json()))
    assert data["before"]["nodes"] > data["after"]["nodes"]
    assert data["latency"] is None
    text = str(report)
    assert "fold-batch-norm" in text
    assert "peak activations" in text
    console = Console(file=StringIO(), width=200)
    console.print(report)
    drawn = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]  # the file is ours
    assert "fold-batch-norm" in drawn
    assert "parameters" in drawn


def test_target_and_measurement(net: Net) -> None:
    result = graphopt.optimize(net, ["lossless"], example_inputs=(X,), target="torch", measure=True)
    assert result.executable is not None
    torch.testing.assert_close(result.executable(X)["out"], net(X)["out"], atol=1e-5, rtol=1e-5)
    latency = result.report.latency
    assert latency is not None
    assert [timing.name for timing in latency.timings] == ["before", "after"]
    assert latency.timings[0].speedup == 1.0
    assert latency.environment["torch"] == torch.__version__
    assert "interleaved rounds" in str(result.report)
    assert json.loads(json.dumps(latency.to_json()))["rounds"] == 20


def test_measuring_turns_the_order_of_variants() -> None:
    calls: list[str] = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    latency = interleave(functions, rounds=3, warm_up=1)
    order = [name for index, name in enumerate(calls) if index == 0 or calls[index - 1] != name]
    assert order[-9:] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert len(latency.timings) == 3
    with pytest.raises(UsageError, match="got 3 variants and 2 rounds"):
        interleave(functions, rounds=2)


def test_mistakes_are_told(net: Net) -> None:
    with pytest.raises(UnknownPassError, match="no pass or preset is called 'losless'"):
        graphopt.optimize(net, ["losless"], example_inputs=(X,))
    with pytest.raises(UsageError, match="a Graph is captured already"):
        graphopt.optimize(graphopt.capture(net, (X,)), dynamic={"x": {0: "batch"}})
    with pytest.raises(AttributeError, match="module 'graphopt' has no attribute 'optimise'"):
        _ = graphopt.optimise  # pyright: ignore[reportAttributeAccessIssue]


def test_names_stay_functions_when_modules_of_that_name_are_imported() -> None:
    importlib.import_module("graphopt.capture.frontend")
    importlib.import_module("graphopt.optimize")
    assert callable(graphopt.optimize)
    assert callable(graphopt.capture)
    assert {"optimize", "capture", "load", "lower"} <= set(dir(graphopt))


def test_a_wrong_pass_in_the_middle_does_not_keep_the_others_from_their_work() -> None:
    result = graphopt.optimize(filled(NETWORK), [*resolve("tidy"), DropBias(), "lossless"])
    assert [record.name for record in result.pipeline.failures] == ["wrong-drop-bias"]
    assert result.graph.node_count < result.original.node_count
    assert "rolled back" in str(result.report)


def test_a_name_for_a_graph_and_options_without_a_target_are_refused() -> None:
    graph = graphopt.parse("graph g(%x: f32[2]) {\n  %y: f32[2] = relu(%x)\n  return %y\n}\n")
    with pytest.raises(UsageError, match="kwargs, dynamic and name have nothing to act on"):
        graphopt.optimize(graph, ["lossless"], name="other")
    with pytest.raises(UsageError, match="target_options are those of a target, and there is none"):
        graphopt.optimize(graph, ["lossless"], target_options={"threads": 2})


def test_examples_by_name_are_probe_inputs_too() -> None:
    graph = graphopt.parse("graph g(%x: f32[2], %i: i64[2]) {\n  %y: f32[2] = gather(%x, %i) {axis=0}\n  return %y\n}\n")
    model = graph.to_module()
    examples = {"x": torch.tensor([1.0, 2.0]), "i": torch.tensor([1, 0])}
    captured = graphopt.capture(model, examples)
    found = _probe_inputs(captured, model, examples, None, 0)
    assert found is not None
    assert [tensor.tolist() for tensor in found] == [[1.0, 2.0], [1, 0]]
