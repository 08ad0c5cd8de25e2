"""Reductions over any axes: sum, mean, prod, amax, amin, any, all, var, std, vector_norm, logsumexp, argmax, argmin.

f32 is reduced in vectors, whose lanes are neighbours that are kept (16 channels of a blocked image) or
neighbours that are reduced (rows of features). Other dtypes go one element at a time. The order of the
operations depends on the shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from string import Template
from typing import ClassVar

from graphopt.backends.cpu.kernel import Code, Kernel, Pointers
from graphopt.backends.cpu.kernels.copy import copy_code
from graphopt.backends.cpu.kernels.loops import Axis, Nest, merged, nests, outer_code
from graphopt.backends.cpu.kernels.reduce_elements import IDENTITIES, element_call
from graphopt.backends.cpu.kernels.vector_ops import VECTOR_HEADERS, float_literal
from graphopt.backends.cpu.storage import LANES, Storage
from graphopt.ir.types import DType

__all__ = ["REDUCTIONS", "Reduce", "reduce_fits"]

_VECTOR = frozenset({"sum", "mean", "prod", "amax", "amin", "var", "std", "vector_norm", "logsumexp"})
_ARGUMENT = frozenset({"argmax", "argmin"})
REDUCTIONS = _VECTOR | _ARGUMENT | {"any", "all"}
"""Ops that `Reduce` takes."""


def reduce_fits(x: Storage, axes: Sequence[int]) -> bool:
    """True unless a blocked axis is reduced whose last group has lanes without elements."""
    return x.blocked_axis not in axes or x.blocked_axis is None or x.shape[x.blocked_axis] % LANES == 0


@dataclass(frozen=True)
class Reduce(Kernel):
    """y = op(x) over `axes` (all of them for an arg-reduction without axis); y may have the reduced axes as 1 or not.

    `parameter` is the correction of var and std, and the order of vector_norm.
    """

    op: str
    x: Storage
    y: Storage
    axes: tuple[int, ...]
    parameter: float = 1.0

    algorithm: ClassVar[str] = "reduce"
    headers: ClassVar[tuple[str, ...]] = ("reduce.hpp", "reduce_elements.hpp", "copy.hpp", *VECTOR_HEADERS)

    def __post_init__(self) -> None:
        if self.op not in REDUCTIONS:
            raise ValueError(f"{self.op} is no reduction")
        if not reduce_fits(self.x, self.axes):
            raise ValueError(f"{self.describe()}: the blocked axis is reduced and has {self.x.shape[1]} elements, needs a multiple of 16")

    @property
    def reads(self) -> Sequence[Storage]:
        """x."""
        return (self.x,)

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def flops(self) -> int:
        """One per element."""
        return self.x.elements

    def describe(self) -> str:
        """Op, axes and shape."""
        return f"{self.op} over {', '.join(map(str, self.axes))} of {self.x.moved('', 0).text.strip()}"

    @property
    def _count(self) -> int:
        return prod(self.x.shape[axis] for axis in self.axes)

    def _wide_y(self) -> Storage:
        """y with the shape of x: stride 0 along what is reduced."""
        y = self.y
        if y.rank != self.x.rank:
            kept = [axis for axis in range(self.x.rank) if axis not in self.axes]
            shape, strides = [1] * self.x.rank, [0] * self.x.rank
            for place, axis in enumerate(kept):
                shape[axis], strides[axis] = y.shape[place], y.strides[place]
            blocked_axis = None if y.blocked_axis is None else kept[y.blocked_axis]
            y = replace(y, shape=tuple(shape), strides=tuple(strides), blocked_axis=blocked_axis, halo=(0, 0))
        wide = y.expand(self.x.shape)
        assert wide is not None, "the blocked axis of y is kept"
        return wide

    def emit(self, pointers: Pointers) -> Code:
        """Structs of the loops and a call per nest."""
        if self.x.elements == 0:
            return copy_code((), [(self.y, IDENTITIES[self.op])], pointers)
        fill = self.x.dtype is DType.f32 and self.y.dtype is DType.f32 and self.x.blocked_axis not in self.axes
        writer = _Writer(pointers.write(self.y), pointers.read(self.x))
        for nest in nests([self._wide_y(), self.x], fill=fill, sort=self.op not in _ARGUMENT):
            self._reduce(nest, writer)
        return Code("\n".join(writer.declarations), "\n".join(writer.statements))

    def _reduce(self, nest: Nest, writer: _Writer) -> None:
        kept = [axis for axis in nest.axes if axis.strides[0] != 0]
        reduced = [axis for axis in nest.axes if axis.strides[0] == 0] or [Axis(1, (0, 0))]
        floats = self.x.dtype is DType.f32 and (self.op in _VECTOR or (self.op in _ARGUMENT and len(merged(reduced)) == 1))
        lanes = next((axis for axis in kept if axis.strides[1] == 1), None) if floats else None
        if lanes is not None and (lanes.size >= LANES // 4 or reduced[-1].strides[1] != 1):
            kept.remove(lanes)
            self._kept_lanes(nest, kept, lanes, reduced, writer)
            return
        run = next((axis for axis in reduced if axis.strides[1] == 1 and axis.size >= LANES // 2), None)
        if self.x.dtype is DType.f32 and self.op in _VECTOR and run is not None:
            reduced.remove(run)
            writer.call(self._vector_call(), nest.offsets, kept, [*reduced, run], "V = 1, COUNT_KEPT = 16, Y_STEP = 1", along_run=True)
            return
        call = element_call(self.op, self.x.dtype, self.y.dtype, self._count, self.parameter)
        writer.call(call, nest.offsets, kept, reduced)

    def _kept_lanes(self, nest: Nest, kept: list[Axis], lanes: Axis, reduced: list[Axis], writer: _Writer) -> None:
        """Vectors of neighbours that are kept, up to four at a time; what is left over has a call of its own."""
        vectors = 1 if self.op in _ARGUMENT else 4 if lanes.size >= 4 * LANES else 2 if lanes.size >= 2 * LANES else 1
        width = vectors * LANES
        y_step = lanes.strides[0]
        parts = [(lanes.size // width, width, 0), (1, lanes.size % width, lanes.size // width * width)]
        for count, size, start in parts:
            if count == 0 or size == 0:
                continue
            outer = [*kept, *([Axis(count, (width * y_step, width))] if count > 1 else [])]
            constants = f"V = {-(-size // LANES)}, COUNT_KEPT = {(size - 1) % LANES + 1}, Y_STEP = {y_step}"
            offsets = (nest.offsets[0] + start * y_step, nest.offsets[1] + start)
            if self.op in _ARGUMENT:
                call = f"index_of_best_lanes<$S, $R, {'true' if self.op == 'argmax' else 'false'}>(worker, $y, $x)"
                writer.call(call, offsets, outer, merged(reduced), constants)
            else:
                writer.call(self._vector_call(), offsets, outer, reduced, constants)

    def _vector_call(self) -> str:
        match self.op:
            case "var" | "std":
                divisor = float_literal(max(0.0, self._count - self.parameter))
                return f"variance<$S, $R, {'true' if self.op == 'std' else 'false'}>(worker, $y, $x, {divisor})"
            case "logsumexp":
                return "log_sum_exp<$S, $R>(worker, $y, $x)"
            case "vector_norm":
                return f"reduce<$S, $R>(worker, $y, $x, reducing::{_norm(self.parameter)})"
            case "mean":
                return f"reduce<$S, $R>(worker, $y, $x, reducing::Mean<{self._count}>{{}})"
            case _:
                name = {"sum": "Sum", "prod": "Product", "amax": "Largest", "amin": "Smallest"}[self.op]
                return f"reduce<$S, $R>(worker, $y, $x, reducing::{name}{{}})"


def _norm(order: float) -> str:
    if math.isinf(order):
        return "LargestMagnitude{}" if order > 0 else "SmallestMagnitude{}"
    names = {0.0: "CountOfNonzeros{}", 1.0: "SumOfMagnitudes{}", 2.0: "RootOfSquares{}"}
    return names.get(float(order), f"RootOfPowers{{{{}}, {float_literal(order)}}}")


class _Writer:
    """Collects the declarations and statements of one step."""

    def __init__(self, y: str, x: str) -> None:
        self._y = y
        self._x = x
        self.declarations: list[str] = []
        self.statements: list[str] = []

    def call(
        self,
        template: str,
        offsets: tuple[int, ...],
        kept: Sequence[Axis],
        reduced: Sequence[Axis],
        constants: str = "",
        *,
        along_run: bool = False,
    ) -> None:
        """A call of `template`, in which $S, $R, $y and $x stand for loops and pointers."""
        number = len(self.statements)
        *rest, run = reduced
        along = f"  static constexpr bool ALONG_RUN = {'true' if along_run else 'false'};" if constants else ""
        lines = [
            f"struct Kept{number} {{",
            *outer_code(kept, 2),
            *([f"  static constexpr int {constants};", along] if constants else []),
            "};",
            f"struct Reduced{number} {{",
            *outer_code([Axis(axis.size, axis.strides[1:]) for axis in rest], 1),
            f"  static constexpr long LENGTH = {run.size}, STEP = {run.strides[1]};",
            "};",
        ]
        self.declarations.append("\n".join(lines))
        y, x = (f"{pointer} + {offset}" if offset else pointer for pointer, offset in ((self._y, offsets[0]), (self._x, offsets[1])))
        self.statements.append(Template(template).substitute(S=f"Kept{number}", R=f"Reduced{number}", y=y, x=x) + ";")
