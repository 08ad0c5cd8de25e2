"""Elementwise ops as a step of their own, one or several in a row, on storages of any layout.

y = add(operand 0, operand 1); relu        f32 and truth values: vectors along y's innermost axis
y = cast(floor_divide(operand 0, 7))       other dtypes: one element at a time
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cpu.chain import Argument, Chain, Constant, FromOperand, FromOperation, Operation
from graphopt.backends.cpu.kernel import C_TYPES, Code, Kernel, Pointers
from graphopt.backends.cpu.kernels.loops import Axis, Nest, chunked, nests, outer_code
from graphopt.backends.cpu.kernels.scalar_ops import is_scalar_operation, scalar_expression
from graphopt.backends.cpu.kernels.vector_ops import VECTOR_HEADERS, float_literal, is_vector_chain, literal, vector_expression
from graphopt.backends.cpu.storage import LANES, Storage
from graphopt.ir.types import DType

__all__ = ["Elementwise"]

_VECTOR_DTYPES = (DType.f32, DType.boolean)
_LONG = 4096
"""Elements of an innermost axis that is worth an outer position of its own."""
_NANOSECONDS = {"exp": 5, "silu": 5, "sigmoid": 6, "gelu": 7, "tanh": 9, "erf": 9, "mish": 7, "log": 8, "pow": 200, "sin": 90, "cos": 90}
"""What an op costs on 16 elements, where it is more than 1."""


@dataclass(frozen=True)
class Elementwise(Kernel):
    """y = the last of `operations`, whose arguments are operands, results of operations before it, and numbers.

    Operands have the shape of y; broadcast axes have stride 0 (`Storage.expand`). `TheValue` is operand 0. `dtypes` are
    those of each operation's result and `computed` those in which each operation's arguments meet
    (`graphopt.backends.planning.dtypes.computed_dtype`); without them everything is f32 (truth values: see `vector_ops`).
    """

    operations: tuple[Operation, ...]
    operands: tuple[Storage, ...]
    y: Storage
    dtypes: tuple[DType, ...] = ()
    computed: tuple[DType, ...] = ()

    algorithm: ClassVar[str] = "elementwise"
    headers: ClassVar[tuple[str, ...]] = ("elementwise.hpp", "scalar.hpp", *VECTOR_HEADERS)

    def __post_init__(self) -> None:
        if not all(is_scalar_operation(operation) for operation in self.operations) or not self.operations:
            raise ValueError(f"{self.describe()}: not all are elementwise ops")

    @property
    def reads(self) -> Sequence[Storage]:
        """The operands."""
        return tuple(dict.fromkeys(self.operands))

    @property
    def writes(self) -> Sequence[Storage]:
        """The result."""
        return (self.y,)

    @property
    def is_vector(self) -> bool:
        """True when vectors of f32 do all of it."""
        dtypes = [self.y.dtype, *(operand.dtype for operand in self.operands), *self.dtypes, *self.computed]
        return all(dtype in _VECTOR_DTYPES for dtype in dtypes) and is_vector_chain(Chain(self.operations, self.operands))

    def describe(self) -> str:
        """Ops and shape."""
        return f"{' + '.join(operation.op for operation in self.operations)} {self.y.moved('', 0).text.strip()}"

    @property
    def flops(self) -> int:
        """One per op and element."""
        return len(self.operations) * self.y.elements

    def emit(self, pointers: Pointers) -> Code:
        """A functor of the ops, a struct of loops and a call per nest."""
        storages = (self.y, *self.operands)
        declarations: list[str] = []
        statements: list[str] = []
        made = ", ".join(pointers.read(operand) for operand in self.operands)
        function = "elementwise" if self.is_vector else "elementwise_typed"
        for nest in nests(storages, fill=self.is_vector):
            for part in _divided(nest, len(storages)):
                number = len(declarations)
                declarations.append(self._part_code(part, number))
                y = f"{pointers.write(self.y)}{f' + {part.offsets[0]}' if part.offsets[0] else ''}"
                statements.append(f"{function}<Loops{number}>(worker, {y}, Function{number}{{{made}}});")
        return Code("\n".join(declarations), "\n".join(statements))

    def _part_code(self, part: Nest, number: int) -> str:
        *outer, middle, inner = part.axes
        work = sum(_NANOSECONDS.get(operation.op, 1) for operation in self.operations)
        body = self._vector_body(part, middle, inner) if self.is_vector else self._scalar_body(part, middle, inner)
        fields = [
            f"  const {C_TYPES[operand.dtype.text]}* operand_{index};  // {operand.moved('', 0).text.strip()}"
            for index, operand in enumerate(self.operands)
        ]
        return "\n".join(
            [
                f"struct Loops{number} {{",
                *outer_code(outer, len(part.offsets)),
                f"  static constexpr long MIDDLE = {middle.size}, LENGTH = {inner.size}, WORK = {work};",
                f"  static constexpr long Y_MIDDLE = {middle.strides[0]}, Y_STEP = {inner.strides[0]};",
                "};",
                f"struct Function{number} {{",
                *fields,
                *body,
                "  }",
                "};",
            ]
        )

    def _vector_body(self, part: Nest, middle: Axis, inner: Axis) -> list[str]:
        lines = ["  template <int COUNT> GRAPHOPT_INLINE Vec at(const long* at, long m, long i) const {", "    (void)at, (void)m, (void)i;"]
        for index in range(len(self.operands)):
            address = _address(part, middle, inner, index)
            lines.append(f"    const Vec x{index} = load_lanes<{inner.strides[index + 1]}, COUNT>({address});")
        for index, operation in enumerate(self.operations):
            expression = vector_expression(operation, [self._vector_argument(argument) for argument in operation.arguments])
            lines.append(f"    const Vec v{index} = {expression};")
        return [*lines, f"    return v{len(self.operations) - 1};"]

    def _vector_argument(self, argument: Argument) -> str:
        match argument:
            case Constant(value):
                return f"splat({float_literal(value)})"
            case FromOperation(index):
                return f"v{index}"
            case FromOperand(index):
                return f"x{index}"
            case _:
                return "x0"

    def _scalar_body(self, part: Nest, middle: Axis, inner: Axis) -> list[str]:
        dtypes = self.dtypes or tuple(DType.f32 for _ in self.operations)
        computed = self.computed or dtypes
        result = C_TYPES[self.y.dtype.text]
        lines = [f"  GRAPHOPT_INLINE {result} at(const long* at, long m, long i) const {{", "    (void)at, (void)m, (void)i;"]
        for index, operand in enumerate(self.operands):
            address = _address(part, middle, inner, index)
            lines.append(f"    const {C_TYPES[operand.dtype.text]} x{index} = *({address});")
        for index, operation in enumerate(self.operations):
            arguments = [self._scalar_argument(argument, dtypes, computed[index]) for argument in operation.arguments]
            expression = scalar_expression(operation, arguments, computed[index], dtypes[index])
            lines.append(f"    const {C_TYPES[dtypes[index].text]} v{index} = {expression};")
        last = f"v{len(self.operations) - 1}"
        return [*lines, f"    return {last if dtypes[-1] is self.y.dtype else f'scalar::to<{result}>({last})'};"]

    def _scalar_argument(self, argument: Argument, dtypes: Sequence[DType], meet: DType) -> tuple[str, DType | None]:
        match argument:
            case Constant(value):
                return literal(value, meet), None
            case FromOperation(index):
                return f"v{index}", dtypes[index]
            case FromOperand(index):
                return f"x{index}", self.operands[index].dtype
            case _:
                return "x0", self.operands[0].dtype


def _divided(nest: Nest, count: int) -> list[Nest]:
    """Loops with two axes for the body, and enough positions outside for the workers."""
    one = Axis(1, (0,) * count)
    axes = nest.axes or (one,)
    if axes[-1].size >= _LONG:  # a long row is a body of its own
        parts = chunked(Nest(axes, nest.offsets), LANES * 16)
        return [Nest((*part.axes[:-1], one, part.axes[-1]), part.offsets) for part in parts]
    return chunked(Nest((one, *axes) if len(axes) == 1 else axes, nest.offsets), 8, inner=2)


def _address(part: Nest, middle: Axis, inner: Axis, index: int) -> str:
    terms = [f"operand_{index}", f"{part.offsets[index + 1]}" if part.offsets[index + 1] else "", f"at[{index + 1}]"]
    terms.append(f"m * {middle.strides[index + 1]}L" if middle.size > 1 and middle.strides[index + 1] else "")
    terms.append(f"i * {inner.strides[index + 1]}L" if inner.size > 1 and inner.strides[index + 1] else "")
    return " + ".join(term for term in terms if term)
