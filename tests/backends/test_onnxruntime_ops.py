"""Every op of the table in ONNX Runtime against the reference interpreter, in all dtypes that the op takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from graphopt import ops
from graphopt.backends.onnxruntime import OnnxRuntimeBackend
from graphopt.backends.onnxruntime.emit import EMITTERS
from graphopt.backends.onnxruntime.executable import OnnxRuntimeExecutable
from graphopt.backends.reference.interpreter import Interpreter
from graphopt.ir.graph import Graph, Value
from graphopt.ir.parser import parse
from graphopt.ir.types import DType, TensorType
from tests.support.op_samples import OPS, cond_samples, samples

pytestmark = pytest.mark.onnxruntime

SAMPLES = 12
MOVEMENT = ops.SHAPE | ops.GATHERS | ops.CREATION | {"where"}
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-5, torch.float64: 1e-7}
MOSTLY_FOREIGN = {
    "cumprod": "ONNX has no running product",
    "gru": "weights of a recurrent network that are computed",
    "lstm": "weights of a recurrent network that are computed",
    "rnn_tanh": "weights of a recurrent network that are computed",
    "rnn_relu": "weights of a recurrent network that are computed",
    "bitwise_right_shift": "a shift to the right by numbers that are computed",
}


def lower(graph: Graph, **options: Any) -> OnnxRuntimeExecutable:
    return OnnxRuntimeBackend().lower(graph, threads=1, **options)


def assert_same(op: str, found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], text: str) -> None:
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        tolerance = 0.0 if op in MOVEMENT and op not in ("index_put", "scatter", "linspace") else TOLERANCE.get(want.dtype, 0.0)
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda m: f"{text}\n{m}")


def test_every_op_has_an_emitter() -> None:
    assert set(EMITTERS) == {found.name for found in ops.definitions()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("op", OPS)
def test_op_is_what_the_reference_says(op: str) -> None:
    count = 0
    for graph, inputs, _, attrs in samples(op, SAMPLES):
        torch.manual_seed(0)
        wanted = Interpreter(graph).run(*inputs)
        executable = lower(graph)
        torch.manual_seed(0)
        found = executable.run(inputs)
        if op in ("topk", "sort"):  # which of two equal elements comes first is open
            found, wanted = found[:1], wanted[:1]
            if op == "topk" and not attrs["sorted"]:
                axis = int(attrs["axis"])
                found, wanted = (tuple(t.sort(dim=axis).values for t in each) if each[0].dim() else each for each in (found, wanted))
        assert_same(op, found, wanted, str(graph))
        count += 1
    assert count >= 3


@pytest.mark.parametrize("op", [op for op in OPS if op not in MOSTLY_FOREIGN])
def test_common_dtypes_run_natively(op: str) -> None:
    for graph, _, _, attrs in samples(op, 2 * SAMPLES):
        common = all(value.type.dtype in (DType.f32, DType.i64, DType.i32, DType.boolean) for value in graph.values)
        if not common or attrs.get("mode") == "train" or any(value.type.rank == 0 for value in graph.inputs):
            continue
        report = lower(graph).report
        exempt = ("window that lies in the padding", "PoolAttributes", "output_padding", "Ellipsis")
        assert not report or any(word in report[0] for word in exempt), f"{graph}\n{report}"


def test_cond_becomes_if() -> None:
    for graph, inputs in cond_samples():
        executable = lower(graph)
        assert executable.report == ()
        assert_same("cond", executable.run(inputs), Interpreter(graph).run(*inputs), str(graph))


# Numbers that are easily got wrong


def run_binary(op: str, a: torch.Tensor, b: torch.Tensor | float, **attrs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    builder = ops.builder(op)
    left = builder.input("a", _type(a))
    right: Any = builder.input("b", _type(b)) if isinstance(b, torch.Tensor) else b
    builder.outputs(builder.add(op, left, right, **attrs).result)
    inputs = [a, b] if isinstance(b, torch.Tensor) else [a]
    executable = lower(builder.graph)
    assert executable.report == ()
    return executable.run(inputs)[0], Interpreter(builder.graph).run(*inputs)[0]


def _type(tensor: torch.Tensor) -> TensorType:
    return TensorType(DType.parse(str(tensor.dtype).removeprefix("torch.")), tuple(tensor.shape))


NUMERATORS = [7, -7, 6, -6, 0, 1, -1, 5]
DIVISORS = [3, 3, -3, -3, 5, -2, 2, -5]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.float32])
@pytest.mark.parametrize(
    ("op", "attrs"),
    [("div", {"rounding": "floor"}), ("div", {"rounding": "trunc"}), ("remainder", {}), ("fmod", {}), ("div", {"rounding": None})],
)
def test_division_of_every_sign(op: str, attrs: dict[str, Any], dtype: torch.dtype) -> None:
    a, b = torch.tensor(NUMERATORS, dtype=dtype), torch.tensor(DIVISORS, dtype=dtype)
    for divisor in (b, 3, -3):
        found, wanted = run_binary(op, a, divisor, **attrs)
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted), (op, attrs, divisor)


def test_floor_division_of_floats_rounds_as_torch_does() -> None:
    a = torch.tensor([1.0, 0.3, -0.3, 1e8, float("inf"), float("nan"), 5.0, -5.0])
    b = torch.tensor([0.1, 0.1, 0.1, 3.0, 2.0, 2.0, 0.0, 0.0])
    found, wanted = run_binary("div", a, b, rounding="floor")
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


SPECIALS = torch.tensor([float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 1e-40, -2.0, 3.0])
INFINITE = {"gelu", "hardswish", "softsign", "silu", "mish"}


@pytest.mark.parametrize("op", sorted(ops.UNARY - {"prelu", "bitwise_not"}))
def test_special_numbers(op: str) -> None:
    """NaN is where the reference has NaN; infinities too, but for activations that are x times a gate, where
    ONNX Runtime computes inf * 0."""
    attrs: dict[str, Any] = {
        "gelu": {"approximate": "none"},
        "softplus": {"beta": 1, "threshold": 20},
        "elu": {"alpha": 1.0, "scale": 1, "input_scale": 1},
        "celu": {"alpha": 1.5},
        "leaky_relu": {"negative_slope": 0.1},
        "clamp": {"minimum": -1.0, "maximum": 2.0},
        "hardshrink": {"lambd": 0.5},
        "softshrink": {"lambd": 0.5},
        "threshold": {"threshold": 0.1, "value": 5.0},
        "cast": {"dtype": DType.f16},
    }.get(op, {})
    builder = ops.builder(op)
    builder.outputs(builder.add(op, builder.input("x", TensorType(DType.f32, (8,))), **attrs).result)
    found, wanted = lower(builder.graph).run([SPECIALS])[0], Interpreter(builder.graph).run(SPECIALS)[0]
    if op in INFINITE:
        found, wanted = (torch.cat((t[:1], t[3:])) for t in (found, wanted))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


STRICT = """
graph g(%x: f32[1,2,4,4]) {
  %m: f32[1,2,2,2] = max_pool2d(%x) {ceil_mode=false, dilation=(1, 1), kernel=(2, 2), padding=(0, 0), stride=(2, 2)}
  %a: f32[1,2] = amax(%x) {axes=(2, 3), keepdims=false}
  %b: f32[1,2] = amin(%x) {axes=(2, 3), keepdims=false}
  %i: i64[1,2,4] = argmax(%x) {axis=3, keepdims=false}
  %j: i64[] = argmin(%x) {axis=none, keepdims=false}
  return %m, %a, %b, %i, %j
}
"""


def test_strict_nan_keeps_nan_in_reductions() -> None:
    graph = parse(STRICT)
    x = torch.randn(1, 2, 4, 4)
    x[0, 0, 3, 2] = x[0, 0, 1, 1] = float("nan")
    found = lower(graph, strict_nan=True).run([x])
    for got, want in zip(found, Interpreter(graph).run(x), strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


# Attention


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 2, 3)])
@pytest.mark.parametrize("kind", ["plain", "causal", "bool", "float", "row", "scale"])
def test_attention(lead: tuple[int, ...], kind: str, decompose: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(*lead, 5, 8), torch.randn(*lead, 7, 8), torch.randn(*lead, 7, 4)
    mask: torch.Tensor | None = None
    if kind in ("bool", "float"):
        mask = torch.rand(*lead, 5, 7) < 0.7
        mask[..., 1, :] = False  # a query that sees nothing
        mask = mask if kind == "bool" else torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
    if kind == "row":
        mask = torch.rand(1, 7) < 0.7
    builder = ops.builder("attention")
    inputs = [q, k, v] if mask is None else [q, k, v, mask]
    values: list[Value | None] = [builder.input(f"x{i}", _type(t)) for i, t in enumerate(inputs)]
    values += [None] * (4 - len(values))
    scale = 0.3 if kind == "scale" else None
    node = builder.add("scaled_dot_product_attention", *values, dropout_p=0.0, causal=kind == "causal", scale=scale, grouped=False)
    builder.outputs(node.result)
    executable = lower(builder.graph, decompose_attention=decompose)
    assert executable.report == ()
    torch.testing.assert_close(executable.run(inputs)[0], Interpreter(builder.graph).run(*inputs)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decompose", [False, True])
def test_grouped_attention(decompose: bool) -> None:
    q, k, v = torch.randn(2, 6, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    builder = ops.builder("grouped")
    values = [builder.input(f"x{i}", _type(t)) for i, t in enumerate((q, k, v))]
    node = builder.add("scaled_dot_product_attention", *values, None, dropout_p=0.0, causal=True, scale=None, grouped=True)
    builder.outputs(node.result)
    found = lower(builder.graph, decompose_attention=decompose).run([q, k, v])[0]
    torch.testing.assert_close(found, Interpreter(builder.graph).run(q, k, v)[0], rtol=1e-5, atol=1e-6)
