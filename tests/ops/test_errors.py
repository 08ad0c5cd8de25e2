"""The text of type errors: op, operands, axis, both sizes."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt import ops
from graphopt.errors import IRError, TypeInferenceError
from graphopt.ir.dims import Dim, symbol
from graphopt.ir.types import DType, TensorType

BATCH = symbol("batch")


def f32(*shape: Dim) -> TensorType:
    return TensorType(DType.f32, shape)


def i64(*shape: Dim) -> TensorType:
    return TensorType(DType.i64, shape)


CONV: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
POOL: dict[str, Any] = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1), "ceil_mode": False}

CASES: tuple[tuple[str, tuple[Any, ...], dict[str, Any], str], ...] = (
    (
        "add",
        (f32(1, 48, 56, 56), f32(1, 64, 56, 56)),
        {},
        "add(f32[1,48,56,56], f32[1,64,56,56]): sizes differ on axis 1 of the result: 48 and 64",
    ),
    ("add", (f32(BATCH), f32(4)), {}, "add(f32[batch], f32[4]): sizes differ on axis 0 of the result: batch and 4"),
    ("add", (f32(BATCH), f32(symbol("other"))), {}, "sizes differ on axis 0 of the result: batch and other"),
    ("add", (1, 2), {}, "add(1, 2): has no tensor operand"),
    ("add", (f32(2), None), {}, "add(f32[2], none): operand 'b' is missing"),
    ("add", (f32(2),), {}, "takes the operands (a, b), got 1"),
    ("relu", (0.5,), {}, "relu(0.5): operand 'x' is 0.5, needs a tensor"),
    ("relu", (f32(2),), {"inplace": True}, "attributes do not fit: missing [], unknown ['inplace']"),
    ("softmax", (f32(2),), {}, "attributes do not fit: missing ['axis'], unknown []"),
    ("softmax", (f32(2, 3),), {"axis": 2}, "axis is 2, the operand has 2 axes"),
    ("softmax", (f32(2, 3),), {"axis": -1}, "attribute axis is -1, needs int >= 0"),
    ("softmax", (f32(2, 3),), {"axis": 1.0}, "attribute axis is 1.0, needs int >= 0"),
    ("gelu", (f32(2),), {"approximate": "fast"}, 'attribute approximate is "fast", needs "none" | "tanh"'),
    ("gelu", (i64(2),), {"approximate": "none"}, "gelu(i64[2]): operand 0 is i64, needs floating point"),
    ("sub", (TensorType(DType.boolean, (2,)), f32(2)), {}, "can't subtract booleans"),
    ("reshape", (f32(2, 3),), {"shape": (4,)}, "[2,3] has 6 elements, [4] has 4"),
    ("reshape", (f32(BATCH, 3),), {"shape": (BATCH, 4)}, "[batch,3] has 3*batch elements, [batch,4] has 4*batch"),
    ("reshape", (f32(6),), {"shape": (-1,)}, "axis 0 of shape is -1, needs at least 0"),
    ("permute", (f32(2, 3),), {"axes": (0, 0)}, "axes are (0, 0), needs each of 0 to 1 once"),
    ("expand", (f32(2, 3),), {"shape": (4, 3)}, "axis 0 has the size 2, which does not expand to 4"),
    ("slice", (f32(4),), {"axis": 0, "start": 3, "stop": 2, "step": 1}, "start is 3, stop is 2 on axis 0 of size 4"),
    ("select", (f32(4),), {"axis": 0, "index": 4}, "index is 4 on axis 0 of size 4"),
    ("split", (f32(5),), {"axis": 0, "sizes": (2, 2)}, "sizes [2,2] add up to 4, axis 0 has 5"),
    ("concat", (f32(2, 3), f32(2, 4)), {"axis": 0}, "sizes differ on axis 1: operand 0 has 3, operand 1 has 4"),
    ("pad", (f32(4),), {"pads": ((-3, -2),), "mode": "constant", "value": 0}, "axis 0 of size 4 with pads (-3, -2) would get the size -1"),
    (
        "pad",
        (f32(1, 1, 4),),
        {"pads": ((0, 0), (0, 0), (4, 0)), "mode": "reflect", "value": 0},
        "reflect pad 4 on axis 2 of size 4, needs at most 3",
    ),
    ("sum", (f32(2, 3),), {"axes": (), "keepdims": False}, "axes is empty, needs every reduced axis"),
    ("sum", (f32(2, 3),), {"axes": (0, 0), "keepdims": False}, "axes is (0, 0), an axis is named twice"),
    ("amax", (f32(2, 0),), {"axes": (1,), "keepdims": False}, "axis 1 has the size 0, the largest of nothing is not defined"),
    ("topk", (f32(4),), {"k": 5, "axis": 0, "largest": True, "sorted": True}, "k is 5 on axis 0 of size 4"),
    ("embedding", (f32(10, 4), f32(3)), {"padding_idx": None}, "operand 1 is f32, needs i64 or i32"),
    ("conv2d", (f32(1, 3, 8, 8), f32(8, 4, 3, 3), None), CONV, "operand 0 has 3 channels on axis 1, the weight with 1 groups needs 4"),
    ("conv2d", (f32(1, 3, 2, 8), f32(8, 3, 3, 3), None), CONV, "the window covers 3 on axis 2, the operand has 2, with padding 2"),
    ("conv2d", (f32(1, 3, 8, 8), f32(8, 3, 3, 3), f32(7)), CONV, "operand 2 has the shape [7], needs [8] (one number per output channel)"),
    ("conv2d", (f32(3, 8), f32(8, 3, 3, 3), None), CONV, "operand 0 has 2 axes, needs 4 (batch, channels, height, width) or 3"),
    ("conv2d", (f32(1, 3, 8, 8), f32(8, 3, 3, 3), None), CONV | {"stride": (1,)}, "attribute stride is (1,), needs (int, int)"),
    ("conv2d", (f32(1, 3, 8, 8), f32(8, 3, 3, 3), None), CONV | {"stride": (1, 0)}, "stride is 0, needs at least 1"),
    ("conv2d", (f32(1, 3, 8, 8), TensorType(DType.f16, (8, 3, 3, 3)), None), CONV, "dtypes differ: f32 and f16"),
    ("max_pool2d", (f32(1, 3, 8, 8),), POOL | {"padding": (2, 0)}, "padding is 2 on axis 2, needs 0 to 1, half of the kernel 2"),
    ("linear", (f32(2, 3), f32(5, 4), None), {}, "x has 3 features on axis 1, the weight needs 4"),
    ("matmul", (f32(2, 3), f32(4, 5)), {}, "a has 3 on axis 1, b has 4 on axis 0, needs the same"),
    ("einsum", (f32(2, 3), f32(4, 5)), {"equation": "ij,jk->ik"}, "label 'j' has the size 3, but 4 on axis 0 of operand 1"),
    ("einsum", (f32(2, 3),), {"equation": "ij->ik"}, "result label 'k' is in no operand"),
    (
        "batch_norm",
        (f32(1, 3, 4), f32(4), None, None, None),
        {"mode": "train", "momentum": 0.1, "eps": 1e-5},
        "operand 1 has the shape [4], needs [3]",
    ),
    (
        "batch_norm",
        (f32(1, 3, 4), None, None, None, None),
        {"mode": "eval", "momentum": 0.1, "eps": 1e-5},
        'mode is "eval" without mean or var',
    ),
    ("layer_norm", (f32(2, 3), None, None), {"normalized_shape": (4,), "eps": 1e-5}, "normalized_shape is [4], x ends in [3]"),
    ("group_norm", (f32(2, 3), None, None), {"groups": 2, "eps": 1e-5}, "2 groups do not divide the 3 channels of axis 1"),
    ("dropout", (f32(2),), {"p": 1.5, "mode": "follow"}, "p is 1.5, needs 0 to 1"),
)


@pytest.mark.parametrize(("op", "operands", "attrs", "text"), CASES, ids=[f"{case[0]}-{index}" for index, case in enumerate(CASES)])
def test_error_text(op: str, operands: tuple[Any, ...], attrs: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeInferenceError) as caught:
        ops.infer_call(ops.Call(op, operands, attrs))
    assert text in str(caught.value)
    assert str(caught.value).startswith(f"{op}("), "the message begins with the call"


def test_attention_errors() -> None:
    attrs: dict[str, Any] = {"dropout_p": 0.0, "causal": False, "scale": None, "grouped": False}
    q, k = f32(1, 2, 4, 8), f32(1, 2, 6, 7)
    with pytest.raises(TypeInferenceError, match="q has 8 features, k has 7, needs the same"):
        ops.infer_call(ops.Call("scaled_dot_product_attention", (q, k, k, None), attrs))
    with pytest.raises(TypeInferenceError, match=r"mask f32\[5,4\] does not broadcast to the scores \[1,2,4,4\]"):
        ops.infer_call(ops.Call("scaled_dot_product_attention", (q, q, q, f32(5, 4)), attrs))
    with pytest.raises(TypeInferenceError, match="q has 3 heads, k has 2, which do not divide them"):
        ops.infer_call(ops.Call("scaled_dot_product_attention", (f32(1, 3, 4, 8), q, q, None), attrs | {"grouped": True}))


def test_unknown_op_lists_near_names() -> None:
    with pytest.raises(IRError, match=r"'conv2' is not in the op table\n  fix: near names: conv"):
        ops.definition("conv2")


def test_a_name_is_registered_once() -> None:
    with pytest.raises(IRError, match="op 'relu' is registered twice"):
        ops.register(ops.definition("relu"))
