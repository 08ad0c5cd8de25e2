"""Elementwise ops one by one, chains of them, casts, broadcasts and copies between layouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812  # the usual name

from graphopt.backends.cuda.chain import Argument, Chain, Constant, FromOperand, TheValue, unary
from graphopt.backends.cuda.kernels.elementwise import Elementwise
from graphopt.backends.cuda.planner.rules import operation_of
from graphopt.ir.attributes import Attribute
from graphopt.ir.types import DType
from tools.check_cuda.case import Case, Operands, Storages, make_case, node_and_result
from tools.check_cuda.cases.numbers import draw, integers, special

__all__ = ["elementwise_cases"]

_UNARY = (
    "relu", "neg", "floor", "ceil", "round", "trunc", "silu", "hardsigmoid", "hardswish", "mish", "selu", "log_sigmoid", "frac", "sigmoid",
    "tanh", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "erf", "abs", "softsign",
    "sign", "square", "isnan", "isinf", "logical_not",
)  # fmt: skip
_WITH_ATTRIBUTES: tuple[tuple[str, Mapping[str, Attribute]], ...] = (
    ("gelu", {"approximate": "none"}),
    ("gelu", {"approximate": "tanh"}),
    ("softplus", {"beta": 2.0, "threshold": 20.0}),
    ("elu", {"alpha": 0.5, "scale": 1.5, "input_scale": 2.0}),
    ("celu", {"alpha": 0.5}),
    ("leaky_relu", {"negative_slope": 0.1}),
    ("clamp", {"minimum": -0.5, "maximum": 6}),
    ("clamp", {"minimum": None, "maximum": 1.0}),
    ("hardshrink", {"lambd": 0.5}),
    ("softshrink", {"lambd": 0.5}),
    ("threshold", {"threshold": 0.5, "value": -2.0}),
)
_BINARY = ["add", "sub", "mul", "div", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor"]
_INTEGERS = ["add", "sub", "mul", "maximum", "minimum", "remainder", "fmod", "bitwise_and", "bitwise_or", "bitwise_xor", "lt", "eq"]


def node_case(name: str, op: str, operands: Operands, attrs: Mapping[str, Attribute] | None = None) -> Case:
    """One node of the IR as an elementwise kernel, arguments and dtypes as the planner makes them."""
    node, want = node_and_result(op, operands, attrs)
    tensors: dict[str, torch.Tensor] = {}
    arguments: list[Argument] = []
    for operand in operands:
        if isinstance(operand, torch.Tensor):
            arguments.append(FromOperand(len(tensors) - 1) if tensors else TheValue())
            tensors[f"x{len(tensors)}"] = operand
        else:
            assert operand is not None, "an elementwise op has all of its operands"
            arguments.append(Constant(operand))
    operation = operation_of(node, tuple(arguments))

    def make(storages: Storages) -> Elementwise:
        x, *others = (storages[name].expand(want.shape) for name in tensors)
        return Elementwise(x, storages["y"], Chain((operation,), tuple(others), x.dtype))

    return make_case("elementwise", name, tensors, want, make)


def elementwise_cases() -> Iterator[Case]:
    """All of them."""
    numbers = special()
    # exp2, sin and cos of what is far from 0 lose digits by nature
    near = numbers[numbers.isnan() | numbers.isinf() | (numbers.abs() < 21)]
    for op in _UNARY:
        yield node_case(op, op, [near if op in ("sin", "cos", "exp2", "exp", "expm1") else numbers])
    for op, attrs in _WITH_ATTRIBUTES:
        yield node_case(f"{op} {' '.join(str(value) for value in attrs.values())}", op, [numbers], attrs)
    for op in _BINARY:
        yield node_case(f"{op} of all pairs", op, [numbers.reshape(-1, 1), numbers], {"rounding": None} if op == "div" else None)
    yield from _numbers(numbers)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.uint8):
        yield from _integers(dtype)
    yield from _casts()
    yield from _halves()
    yield from _layouts()


def _numbers(numbers: torch.Tensor) -> Iterator[Case]:
    """With literals, powers, divisions that round, and float64."""
    for exponent in (0.5, 2, 3, -1.0, -0.5):
        yield node_case(f"pow {exponent}", "pow", [numbers[numbers.abs() < 1e20], exponent])
    yield node_case("sub from number", "sub", [1.5, numbers])
    yield node_case("div of number", "div", [2.0, numbers], {"rounding": None})
    yield node_case("div trunc", "div", [draw(33), 0.3], {"rounding": "trunc"})
    yield node_case("where", "where", [numbers > 0, numbers, -2.0])
    yield node_case("prelu", "prelu", [numbers, torch.tensor([0.25])])
    for op in ("relu", "silu", "gelu", "sqrt", "exp"):
        attrs: dict[str, Attribute] = {"approximate": "none"} if op == "gelu" else {}
        yield node_case(f"{op} f64", op, [draw(37, dtype=torch.float64).abs()], attrs)
    yield node_case("relu no elements", "relu", [torch.zeros(0, 3)])
    yield node_case("relu scalar", "relu", [torch.tensor(-2.0)])
    yield node_case("add scalar", "add", [torch.tensor(2.0), draw(3, 5)])


def _integers(dtype: torch.dtype) -> Iterator[Case]:
    low = 0 if dtype is torch.uint8 else -9
    left, right = integers(low, 10, 5, 7, dtype=dtype), integers(1, 9, 7, dtype=dtype, seed=1)
    name = str(dtype).removeprefix("torch.")
    for op in _INTEGERS:
        yield node_case(f"{op} {name}", op, [left, right])
    for rounding in ("floor", "trunc"):
        yield node_case(f"div {rounding} {name}", "div", [left, right], {"rounding": rounding})
    yield node_case(f"div {name}", "div", [left, right], {"rounding": None})
    yield node_case(f"mul number {name}", "mul", [left, 3])
    yield node_case(f"add float {name}", "add", [left, 0.5])


def _casts() -> Iterator[Case]:
    names = (DType.f64, DType.f32, DType.f16, DType.i64, DType.i32, DType.i8, DType.u8, DType.boolean)
    for source in names:
        tensor = (draw(3, 11, seed=2).abs() * 9).to(getattr(torch, source.torch_name))
        for target in names:
            if target is not source:
                yield node_case(f"cast {source.text} to {target.text}", "cast", [tensor], {"dtype": target})
    truths = integers(0, 2, 4, 9, dtype=torch.bool)
    for op in ("add", "mul", "maximum", "minimum", "bitwise_xor", "logical_and"):
        yield node_case(f"{op} bool", op, [truths, truths[0]])
    yield node_case("bitwise_not bool", "bitwise_not", [truths])


def _halves() -> Iterator[Case]:
    for dtype in (torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        left, right = draw(5, 33, dtype=dtype), draw(33, dtype=dtype, seed=1)
        for op in ("add", "mul", "maximum", "lt"):
            yield node_case(f"{op} {name}", op, [left, right])
        for op in ("relu", "sigmoid", "tanh", "exp", "silu"):
            yield node_case(f"{op} {name}", op, [left])


def _layouts() -> Iterator[Case]:
    """Chains with broadcast operands, and copies, from and to strides of all kinds."""
    x = draw(2, 5, 7, 6)
    bias, last = draw(5, 1, 1, seed=1), x.contiguous(memory_format=torch.channels_last)

    def chain(storages: Storages, shape: Sequence[int]) -> Chain:
        added = node_and_result("add", [x, bias])[0]
        add = operation_of(added, (TheValue(), FromOperand(0)))
        from_add = unary(("neg", "relu", "sigmoid")).operations[1:]  # each on the result before it
        return Chain((add, *from_add), (storages["bias"].expand(shape),))

    want = F.relu(x.double() + bias).sigmoid().float()
    for name, tensor in (("NCHW", x), ("NHWC", last)):
        for channels_last in (False, True):
            title = f"{name} to {'NHWC' if channels_last else 'NCHW'}"
            yield make_case(
                "elementwise", f"add + relu + sigmoid {title}", {"x": tensor, "bias": bias}, want,
                lambda s: Elementwise(s["x"], s["y"], chain(s, x.shape)), channels_last=channels_last,
            )  # fmt: skip
            yield make_case(
                "elementwise", f"copy {title}", {"x": tensor}, x, lambda s: Elementwise(s["x"], s["y"]), channels_last=channels_last
            )
    wide = draw(70, 90)
    yield make_case(
        "elementwise", "copy transposed", {"x": wide}, wide.T.contiguous(), lambda s: Elementwise(s["x"].permute((1, 0)), s["y"])
    )
    yield make_case("elementwise", "copy slice", {"x": wide}, wide[3:50:2, 1:90:3].contiguous(),
        lambda s: Elementwise(s["x"].slice(0, 3, 50, 2).slice(1, 1, 90, 3), s["y"]))  # fmt: skip
    yield make_case("elementwise", "copy expand", {"x": bias}, bias.expand(2, 5, 7, 6).contiguous(),
        lambda s: Elementwise(s["x"].expand((2, 5, 7, 6)), s["y"]))  # fmt: skip
