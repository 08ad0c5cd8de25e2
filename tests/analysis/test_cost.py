"""Costs: by hand on small graphs, and against torch's own counter on models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from graphopt import ops
from graphopt.analysis import cost, peak_memory
from graphopt.capture import capture
from graphopt.ir.dims import symbol
from graphopt.ir.graph import GraphEditor, Range
from graphopt.ir.parser import parse
from graphopt.ir.types import DType, TensorType

SMALL = """\
graph small(%x: f32[batch,3,8,8]) where batch in [1, 64] {
  param %weight: f32[4,3,3,3]
  param %bias: f32[4]
  param %unused: f32[10]
  buffer %mean: f32[4]
  buffer %var: f32[4]
  %conv: f32[batch,4,6,6] = conv2d(%x, %weight, %bias) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  %bn: f32[batch,4,6,6] = batch_norm(%conv, none, none, %mean, %var) {eps=1e-05, mode="follow", momentum=0.1}
  %flat: f32[batch,144] = reshape(%bn) {shape=(batch, 144)}
  %part: f32[batch,10] = slice(%flat) {axis=1, start=0, step=1, stop=10}
  %odd: f32[batch,10] = aten.odd.default(%part) {self=$0}
  return %odd
}
"""


def test_by_hand() -> None:
    found = cost(parse(SMALL), {"batch": 2})
    rows = {row.name: row for row in found.nodes}
    conv = rows["conv"]
    assert conv.flops == 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3)
    assert conv.bytes_read == 4 * (2 * 3 * 8 * 8 + 4 * 3 * 3 * 3 + 4)
    assert conv.bytes_written == 4 * 2 * 4 * 6 * 6
    assert conv.parameters == 4 * 3 * 3 * 3 + 4
    assert rows["bn"].flops == 2 * (2 * 4 * 6 * 6)
    assert (rows["bn"].parameters, rows["bn"].bytes_read) == (0, 4 * (2 * 4 * 6 * 6 + 8))
    assert (rows["flat"].flops, rows["flat"].bytes) == (0, 0)
    assert rows["part"].bytes == 2 * 4 * 2 * 10, "a slice reads what it takes"
    assert rows["odd"].flops is None
    assert rows["odd"].bytes == 2 * 4 * 2 * 10
    assert found.unknown == 1
    assert found.flops == 15552 + 576
    assert (found.parameters, found.parameter_bytes) == (108 + 4 + 10, 4 * 122)


def test_symbols_stay_expressions() -> None:
    found = cost(parse(SMALL))
    assert str(found.flops) == "8064*batch"
    assert str(found.nodes[0].bytes) == "1344*batch + 448"
    assert found.nodes[0].intensity is None


def test_text() -> None:
    table = cost(parse(SMALL), {"batch": 2}).table()
    lines = table.splitlines()
    assert lines[0] == "node  op                result          FLOPs     read  written  parameters"
    assert lines[1] == "conv  conv2d            f32[2,4,6,6]  15.55 k  1.98 kB  1.15 kB         112"
    assert lines[5] == "odd   aten.odd.default  f32[2,10]     unknown     80 B     80 B"
    assert lines[-1] == "5 nodes, 16.13 k FLOPs, 5.79 kB moved, 122 parameters (488 B); 1 node with unknown FLOPs is not counted"
    assert "1x" in cost(parse(SMALL)).op_table()
    assert cost(parse(SMALL)).table({"conv"}).count("\n") == 2


def test_roofline() -> None:
    conv = cost(parse(SMALL), {"batch": 2}).nodes[0]
    assert conv.intensity == pytest.approx(15552 / (1984 + 1152))
    assert conv.seconds(1e9, 1e12) == pytest.approx(15552 / 1e9)
    assert conv.seconds(1e15, 1e6) == pytest.approx((1984 + 1152) / 1e6)


def test_json_is_plain() -> None:
    document = cost(parse(SMALL)).to_json()
    assert document["unknown"] == 1
    total = document["total"]
    assert isinstance(total, dict)
    assert total["flops"] == "8064*batch"


def test_tied_parameters_count_once() -> None:
    graph = parse("""\
graph tied(%x: f32[2,4]) {
  param %weight: f32[4,4] tied ("head.weight",)
  %a: f32[2,4] = linear(%x, %weight, none)
  %b: f32[2,4] = linear(%a, %weight, none)
  return %b
}
""")
    found = cost(graph)
    assert found.parameters == 16
    assert [row.parameters for row in found.nodes] == [16, 16]


def test_the_dearer_branch_counts() -> None:
    graph = parse("""\
graph branches(%flag: bool[], %x: f32[4]) {
  %y: f32[4] = cond(%flag, %x) regions {
    graph then(%a: f32[4]) {
      %r: f32[4] = relu(%a)
      return %r
    }
    graph else(%a: f32[4]) {
      %q: f32[4] = neg(%a)
      %r: f32[4] = neg(%q)
      return %r
    }
  }
  return %y
}
""")
    assert cost(graph).flops == 8
    assert cost(graph).nodes[0].bytes == 64


def test_sums_too_long_to_write_are_unknown() -> None:
    builder = ops.builder("wide")
    editor = GraphEditor(builder.graph)
    for index in range(300):
        editor.add_symbol(f"n{index}", Range(1, 9))
        x = builder.input(f"x{index}", TensorType(DType.f32, (symbol(f"n{index}"),)))
        builder.add("relu", x)
    builder.outputs()
    found = cost(builder.graph)
    assert found.unknown == 0
    assert found.flops is None
    assert cost(builder.graph, {f"n{index}": 2 for index in range(300)}).flops == 600


# Against torch's counter, which counts products of matrices and convolutions alone


def torch_flops(model: torch.nn.Module, *inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops()


COUNTED = ops.CONVOLUTIONS | ops.TRANSPOSED_CONVOLUTIONS | ops.MATMULS


def our_flops(model: torch.nn.Module, *inputs: torch.Tensor) -> int:
    rows = cost(capture(model, inputs)).nodes
    return sum(row.flops for row in rows if row.op in COUNTED and isinstance(row.flops, int))


class Attention(torch.nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)


class Products(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.addmm(torch.zeros(4), torch.matmul(a, b)[0], b.mT[0]) + torch.bmm(a, b)[:, :, :4].sum(0)


SEQUENTIALS: dict[str, tuple[torch.nn.Module, tuple[int, ...]]] = {
    "conv": (torch.nn.Conv2d(6, 8, (3, 5), stride=(2, 1), padding=1, dilation=(1, 2), groups=2), (2, 6, 15, 17)),
    "depthwise": (torch.nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 14, 14)),
    "conv1d": (torch.nn.Conv1d(4, 6, 3, bias=False), (2, 4, 20)),
    "conv3d": (torch.nn.Conv3d(2, 4, 3, padding=1), (1, 2, 5, 6, 7)),
    "transposed": (torch.nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 7, 7)),
    "transposed-groups": (torch.nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 7, 7)),
    "linear": (torch.nn.Linear(16, 32), (3, 5, 16)),
}


@pytest.mark.parametrize("name", sorted(SEQUENTIALS))
def test_layers_agree_with_torch(name: str) -> None:
    model, shape = SEQUENTIALS[name]
    inputs = (torch.randn(shape),)
    assert our_flops(model.eval(), *inputs) == torch_flops(model.eval(), *inputs) > 0


def test_products_agree_with_torch() -> None:
    inputs = (torch.randn(3, 5, 4), torch.randn(3, 4, 5))
    assert our_flops(Products().eval(), *inputs) == torch_flops(Products(), *inputs) > 0


def test_attention_agrees_with_torch_but_for_the_softmax() -> None:
    q, k, v = torch.randn(2, 3, 7, 8), torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8)
    (row,) = cost(capture(Attention().eval(), (q, k, v))).nodes
    scores = 2 * 3 * 7 * 9
    with sdpa_kernel(SDPBackend.MATH):  # the counter does not see into the fused kernels of the CPU
        expected = torch_flops(Attention(), q, k, v)
    assert expected > 0
    assert row.flops == expected + 6 * scores


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("mobilenet_v2", 64), ("squeezenet1_1", 64), ("shufflenet_v2_x0_5", 64)])
def test_models_agree_with_torch(name: str, size: int) -> None:
    import torchvision

    build: Any = getattr(torchvision.models, name)
    model: torch.nn.Module = build(weights=None).eval()
    inputs = (torch.randn(1, 3, size, size),)
    graph = capture(model, inputs)
    found = cost(graph)
    assert our_flops(model, *inputs) == torch_flops(model, *inputs)
    assert found.unknown == 0
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_transformer_with_dynamic_sizes() -> None:
    """Costs with symbols, sizes put in, are those of the graph that was captured with these sizes."""
    from transformers import BertConfig, BertModel

    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    build: Any = BertModel
    model: torch.nn.Module = build(BertConfig(**sizes)).eval()
    tokens = torch.randint(0, 50, (2, 6))
    static = cost(capture(model, kwargs={"input_ids": tokens}))
    graph = capture(model, kwargs={"input_ids": tokens}, dynamic={"input_ids": {0: "batch", 1: "seq"}})
    dynamic = cost(graph, {"batch": 2, "seq": 6})
    assert dynamic.unknown == static.unknown == 0
    assert (dynamic.flops, dynamic.parameters) == (static.flops, static.parameters)
    assert peak_memory(graph, {"batch": 2, "seq": 6}).peak is not None


ROWS: tuple[tuple[str, tuple[Any, ...], dict[str, Any], int], ...] = (
    ("relu", ((2, 3),), {}, 6),
    ("add", ((2, 3), (3,)), {}, 6),
    ("cast", ((2, 3),), {"dtype": DType.f16}, 0),
    ("softmax", ((2, 3),), {"axis": 1}, 5 * 6),
    ("layer_norm", ((2, 3), None, None), {"normalized_shape": (3,), "eps": 1e-5}, 5 * 6),
    ("layer_norm", ((2, 3), (3,), (3,)), {"normalized_shape": (3,), "eps": 1e-5}, 7 * 6),
    ("rms_norm", ((2, 3), (3,)), {"normalized_shape": (3,), "eps": 1e-5}, 4 * 6),
    ("group_norm", ((2, 4, 3), (4,), (4,)), {"groups": 2, "eps": 1e-5}, 7 * 24),
    ("batch_norm", ((2, 4, 3), (4,), (4,), (4,), (4,)), {"mode": "eval", "momentum": 0.1, "eps": 1e-5}, 2 * 24),
    ("batch_norm", ((2, 4, 3), (4,), (4,), (4,), (4,)), {"mode": "train", "momentum": 0.1, "eps": 1e-5}, 7 * 24),
    ("sum", ((2, 3),), {"axes": (1,), "keepdims": False}, 6),
    ("mean", ((2, 3),), {"axes": (1,), "keepdims": False}, 6 + 2),
    ("max_pool1d", ((1, 2, 8),), {"kernel": (2,), "stride": (2,), "padding": (0,), "dilation": (1,), "ceil_mode": False}, 2 * 4 * 2),
    ("adaptive_avg_pool1d", ((1, 2, 8),), {"output_size": (4,)}, 2 * 8),
    ("adaptive_avg_pool1d", ((1, 1, 7),), {"output_size": (3,)}, 3 + 3 + 3),
    ("linear", ((5, 4), (3, 4), (3,)), {}, 2 * 5 * 4 * 3),
    ("einsum", ((5, 4), (4, 3)), {"equation": "ij,jk->ik"}, 2 * 5 * 4 * 3),
    ("permute", ((2, 3),), {"axes": (1, 0)}, 0),
    ("resize", ((1, 2, 4),), {"size": (8,), "mode": "linear", "align_corners": False, "scales": None}, 2 * 2 * 2 * 8),
)


@pytest.mark.parametrize(("op", "shapes", "attrs", "flops"), ROWS, ids=[f"{row[0]}-{index}" for index, row in enumerate(ROWS)])
def test_counting_rules(op: str, shapes: tuple[Any, ...], attrs: dict[str, Any], flops: int) -> None:
    call = ops.Call(op, tuple(None if shape is None else TensorType(DType.f32, shape) for shape in shapes), attrs)
    assert ops.definition(op).flops(call, ops.infer_call(call)) == flops
