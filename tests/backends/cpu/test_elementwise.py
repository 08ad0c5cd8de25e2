"""Elementwise steps against torch: layouts, broadcasting, dtypes and their promotion, threads."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import pytest
import torch
from numpy.typing import NDArray

from graphopt.backends.cpu.chain import Constant, FromOperand, FromOperation, Operation
from graphopt.backends.cpu.kernels.elementwise import Elementwise
from graphopt.backends.cpu.storage import Storage, blocked, channels_last, plain
from graphopt.ir.attributes import Attribute
from graphopt.ir.types import DType
from tests.backends.cpu.support import Built, memory_of, value_of

F32 = DType.f32
Array = NDArray[numpy.generic]
SHAPE = (2, 24, 3, 20)


def _through(view: Storage | None) -> Storage:
    assert view is not None
    return view


def _random(shape: tuple[int, ...], dtype: DType, seed: int) -> Array:
    generator = numpy.random.default_rng(seed)
    if dtype is DType.boolean:
        return generator.integers(0, 2, shape).astype(bool)
    if dtype.is_float:
        return generator.standard_normal(shape).astype(dtype.torch_name)
    return generator.integers(0 if dtype.text.startswith("u") else -9, 10, shape).astype(dtype.torch_name)


@pytest.mark.parametrize("isa", ["avx512", "avx2"])
def test_layouts(isa: str) -> None:
    """(x + a) * c, stored as y, for every pair of layouts; all threads give the same bits."""
    layouts: dict[str, Callable[[str], Storage]] = {
        "plain": lambda name: plain(name, F32, SHAPE, (1, 2)),
        "blocked": lambda name: blocked(name, F32, SHAPE, (1, 1)),
        "last": lambda name: channels_last(name, F32, SHAPE),
    }
    a, c = blocked("a", F32, SHAPE), plain("c", F32, (24, 1, 1))
    operations = (Operation("add", (FromOperand(0), FromOperand(1))), Operation("mul", (FromOperation(0), FromOperand(2))))
    kernels: list[Elementwise] = []
    inputs = [a, c]
    outputs: list[Storage] = []
    for source in layouts:
        for target in layouts:
            x, y = layouts[source](f"x{len(kernels)}"), layouts[target](f"y{len(kernels)}")
            inputs.append(x)
            outputs.append(y)
            kernels.append(Elementwise(operations, (x, a, _through(c.expand(SHAPE))), y))
    built = Built(kernels, inputs, outputs, isa=isa)
    values = {storage.buffer: _random(storage.shape, F32, number) for number, storage in enumerate(inputs)}
    memories = {storage.buffer: memory_of(values[storage.buffer], storage, fill=numpy.nan) for storage in inputs}
    for threads in (1, 2, 3):
        found = built.run(memories, threads)
        for kernel in kernels:
            want = (values[kernel.operands[0].buffer] + values["a"]) * values["c"]  # pyright: ignore[reportOperatorIssue]
            assert numpy.array_equal(value_of(found[kernel.y.buffer], kernel.y), want), f"{kernel.operands[0].text} to {kernel.y.text}"


def test_long_rows_are_cut_for_the_workers() -> None:
    x, y = plain("x", F32, (3, 100_003)), plain("y", F32, (3, 100_003))
    s, z = plain("s", F32, (3, 1)), plain("z", F32, (3, 100_003))
    add = Elementwise((Operation("add", (FromOperand(0), FromOperand(0))),), (x,), y)
    scale = Elementwise((Operation("mul", (FromOperand(0), FromOperand(1))),), (x, _through(s.expand(x.shape))), z)
    built = Built([add, scale], [x, s], [y, z])
    value, factor = _random(x.shape, F32, 0), _random(s.shape, F32, 1)
    for threads in (1, 2, 4):
        found = built.run({"x": value.reshape(-1), "s": factor.reshape(-1)}, threads)
        assert numpy.array_equal(value_of(found["y"], y), value + value)  # pyright: ignore[reportOperatorIssue]
        assert numpy.array_equal(value_of(found["z"], z), value * factor)  # pyright: ignore[reportOperatorIssue]


_BINARY: dict[str, Callable[[Any, Any], torch.Tensor]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "pow": torch.pow,
    "atan2": torch.atan2,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
    "bitwise_and": torch.bitwise_and,
    "bitwise_or": torch.bitwise_or,
    "bitwise_xor": torch.bitwise_xor,
    "bitwise_left_shift": torch.bitwise_left_shift,
    "bitwise_right_shift": torch.bitwise_right_shift,
}
_DTYPES = (F32, DType.f64, DType.i64, DType.u8, DType.boolean)


def _of_torch(dtype: torch.dtype) -> DType:
    return DType.parse(str(dtype).removeprefix("torch."))


class _Cases:
    """Operations on small tensors, compiled together and compared with torch."""

    def __init__(self) -> None:
        self.inputs: dict[str, tuple[Storage, torch.Tensor]] = {}
        self.kernels: list[Elementwise] = []
        self.wants: list[torch.Tensor] = []

    def operand(self, dtype: DType, positive: bool = False, special: bool = False) -> tuple[Storage, torch.Tensor]:
        name = f"{dtype.text}_{positive}_{special}_{len(self.inputs)}"
        array = _random((3, 7), dtype, len(self.inputs))
        if positive:
            array = numpy.abs(array.astype(numpy.float64)).astype(dtype.torch_name) + numpy.ones((), dtype.torch_name)
        if special and dtype.is_float:
            array.reshape(-1)[:6] = [numpy.nan, numpy.inf, -numpy.inf, 0.0, -0.0, 2.0]
        self.inputs[name] = plain(name, dtype, (3, 7)), torch.from_numpy(array)
        return self.inputs[name]

    def add(self, operation: Operation, operands: Sequence[Storage], want: torch.Tensor, computed: DType) -> None:
        y = plain(f"y{len(self.kernels)}", _of_torch(want.dtype), tuple(want.shape))
        self.kernels.append(Elementwise((operation,), tuple(operands), y, (y.dtype,), (computed,)))
        self.wants.append(want)

    def check(self, isa: str = "avx512") -> None:
        inputs = [storage for storage, _ in self.inputs.values()]
        built = Built(self.kernels, inputs, [kernel.y for kernel in self.kernels], isa=isa)
        found = built.run({storage.buffer: value.numpy().reshape(-1) for storage, value in self.inputs.values()}, 2)
        for kernel, want in zip(self.kernels, self.wants, strict=True):
            got = torch.from_numpy(value_of(found[kernel.y.buffer], kernel.y))
            where = f"{kernel.describe()} of {[operand.dtype.text for operand in kernel.operands]} {kernel.operations[0].arguments}"
            torch.testing.assert_close(got, want, rtol=2e-6, atol=1e-6, equal_nan=True, msg=lambda text, where=where: f"{where}: {text}")


def test_binary_ops_of_all_dtypes() -> None:
    cases = _Cases()
    for name, function in _BINARY.items():
        for left, right in [(dtype, dtype) for dtype in _DTYPES] + [(DType.i64, F32), (DType.boolean, DType.i32)]:
            shift = "shift" in name
            integer_division = name in ("remainder", "fmod", "pow", "bitwise_left_shift", "bitwise_right_shift")
            a, va = cases.operand(left, positive=name == "pow", special=name != "pow")
            b, vb = cases.operand(right, positive=integer_division, special=not integer_division)
            try:
                want = function(va, vb)
            except RuntimeError:
                continue  # torch has no such op either
            if shift and (DType.boolean in (left, right) or want.dtype.is_floating_point):
                continue
            common = _of_torch(torch.result_type(va, vb))
            computed = common if want.dtype is torch.bool else _of_torch(want.dtype)
            cases.add(
                Operation(name, (FromOperand(0), FromOperand(1)), {"rounding": None} if name == "div" else {}), (a, b), want, computed
            )
    cases.check()


def test_rounded_divisions_of_all_signs() -> None:
    cases = _Cases()
    for dtype in (F32, DType.f64, DType.i64, DType.i32, DType.u8):
        a, va = cases.operand(dtype)
        b, vb = cases.operand(dtype)
        if not dtype.is_float:
            vb[vb == 0] = 3
        for rounding in ("floor", "trunc"):
            attrs: dict[str, Attribute] = {"rounding": rounding}
            want = torch.div(va, vb, rounding_mode=rounding)
            cases.add(Operation("div", (FromOperand(0), FromOperand(1)), attrs), (a, b), want, dtype)
        for name in ("remainder", "fmod"):
            cases.add(Operation(name, (FromOperand(0), FromOperand(1))), (a, b), _BINARY[name](va, vb), dtype)
    cases.check()
    cases.check("generic")


def test_integers_never_crash() -> None:
    """Division by zero gives 0, the least number wraps around."""
    a, b = plain("a", DType.i64, (4,)), plain("b", DType.i64, (4,))
    least = -(2**63)
    values = {"a": numpy.array([5, least, least, least]), "b": numpy.array([0, -1, 1, 0])}
    names = ("floor", "trunc", "remainder", "fmod")
    outputs = [plain(f"y{number}", DType.i64, (4,)) for number in range(4)]
    operations = [
        Operation("div", (FromOperand(0), FromOperand(1)), {"rounding": name})
        if name in ("floor", "trunc")
        else Operation(name, (FromOperand(0), FromOperand(1)))
        for name in names
    ]
    kernels = [Elementwise((operation,), (a, b), y, (DType.i64,)) for operation, y in zip(operations, outputs, strict=True)]
    found = Built(kernels, [a, b], outputs).run(values)
    assert [found[y.buffer].tolist() for y in outputs] == [[0, least, least, 0], [0, least, least, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_casts() -> None:
    cases = _Cases()
    dtypes = (F32, DType.f64, DType.i64, DType.i32, DType.i16, DType.i8, DType.u8, DType.boolean)
    for source in dtypes:
        x, value = cases.operand(source, positive=True)
        for target in dtypes:
            want = value.to(getattr(torch, target.torch_name))
            cases.add(Operation("cast", (FromOperand(0),), {"dtype": target}), (x,), want, source)
    cases.check()


_UNARY = (
    "relu", "neg", "floor", "abs", "sign", "square", "exp", "sigmoid", "sqrt", "isnan", "isinf", "logical_not", "bitwise_not",
    "silu", "softsign", "tanh",
)  # fmt: skip


def test_unary_ops_of_all_dtypes() -> None:
    cases = _Cases()
    for dtype in _DTYPES:
        for name in _UNARY:
            function = getattr(torch, name, None) or getattr(torch.nn.functional, name)
            x, value = cases.operand(dtype, special=name != "sign")
            try:
                want: torch.Tensor = function(value)
            except RuntimeError:
                continue
            computed = dtype if want.dtype is torch.bool else _of_torch(want.dtype)
            cases.add(Operation(name, (FromOperand(0),)), (x,), want, computed)
    cases.check()


def test_ops_with_attributes() -> None:
    functional = torch.nn.functional
    cases = _Cases()
    table: list[tuple[str, dict[str, Attribute], Callable[[torch.Tensor], torch.Tensor]]] = [
        ("gelu", {"approximate": "none"}, functional.gelu),
        ("gelu", {"approximate": "tanh"}, lambda x: functional.gelu(x, approximate="tanh")),
        ("softplus", {"beta": 2, "threshold": 3.0}, lambda x: functional.softplus(x, 2, 3)),
        ("elu", {"alpha": 0.5, "scale": 2.0, "input_scale": 1.5}, lambda x: torch.ops.aten.elu(x, 0.5, 2.0, 1.5)),
        ("celu", {"alpha": 1.5}, lambda x: functional.celu(x, 1.5)),
        ("leaky_relu", {"negative_slope": 0.1}, lambda x: functional.leaky_relu(x, 0.1)),
        ("clamp", {"minimum": -0.5, "maximum": 0.75}, lambda x: x.clamp(-0.5, 0.75)),
        ("clamp", {"minimum": None, "maximum": 0.0}, lambda x: x.clamp(max=0.0)),
        ("hardshrink", {"lambd": 0.5}, lambda x: functional.hardshrink(x, 0.5)),
        ("softshrink", {"lambd": 0.5}, lambda x: functional.softshrink(x, 0.5)),
        ("threshold", {"threshold": 0.25, "value": 7.0}, lambda x: functional.threshold(x, 0.25, 7.0)),
        ("mish", {}, functional.mish),
        ("hardswish", {}, functional.hardswish),
        ("selu", {}, functional.selu),
        ("log_sigmoid", {}, functional.logsigmoid),
        ("frac", {}, torch.frac),
    ]
    for dtype in (F32, DType.f64):
        for name, attrs, function in table:
            x, value = cases.operand(dtype)
            cases.add(Operation(name, (FromOperand(0),), attrs), (x,), function(value), dtype)
        x, value = cases.operand(dtype)
        w, slope = cases.operand(dtype)
        want = torch.where(value > 0, value, value * slope)
        cases.add(Operation("prelu", (FromOperand(0), FromOperand(1))), (x, w), want, dtype)
    x, whole = cases.operand(DType.i64)
    cases.add(Operation("clamp", (FromOperand(0),), {"minimum": -2, "maximum": 3}), (x,), whole.clamp(-2, 3), DType.i64)
    cases.check()


def test_numbers_and_choices() -> None:
    cases = _Cases()
    x, value = cases.operand(F32, special=True)
    w, whole = cases.operand(DType.i64)
    t, truth = cases.operand(DType.boolean)
    cases.add(Operation("sub", (Constant(1.5), FromOperand(0))), (x,), 1.5 - value, F32)
    for power in (0.0, 0.5, 1.0, 2.0, 3.0, -0.5, -1.0, -2.0, 2.5):
        cases.add(Operation("pow", (FromOperand(0), Constant(power))), (x,), value**power, F32)
    cases.add(Operation("pow", (Constant(2.0), FromOperand(0))), (x,), torch.pow(2.0, value), F32)
    cases.add(
        Operation("where", (FromOperand(1), FromOperand(0), Constant(float("-inf")))), (x, t), torch.where(truth, value, float("-inf")), F32
    )
    cases.add(Operation("where", (FromOperand(1), FromOperand(0), Constant(-7))), (w, t), torch.where(truth, whole, -7), DType.i64)
    cases.add(Operation("lt", (FromOperand(0), Constant(0.25))), (x,), value < 0.25, F32)
    cases.add(Operation("eq", (FromOperand(0), Constant(3))), (w,), whole == 3, DType.i64)
    cases.add(Operation("mul", (FromOperand(0), Constant(0.5))), (w,), whole * 0.5, F32)
    cases.check()


def test_several_ops_of_several_dtypes_in_a_row() -> None:
    """Attention mask of positions: where(position <= length, 0, -inf)."""
    position, length, y = plain("p", DType.i64, (1, 9)), plain("n", DType.i32, (4, 1)), plain("y", F32, (4, 9))
    operands = (_through(position.expand((4, 9))), _through(length.expand((4, 9))))
    operations = (
        Operation("le", (FromOperand(0), FromOperand(1))),
        Operation("logical_not", (FromOperation(0),)),
        Operation("where", (FromOperation(1), Constant(float("-inf")), Constant(0.0))),
    )
    kernel = Elementwise(operations, operands, y, (DType.boolean, DType.boolean, F32), (DType.i64, DType.boolean, F32))
    built = Built([kernel], [position, length], [y])
    p, n = numpy.arange(9).reshape(1, 9), numpy.array([[0], [8], [3], [5]], dtype=numpy.int32)
    found = value_of(built.run({"p": p.reshape(-1), "n": n.reshape(-1)})["y"], y)
    assert numpy.array_equal(found, numpy.where(p <= n, 0, -numpy.inf).astype(numpy.float32))


def test_an_op_that_is_not_elementwise_is_refused() -> None:
    x = plain("x", F32, (2,))
    with pytest.raises(ValueError, match="softmax"):
        Elementwise((Operation("softmax", (FromOperand(0),)),), (x,), plain("y", F32, (2,)))
