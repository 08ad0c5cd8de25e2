"""Running sums and products, sort and topk along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from graphopt.backends.cpu.kernel import C_TYPES, Code, Kernel, Pointers
from graphopt.backends.cpu.kernels.loops import Axis, outer_code
from graphopt.backends.cpu.storage import Storage

__all__ = ["Cumulative", "Sort"]


def _require_strided(kernel: Kernel, *storages: Storage) -> None:
    for storage in storages:
        if storage.blocked_axis is not None:
            raise ValueError(f"{kernel.describe()}: {storage.text} is blocked, needs plain strides")


def _along(storages: Sequence[Storage], axis: int) -> tuple[list[Axis], Axis]:
    """Axes around `axis`, and that axis, with each storage's strides."""
    axes = [Axis(size, tuple(storage.strides[number] for storage in storages)) for number, size in enumerate(storages[-1].shape)]
    if not axes:
        return [], Axis(1, (0,) * len(storages))
    return [other for number, other in enumerate(axes) if number != axis and other.size != 1], axes[axis]


@dataclass(frozen=True)
class Cumulative(Kernel):
    """y = cumsum or cumprod of x along an axis; integers add up in i64, floats in f64 and are rounded for each element."""

    op: Literal["cumsum", "cumprod"]
    x: Storage
    y: Storage
    axis: int

    algorithm: ClassVar[str] = "cumulative"
    headers: ClassVar[tuple[str, ...]] = ("cumulative.hpp",)

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
        """Op, axis and shape."""
        return f"{self.op} along axis {self.axis} of {self.x.moved('', 0).text.strip()}"

    def emit(self, pointers: Pointers) -> Code:
        """A struct of loops and a call."""
        if self.x.elements == 0:
            return Code("", "")
        outer, run = _along((self.y, self.x), self.axis)
        inside = "double" if self.y.dtype.is_float else "int64_t"
        start, join = ("0", "add") if self.op == "cumsum" else ("1", "mul")
        lines = [
            "struct Loops {",
            *outer_code(outer, 2),
            f"  static constexpr long LENGTH = {run.size}, STEPS[] = {{{run.strides[0]}, {run.strides[1]}}};",
            "};",
        ]
        joined = f"[]({inside} a, {inside} b) {{ return scalar::{join}(a, b); }}"
        call = f"cumulate<Loops>(worker, {pointers.write(self.y)}, {pointers.read(self.x)}, {inside}({start}), {joined});"
        return Code("\n".join(lines), call)


@dataclass(frozen=True)
class Sort(Kernel):
    """Values and indices of the first elements along an axis in order: sort (all of them) and topk (as many as `values` has).

    Equal elements stay in their order; a NaN is the largest, as in torch.
    """

    x: Storage
    values: Storage
    indices: Storage
    axis: int
    descending: bool = False

    algorithm: ClassVar[str] = "sort"
    headers: ClassVar[tuple[str, ...]] = ("cumulative.hpp",)

    def __post_init__(self) -> None:
        _require_strided(self, self.x, self.values, self.indices)

    @property
    def reads(self) -> Sequence[Storage]:
        """x."""
        return (self.x,)

    @property
    def writes(self) -> Sequence[Storage]:
        """Values and indices."""
        return (self.values, self.indices)

    @property
    def scratch(self) -> int:
        """The order of one row, as 32-bit integers."""
        return self.x.shape[self.axis] if self.x.rank else 1

    def describe(self) -> str:
        """Axis, direction and shape."""
        count = self.values.shape[self.axis] if self.values.rank else 1
        way = "largest" if self.descending else "smallest"
        return f"{count} {way} along axis {self.axis} of {self.x.moved('', 0).text.strip()}"

    def emit(self, pointers: Pointers) -> Code:
        """A struct of loops and a call."""
        if self.values.elements == 0:
            return Code("", "")
        outer, run = _along((self.values, self.x, self.indices), self.axis)
        length = self.x.shape[self.axis] if self.x.rank else 1
        lines = [
            "struct Loops {",
            *outer_code(outer, 3),
            f"  static constexpr long LENGTH = {length}, COUNT_SORTED = {run.size}, STEPS[] = {{{', '.join(map(str, run.strides))}}};",
            "};",
        ]
        c_type = C_TYPES[self.x.dtype.text]
        descending = "true" if self.descending else "false"
        arguments = f"{pointers.write(self.values)}, {pointers.read(self.x)}, {pointers.write(self.indices)}"
        return Code("\n".join(lines), f"sort<Loops, {descending}, {c_type}>(worker, {arguments});")
