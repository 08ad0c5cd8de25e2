"""Values that depend on where they are: tril and triu, arange, linspace, eye."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from graphopt.backends.cpu.kernel import C_TYPES, Code, Kernel, Pointers
from graphopt.backends.cpu.kernels.copy import copy_code
from graphopt.backends.cpu.kernels.loops import Axis, outer_code
from graphopt.backends.cpu.kernels.vector_ops import literal
from graphopt.backends.cpu.storage import Storage
from graphopt.ir.types import DType

__all__ = ["Eye", "Sequence1d", "Triangle"]


def _require_strided(kernel: Kernel, *storages: Storage) -> None:
    for storage in storages:
        if storage.blocked_axis is not None:
            raise ValueError(f"{kernel.describe()}: {storage.text} is blocked, needs plain strides")


@dataclass(frozen=True)
class Triangle(Kernel):
    """y = x with zeros above (`tril`) or below (`triu`) a diagonal of the last two axes."""

    op: Literal["tril", "triu"]
    x: Storage
    y: Storage
    diagonal: int = 0

    algorithm: ClassVar[str] = "triangle"
    headers: ClassVar[tuple[str, ...]] = ("positions.hpp",)

    def __post_init__(self) -> None:
        _require_strided(self, self.x, self.y)

    @property
    def reads(self) -> Sequence[Storage]:
        """x."""
        return (self.x,)

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    def describe(self) -> str:
        """Op and shape."""
        return f"{self.op} {self.diagonal} of {self.x.moved('', 0).text.strip()}"

    def emit(self, pointers: Pointers) -> Code:
        """A struct of loops and a call."""
        if self.y.elements == 0:
            return Code("", "")
        last = self.y.rank - 1
        axes = [
            Axis(size, (self.y.strides[axis], self.x.strides[axis], int(axis == last - 1))) for axis, size in enumerate(self.y.shape[:-1])
        ]
        lines = [
            "struct Rows {",
            *outer_code(axes, 3),
            f"  static constexpr long LENGTH = {self.y.shape[-1]}, DIAGONAL = {self.diagonal};",
            f"  static constexpr long STEPS[] = {{{self.y.strides[-1]}, {self.x.strides[-1]}}};",
            f"  static constexpr bool LOWER = {'true' if self.op == 'tril' else 'false'};",
            "};",
        ]
        return Code("\n".join(lines), f"triangle<Rows>(worker, {pointers.write(self.y)}, {pointers.read(self.x)});")


@dataclass(frozen=True)
class Sequence1d(Kernel):
    """y[i] = start + i * step, computed in f64 (arange); with `stop` the second half counts from there (linspace, as torch)."""

    y: Storage
    start: float | int
    step: float | int
    stop: float | int | None = None

    algorithm: ClassVar[str] = "sequence"
    headers: ClassVar[tuple[str, ...]] = ("positions.hpp",)

    @property
    def reads(self) -> Sequence[Storage]:
        """Nothing."""
        return ()

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    def describe(self) -> str:
        """The numbers."""
        return f"from {self.start} by {self.step}{'' if self.stop is None else f' to {self.stop}'}: {self.y.moved('', 0).text.strip()}"

    def emit(self, pointers: Pointers) -> Code:
        """A call."""
        count = self.y.elements
        if count == 0:
            return Code("", "")
        c_type = C_TYPES[self.y.dtype.text]
        whole = not self.y.dtype.is_float and all(isinstance(number, int) for number in (self.start, self.step))
        dtype = DType.i64 if whole and self.stop is None else DType.f64
        inside = C_TYPES[dtype.text]
        first, step = literal(self.start, dtype), literal(self.step, dtype)
        value = f"{inside}({first}) + {inside}(i) * {inside}({step})"
        if self.stop is not None:
            value = f"i < {count // 2} ? {value} : double({literal(self.stop, dtype)}) - double({count - 1} - i) * double({step})"
        make = f"[](long i) {{ return scalar::to<{c_type}>({value}); }}"
        return Code("", f"generate<{count}, {self.y.strides[0]}>(worker, {pointers.write(self.y)}, {make});")


@dataclass(frozen=True)
class Eye(Kernel):
    """Ones on the diagonal, zeros elsewhere."""

    y: Storage

    algorithm: ClassVar[str] = "eye"
    headers: ClassVar[tuple[str, ...]] = ("positions.hpp", "copy.hpp")

    @property
    def reads(self) -> Sequence[Storage]:
        """Nothing."""
        return ()

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    def describe(self) -> str:
        """The shape."""
        return self.y.moved("", 0).text.strip()

    def emit(self, pointers: Pointers) -> Code:
        """Zeros, then ones."""
        count = min(self.y.shape)
        zeros = copy_code((), [(self.y, 0)], pointers)
        if count == 0:
            return zeros
        one = f"[](long) {{ return {C_TYPES[self.y.dtype.text]}(1); }}"
        ones = f"generate<{count}, {sum(self.y.strides)}>(worker, {pointers.write(self.y)}, {one});"
        return Code(zeros.declarations, "\n".join([zeros.statements, "worker.wait();", ones]))
