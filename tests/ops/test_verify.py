"""`verify`: what it accepts, and what its errors say."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from graphopt import ops
from graphopt.errors import IRError, VerifyError
from graphopt.ir.dims import symbol
from graphopt.ir.graph import GraphEditor, Source
from graphopt.ir.parser import parse
from graphopt.ir.types import DType, TensorType
from tests.ops.random_calls import DRAW, draw

TINY = """\
graph tiny(%x: f32[batch,3,8,8]) where batch in [1, 64] {
  param %conv.weight: f32[4,3,3,3]
  %conv: f32[batch,4,6,6] = conv2d(%x, %conv.weight, none) {dilation=(1, 1), groups=1, padding=(0, 0), stride=(1, 1)}
  %relu: f32[batch,4,6,6] = relu(%conv)
  return %relu
}
"""

COND = """\
graph branches(%flag: bool[], %x: f32[4]) {
  %y: f32[4] = cond(%flag, %x) regions {
    graph then(%a: f32[4]) {
      %r: f32[4] = relu(%a)
      return %r
    }
    graph else(%a: f32[4]) {
      %r: f32[4] = neg(%a)
      return %r
    }
  }
  return %y
}
"""


def message(text: str) -> str:
    with pytest.raises(VerifyError) as caught:
        ops.verify(parse(text))
    return str(caught.value)


@pytest.mark.parametrize("text", [TINY, COND])
def test_right_graphs_pass(text: str) -> None:
    ops.verify(parse(text))


def test_wrong_type_is_named_with_both_types() -> None:
    found = message(TINY.replace("%relu: f32[batch,4,6,6]", "%relu: f32[batch,4,6,7]"))
    assert found == (
        "%relu is stored as f32[batch,4,6,7], relu gives f32[batch,4,6,6]\n"
        "  at %relu: f32[batch,4,6,7] = relu(%conv)\n"
        "  fix: build nodes with a Builder or Rewriter, which infer types"
    )


def test_source_of_the_node_is_named() -> None:
    graph = parse(TINY)
    relu = graph.value("relu").producer
    assert relu is not None
    editor = GraphEditor(graph)
    wrong = editor.insert("neg", [relu.result], {}, [("wrong", TensorType(DType.f32, (3,)))], source=Source("layer1.act", "model.py", 41))
    editor.set_outputs([wrong.result])
    with pytest.raises(VerifyError, match=r"from model\.py:41 \(layer1\.act\)"):
        ops.verify(graph)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("groups=1", "groups=true", "attribute groups is true, needs int"),
        ("stride=(1, 1)", "stride=(1, 1, 1)", "attribute stride is (1, 1, 1), needs (int, int)"),
        ("stride=(1, 1)", "stride=(batch, 1)", "attribute stride is (batch, 1), needs (int, int)"),
        (", stride=(1, 1)", "", "attributes do not fit: missing ['stride'], unknown []"),
        ("relu(%conv)", "relu(%conv, %x)", "takes the operands (x), got 2"),
        ("relu(%conv)", "relu(none)", "operand 'x' is missing"),
        ("f32[4,3,3,3]", "f32[4,5,3,3]", "operand 0 has 3 channels on axis 1, the weight with 1 groups needs 5"),
    ],
)
def test_signature(old: str, new: str, expected: str) -> None:
    assert expected in message(TINY.replace(old, new))


def test_number_of_results() -> None:
    text = TINY.replace("%relu: f32[batch,4,6,6] =", "%relu: f32[batch,4,6,6], %more: f32[1] =")
    assert "relu gives 1 results, the node has 2" in message(text)


def test_opaque_nodes_are_believed() -> None:
    ops.verify(
        parse(TINY.replace("relu(%conv)", "aten.strange.default(%conv) {self=$0, wide=(1, 2)}").replace("6,6] = aten", "6,9] = aten"))
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("%r: f32[4] = neg(%a)", "%r: f32[5] = neg(%a)", "%r is stored as f32[5], neg gives f32[4]"),
        ("graph else(%a: f32[4])", "graph else(%a: f32[4], %b: f32[4])", "region 'else' takes 2 inputs, gets 1"),
        (
            "%r: f32[4] = neg(%a)",
            "%r: i64[] = argmax(%a) {axis=none, keepdims=false}",
            "regions return different types: (f32[4]) and (i64[])",
        ),
        ("%flag: bool[]", "%flag: f32[]", "operand 0 is f32, needs bool"),
        ("%flag: bool[]", "%flag: bool[2]", "the predicate has 2 elements, needs 1"),
        ("%x: f32[4]", "%x: f32[6]", "region 'then' takes %a: f32[4], gets f32[6]"),
    ],
)
def test_regions(old: str, new: str, expected: str) -> None:
    assert expected in message(COND.replace(old, new))


def test_arithmetic_without_answer_is_a_verify_error() -> None:
    text = "graph f(%x: f32[n,m,k,l]) where n in [0, 9], m in [0, 9], k in [0, 9], l in [0, 9] {\n"
    big = 2**62
    text += f"  %y: f32[n] = reshape(%x) {{shape=({big}*n, {big}*m)}}\n  return %y\n}}\n"
    assert "64 bits" in message(text)


def test_builder_infers_regions() -> None:
    branches = parse(COND)
    regions = [region for node in branches.nodes for region in node.regions]
    builder = ops.builder("again")
    flag = builder.input("flag", TensorType(DType.boolean, ()))
    x = builder.input("x", TensorType(DType.f32, (4,)))
    assert builder.add("cond", flag, x, regions=regions).result.type.text == "f32[4]"


STRANGE: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "follow",
    DType.f32,
    symbol("n"),
    symbol("n") // 2,
    (),
    (0,),
    (1, 2),
    (-1, -1),
    (symbol("n"), 2**62),
    ((1, 2), (3, 4)),
    [1],
    {"a": 1},
)


@pytest.mark.parametrize("op", sorted(DRAW))
def test_strange_attributes_and_operands_give_types_or_an_ir_error(op: str) -> None:
    """Whatever stands in a file: a type rule answers or refuses, it does not crash or hang."""
    for seed in range(60):
        rng = random.Random(seed)
        operands, attrs = draw(op, seed)
        for _ in range(rng.randint(1, 2)):
            if attrs and rng.random() < 0.7:
                attrs = {**attrs, rng.choice(sorted(attrs)): rng.choice(STRANGE)}
            elif operands:
                other = rng.choice(
                    (None, 1, 0.5, TensorType(rng.choice(list(DType)), rng.choice(((), (0,), (2, 3), (symbol("n"), 3, 2**40)))))
                )
                operands[rng.randrange(len(operands))] = other
        call = ops.Call(op, tuple(operands), attrs)
        with contextlib.suppress(IRError):
            results = ops.infer_call(call)
            ops.definition(op).flops(call, results)
