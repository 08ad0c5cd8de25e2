"""`to_module`: trains, saves, copies, exports and compiles like the model it came from."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock

from graphopt.capture import capture
from graphopt.capture.module import to_module
from graphopt.errors import BackendError, LoweringError
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor
from graphopt.ir.parser import parse


class Small(nn.Module):
    """Convolution, batch norm, dropout and a cumulative batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout2d(0.5)
        self.averaged = nn.BatchNorm2d(4, momentum=None)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.norm(self.conv(x)).relu())
        return self.head(self.averaged(x).mean((2, 3)))


def train(module: nn.Module, shape: tuple[int, ...], classes: int) -> list[float]:
    torch.manual_seed(7)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    losses: list[float] = []
    for _ in range(4):
        loss = nn.functional.cross_entropy(module(torch.randn(shape)), torch.randint(0, classes, shape[:1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    "make",
    [
        Small,
        lambda: torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=2),
        lambda: torchvision.models.mobilenet_v2(num_classes=2, width_mult=0.35),
    ],
    ids=["small", "resnet", "mobilenet_v2"],
)
def test_training_is_bit_identical(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    module = to_module(capture(copy.deepcopy(model), (torch.randn(2, 3, 32, 32),)))
    assert not module.training
    assert list(module.state_dict()) == list(model.state_dict())
    assert train(module, (2, 3, 32, 32), 2) == train(model, (2, 3, 32, 32), 2)
    for name, tensor in model.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(module.eval()(x), model.eval()(x))


def test_gradients_reach_inputs_and_parameters() -> None:
    model = Small().eval()
    module = to_module(capture(model, (torch.randn(2, 3, 8, 8),)))
    module.load_state_dict(model.state_dict(), strict=True)
    x, y = (torch.ones(2, 3, 8, 8).requires_grad_() for _ in range(2))
    model(x).square().sum().backward()
    wanted = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    module.zero_grad()
    module(y).square().sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    assert torch.equal(x.grad, y.grad)
    assert len(wanted) == len(list(model.parameters()))
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, wanted[name]), name


def test_numbers_are_shared_and_a_copy_is_not() -> None:
    model = Small().eval()
    module = to_module(capture(model, (torch.randn(2, 3, 8, 8),)))
    assert module.get_parameter("head.weight").data_ptr() == model.head.weight.data_ptr()
    other = copy.deepcopy(module)
    x = torch.randn(2, 3, 8, 8)
    before = module(x)
    train(other, (2, 3, 8, 8), 2)
    assert torch.equal(module(x), before)
    assert not torch.equal(other.eval()(x), before)
    assert other.training is False


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.head.weight.requires_grad_(True)
        self.register_buffer("scale", torch.full((4,), 2.0), persistent=False)
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(tokens) * self.scale + self.frozen)


def test_ties_buffers_and_frozen_parameters() -> None:
    model = Tied().eval()
    tokens = torch.tensor([[0, 1, 4]])
    module = to_module(capture(model, (tokens,)))
    assert set(module.state_dict()) == set(model.state_dict())
    module.load_state_dict(model.state_dict(), strict=True)
    assert module.get_parameter("embed.weight") is module.get_parameter("head.weight")
    assert len(list(module.parameters())) == len(list(model.parameters()))
    assert not module.get_parameter("frozen").requires_grad
    assert "scale" in dict(module.named_buffers())
    assert torch.equal(module(tokens), model(tokens))
    assert copy.deepcopy(module).get_parameter("head.weight").requires_grad


def with_numbers(text: str) -> Graph:
    """The parsed graph, its states filled with 1, 2, ... in order."""
    graph = parse(text)
    editor = GraphEditor(graph)
    for number, state in enumerate(list(graph.states.values()), start=1):
        editor.update_state(dataclasses.replace(state, data=TensorData(torch.full(state.type.static_shape, float(number)))))
    return graph


ODD_NAMES = r"""
graph odd(%x: f32[2]) {
  param %a: f32[2]
  param %a.b: f32[2]
  param %train.weight: f32[2]
  param %lambda.0.type: f32[2]
  buffer %"q\"); import os; (\"": f32[2]
  constant %graphopt_state_0: f32[2]
  %1: f32[2] = add(%x, %a)
  %2: f32[2] = mul(%1, %a.b)
  %3: f32[2] = add(%2, %train.weight)
  %4: f32[2] = mul(%3, %lambda.0.type)
  %5: f32[2] = add(%4, %"q\"); import os; (\"")
  %class: f32[2] = mul(%5, %graphopt_state_0)
  return %class
}
"""


def test_names_that_code_can_not_say() -> None:
    module = to_module(with_numbers(ODD_NAMES))
    assert list(module.state_dict()) == ["a", 'q"); import os; ("', "a.b", "train.weight", "lambda.0.type"]
    for each in (module, copy.deepcopy(module)):
        assert each(torch.zeros(2)).tolist() == [(((0 + 1) * 2 + 3) * 4 + 5) * 6] * 2
    module.load_state_dict({name: tensor * 2 for name, tensor in module.state_dict().items()}, strict=True)
    assert module(torch.zeros(2)).tolist() == [(((0 + 2) * 4 + 6) * 8 + 10) * 6] * 2


class Modes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, dropout=0.5, batch_first=True)
        self.norm = nn.InstanceNorm1d(5, track_running_stats=True, affine=True)
        self.attention = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3, batch_first=True)
        self.drop = nn.AlphaDropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.attention(self.norm(self.lstm(x)[0])))


def test_train_and_eval_switch_what_they_switched() -> None:
    torch.manual_seed(0)
    model = Modes().eval()
    x = torch.randn(2, 5, 3)
    module = to_module(capture(copy.deepcopy(model), (x,)))
    with torch.no_grad():
        assert torch.allclose(module(x), model(x), atol=1e-6)
    module.train()
    assert not torch.equal(module(x), module(x))
    assert not torch.equal(module.get_buffer("norm.running_mean"), model.get_buffer("norm.running_mean"))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_exports_and_compiles() -> None:
    model = Small().eval()
    x = torch.randn(2, 3, 8, 8)
    module = to_module(capture(model, (x,), dynamic={0: "batch"}))
    five = torch.randn(5, 3, 8, 8)
    assert torch.equal(module(five), model(five))
    exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    assert torch.equal(exported.module()(five), model(five))
    assert {spec.target for spec in exported.graph_signature.input_specs if spec.target} <= set(model.state_dict())
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(five), model(five))
    again = to_module(capture(module, (x,), dynamic={0: "batch"}))
    assert torch.equal(again(five), model(five))
    moved = copy.deepcopy(module).to(torch.float64)
    assert moved(five.double()).dtype == torch.float64
    assert copy.deepcopy(module).to("meta")(five.to("meta")).shape == (5, 2)


class Nested(nn.Module):
    def forward(self, pair: tuple[torch.Tensor, dict[str, torch.Tensor]], flag: bool = True, *, scale: torch.Tensor) -> dict[str, Any]:
        first, rest = pair
        total = first + rest["second"] if flag else first
        return {"sum": total, "list": [total * scale, (first,)], "none": None}


def test_call_structure_is_the_models() -> None:
    pair = (torch.ones(2), {"second": torch.ones(2)})
    module = to_module(capture(Nested(), (pair,), kwargs={"scale": torch.full((2,), 3.0)}))
    found = module(pair, scale=torch.full((2,), 5.0))
    assert found["sum"].tolist() == [2.0, 2.0]
    assert found["list"][0].tolist() == [10.0, 10.0]
    assert isinstance(found["list"][1], tuple)
    assert found["none"] is None


def test_fixed_arguments_are_checked() -> None:
    text = 'graph f(%x: f32[2], %m: f32[2]) takes ($0, none, $1) {"cache": false} { %y: f32[2] = add(%x, %m) return %y as {"y": $0} }'
    module = to_module(parse(text))
    x = torch.ones(2)
    assert module(x, None, x)["y"].tolist() == [2.0, 2.0]
    assert module(x, None, x, cache=False)["y"].tolist() == [2.0, 2.0]
    with pytest.raises(ValueError, match="argument 'cache' is True, was fixed to False"):
        module(x, None, x, cache=True)


def test_sizes_are_computed_from_the_inputs() -> None:
    text = """
    graph f(%x: f32[2*n + 1,m]) where n in [1, 9], m in [1, 9], u in [0, inf] {
      %a: f32[max(m, 2*n + 1)] = full() {dtype=f32, shape=(max(m, 2*n + 1),), value=1.0}
      %b: f32[(2*n + 1)*m] = reshape(%x) {shape=((2*n + 1)*m,)}
      %c: f32[(2*n + 1)*m] = mul(%b, n)
      %d: f32[m//2] = slice(%b) {axis=0, start=0, step=1, stop=m//2}
      %k: i64[u,1] = aten.nonzero.default(%b) {self=$0}
      %e: i64[u] = reshape(%k) {shape=(u,)}
      return %a, %c, %d, %e
    }
    """
    module = to_module(parse(text))
    a, c, d, e = module(torch.full((7, 4), 2.0))
    assert (a.shape, c.shape, d.shape, e.shape) == ((7,), (28,), (2,), (28,))
    assert c[0].item() == 6.0


def test_opaque_ops() -> None:
    text = """
    graph f(%x: f32[4]) {
      %h: f32[3] = aten.histc.default(%x) {bins=3, max=1, min=0, self=$0}
      %p: f32[4] = aten.add_.Tensor(%x, %x) {other=$1, self=$0}
      %r: i64[4] = aten.randperm.default() {n=4}
      %f: f32[4] = aten.zeros_like.default(%x) {dtype=f32, memory_format="contiguous_format", self=$0}
      return %h, %x, %r, %f
    }
    """
    module = to_module(parse(text))
    x = torch.tensor([0.1, 0.5, 0.9, 0.2])
    histogram, same, order, zeros = module(x)
    assert histogram.tolist() == [2.0, 1.0, 1.0]
    assert same is x
    assert x[0].item() == pytest.approx(0.1)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    assert zeros.tolist() == [0.0] * 4


@pytest.mark.parametrize("op", ["aten.no_such_op.default", "os.system.default", "load_library.x.default", "relux"])
def test_unknown_ops_are_refused(op: str) -> None:
    with pytest.raises(LoweringError, match="op"):
        to_module(parse(f"graph f(%x: f32[2]) {{ %y: f32[2] = {op}(%x) {{self=$0}} return %y }}"))


def test_a_state_without_numbers_is_named() -> None:
    with pytest.raises(BackendError, match=r"%w has no numbers"):
        to_module(parse("graph f(%x: f32[2]) { param %w: f32[2] %y: f32[2] = add(%x, %w) return %y }"))


def test_output_classes_come_back() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20)
    model = transformers.BertModel(config).eval()
    tokens = torch.tensor([[1, 2, 3]])
    module = to_module(capture(model, kwargs={"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}))
    found, wanted = module(input_ids=tokens, attention_mask=torch.ones_like(tokens)), model(tokens)
    assert type(found) is type(wanted)
    assert torch.equal(found.last_hidden_state, wanted.last_hidden_state)
    assert torch.equal(copy.deepcopy(module)(tokens, torch.ones_like(tokens)).pooler_output, wanted.pooler_output)
