"""Reductions over any axes: y = chain(op(before(x))).

    sum mean prod amax amin any all var std logsumexp vector_norm argmax argmin

Floats add up in float32 (float64 for float64), integers in int64. Each program owns its rows from their first to their last element, so
the result is the same from run to run. Numeric class: rounding; a sum of n elements is off by about log2(columns) + n / columns ulp.
NaN: as torch, the largest and smallest are NaN, and argmax and argmin the first NaN, where there is one. Variances are two sweeps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cuda.chain import Chain, compute_dtype
from graphopt.backends.cuda.kernel import TRITON_TYPES, Code, Kernel, Launch, Unsupported
from graphopt.backends.cuda.kernels.blocks import function
from graphopt.backends.cuda.kernels.chain_code import NO_CHAIN, chain_arguments, chain_lines, check_dtypes, check_shapes
from graphopt.backends.cuda.kernels.expressions import constant, rounded
from graphopt.backends.cuda.kernels.flat import flat_blocks
from graphopt.backends.cuda.kernels.rows import Rows, row_blocks, wide
from graphopt.backends.cuda.storage import Storage
from graphopt.ir.types import DType

__all__ = ["OPS", "Reduce"]

_EMPTY = {
    "sum": 0,
    "mean": math.nan,
    "prod": 1,
    "any": False,
    "all": True,
    "var": math.nan,
    "std": math.nan,
    "vector_norm": 0.0,
    "logsumexp": -math.inf,
}
"""Results over no elements at all."""
_ARGUMENT = ("argmax", "argmin")
_FLOATS = ("mean", "var", "std", "vector_norm", "logsumexp")
OPS = frozenset({*_EMPTY, *_ARGUMENT, "amax", "amin"})
"""The ops of the IR that this kernel does."""
_FAR = 2**30
"""A column that no row has."""


@dataclass(frozen=True)
class Reduce(Kernel):
    """y = chain(op over `axes` of before(x)).

    y has no reduced axes, or size 1 there; the operands of `chain` are as y, those of `before` have the shape of x. `parameter` is the
    correction of var and std, or the order of vector_norm: 0, 1, 2 or an infinity.
    """

    op: str
    x: Storage
    y: Storage
    axes: tuple[int, ...]
    parameter: float = 0.0
    before: Chain = NO_CHAIN
    chain: Chain = NO_CHAIN

    algorithm: ClassVar[str] = "reduce"

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise Unsupported(f"no kernel computes {self.op}")
        check_dtypes(self.x.dtype, self.y.dtype, *(operand.dtype for operand in (*self.before.operands, *self.chain.operands)))
        check_shapes(self.x.shape, *self.before.operands)
        check_shapes(self.y.shape, *self.chain.operands)
        if self.op in _FLOATS and not self._dtype.is_float:
            raise Unsupported(f"{self.op} of {self._dtype.text} has no kernel")
        if self.op in ("amax", "amin", *_ARGUMENT) and (self._count == 0 or self._dtype is DType.boolean):
            raise Unsupported(f"{self.op} of {self.x.type_text} has no kernel")
        if self.op == "vector_norm" and self.parameter not in (0, 1, 2, math.inf, -math.inf):
            raise Unsupported(f"the norm of order {self.parameter} has no kernel")
        if self.op in _ARGUMENT and self._count >= _FAR:
            raise Unsupported(f"{self.op} over {self._count} elements has no kernel")
        self.emit("kernel")

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chains read."""
        return tuple(dict.fromkeys((self.x, *self.before.operands, *self.chain.operands)))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def flops(self) -> int:
        """One per element; the chains' too."""
        return self.x.elements * (1 + self.before.flops) + self.y.elements * self.chain.flops

    def describe(self) -> str:
        """Op, shape, axes, what is fused."""
        before = self.before.text.removeprefix(" + ") + " + " if self.before else ""
        return f"{before}{self.op} over ({', '.join(map(str, self.axes))}) of {self.x.type_text}{self.chain.text}"

    @property
    def _dtype(self) -> DType:
        """The IR dtype of what is reduced."""
        return self.before.dtype if self.before else self.x.dtype

    @property
    def _count(self) -> int:
        return math.prod(self.x.shape[axis] for axis in self.axes)

    @property
    def _total(self) -> DType:
        """The dtype in which is added up."""
        return compute_dtype(self._dtype) if self._dtype.is_float else DType.i64

    def emit(self, name: str) -> Code:
        """One kernel, one launch."""
        if not self.y.elements:
            return Code("", ())
        if not self._count:
            return self._emit_empty(name)
        arguments = [("x", self.x), *chain_arguments(self.before, "b"), *chain_arguments(self.chain), ("y", self.y)]
        shape, axes = self.x.shape, self.axes
        narrow = [wide(storage, shape, axes) for storage in (self.y, *self.chain.operands)]
        storages = (self.x, narrow[0], *self.before.operands, *narrow[1:])
        rows = row_blocks(storages, axes, in_order=self.op in _ARGUMENT, write=1)
        lines = [*rows.head(), *self._lines(rows, name)]
        first = 2 + len(self.before.operands)
        after, result = chain_lines(
            self.chain, "result", lambda index: rows.block.load(f"p{index}", first + index, self.chain.operands[index].dtype)
        )
        lines += [*after, rows.block.store("y", 1, result)]
        launch = Launch(name, (rows.rows.blocks,), tuple(storage for _, storage in arguments), warps=rows.warps)
        helper = f"@triton.jit\ndef {name}_times(a, b):\n    return a * b\n\n\n" if self.op == "prod" else ""
        return Code(helper + function(name, arguments, self.describe(), lines), (launch,))

    def _emit_empty(self, name: str) -> Code:
        """What an op over no elements gives."""
        flat = flat_blocks([self.y, *self.chain.operands])
        dtype = self.chain.value if self.chain else self.y.dtype
        after, result = chain_lines(
            self.chain, "result", lambda index: flat.block.load(f"p{index}", 1 + index, self.chain.operands[index].dtype)
        )
        lines = [*flat.lines, f"result = {constant(_EMPTY[self.op], dtype)}", *after, flat.block.store("y", 0, result)]
        arguments = [*chain_arguments(self.chain), ("y", self.y)]
        launch = Launch(name, (flat.programs,), tuple(storage for _, storage in arguments), warps=flat.warps)
        return Code(function(name, arguments, self.describe(), lines), (launch,))

    def _lines(self, rows: Rows, name: str) -> list[str]:
        before, value = chain_lines(
            self.before, "x_v", lambda index: rows.block.load(f"bp{index}", 2 + index, self.before.operands[index].dtype), "b"
        )
        load = [f"x_v = {rows.block.load('x', 0, self.x.dtype)}", *before]
        lines, result = self._reduction(rows, load, value, name)
        dtype = self.chain.value if self.chain else self.y.dtype
        return [*lines, f"result = {rounded(f'({result})', dtype)}"]

    def _reduction(self, rows: Rows, load: list[str], value: str, name: str) -> tuple[list[str], str]:
        match self.op:
            case "argmax" | "argmin":
                return _index_of_best(rows, load, value, self._dtype, self.op == "argmax")
            case "amax" | "amin":
                return _best(rows, load, value, self._dtype, self.op == "amax")
            case "any" | "all":
                return self._truth(rows, load, value)
            case "var" | "std":
                return self._variance(rows, load, value)
            case "logsumexp":
                return self._log_sum_exp(rows, load, value)
            case "vector_norm" if math.isinf(self.parameter):
                return _best(rows, load, f"tl.abs({value})", self._dtype, self.parameter > 0)
            case "prod":
                kind = TRITON_TYPES[self._total.text]
                step = f"total = total * {rows.masked(f'{value}.to({kind})', constant(1, self._total))}"
                return (
                    [f"total = tl.full({rows.shape}, 1, {kind})", *rows.sweep([*load, step])],
                    f"tl.reduce(total, 1, {name}_times, keep_dims=True)",
                )
            case _:
                return self._sum(rows, load, value)

    def _sum(self, rows: Rows, load: list[str], value: str) -> tuple[list[str], str]:
        finish = "{}"
        if self.op == "mean":
            finish = f"{{}} / {float(self._count)}"
        if self.op == "vector_norm":
            value = {0: f"({value} != 0)", 1: f"tl.abs({value})", 2: f"{value} * {value}"}[int(self.parameter)]
            finish = "tl.sqrt({})" if self.parameter == 2 else "{}"
        lines, total = _total(rows, load, value, self._total)
        return lines, finish.format(total)

    def _truth(self, rows: Rows, load: list[str], value: str) -> tuple[list[str], str]:
        which, start = ("max", 0) if self.op == "any" else ("min", 1)
        test = f"({value} != 0).to(tl.int32)"
        step = f"truth = tl.{which}imum(truth, {rows.masked(test, str(start))})"
        lines = [f"truth = tl.full({rows.shape}, {start}, tl.int32)", *rows.sweep([*load, step])]
        return lines, f"tl.{which}(truth, axis=1, keep_dims=True) != 0"

    def _variance(self, rows: Rows, load: list[str], value: str) -> tuple[list[str], str]:
        lines, total = _total(rows, load, value, self._total)
        lines.append(f"mean = {total} / {float(self._count)}")
        again = [] if rows.is_held else load
        squares, total = _total(rows, [*again, f"distance = {value} - mean"], "distance * distance", self._total, "squares")
        divisor = max(0.0, self._count - self.parameter)
        # over no degree of freedom: 0 / 0 for one element, as torch says
        spread = f"{total} / {divisor}" if divisor else f'{total} * float("nan")' if self._count <= 1 else f'{total} * float("inf")'
        return lines + squares, spread if self.op == "var" else f"tl.sqrt({spread})"

    def _log_sum_exp(self, rows: Rows, load: list[str], value: str) -> tuple[list[str], str]:
        lines, best = _best(rows, load, value, self._dtype, True)
        lines += [f"best = {best}", 'shift = tl.where(tl.abs(best) == float("inf"), 0.0, best)']
        again = [] if rows.is_held else load
        sums, total = _total(rows, again, f"tl.exp({value} - shift)", self._total)
        return lines + sums, f"tl.log({total}) + shift"


def _total(rows: Rows, load: list[str], value: str, dtype: DType, name: str = "total") -> tuple[list[str], str]:
    """The sum of `value` over the columns."""
    kind = TRITON_TYPES[dtype.text]
    step = f"{name} += {rows.masked(f'({value}).to({kind})', '0')}"
    lines = [f"{name} = tl.zeros({rows.shape}, {kind})", *rows.sweep([*load, step])]
    return lines, f"tl.sum({name}, axis=1, keep_dims=True)"


def _lowest(dtype: DType, is_largest: bool) -> str:
    """What every number is at least (or at most)."""
    if dtype.is_float:
        return f'float("{"-" if is_largest else ""}inf")'
    bits = 8 * dtype.bytes
    if dtype.text.startswith("u"):
        return "0" if is_largest else str(2**bits - 1)
    return str(-(2 ** (bits - 1)) if is_largest else 2 ** (bits - 1) - 1)


def _best(rows: Rows, load: list[str], value: str, dtype: DType, is_largest: bool) -> tuple[list[str], str]:
    """The largest or smallest; NaN where one is NaN. Reductions of Triton pass over NaN, so it is looked for."""
    which = "max" if is_largest else "min"
    kind, start = TRITON_TYPES[compute_dtype(dtype).text], _lowest(dtype, is_largest)
    nan = ", propagate_nan=tl.PropagateNan.ALL" if dtype.is_float else ""
    step = f"extreme = tl.{which}imum(extreme, {rows.masked(value, f'tl.full([1, 1], {start}, {kind})')}{nan})"
    lines = [f"extreme = tl.full({rows.shape}, {start}, {kind})", *rows.sweep([*load, step])]
    if not dtype.is_float:
        return lines, f"tl.{which}(extreme, axis=1, keep_dims=True)"
    lines += [
        "is_nan = tl.max((extreme != extreme).to(tl.int32), axis=1, keep_dims=True) != 0",
        f"extreme = tl.where(extreme != extreme, {start}, extreme)",
    ]
    return lines, f'tl.where(is_nan, float("nan"), tl.{which}(extreme, axis=1, keep_dims=True))'


def _index_of_best(rows: Rows, load: list[str], value: str, dtype: DType, is_largest: bool) -> tuple[list[str], str]:
    """The first column of the largest or smallest, or of NaN."""
    kind, start = TRITON_TYPES[compute_dtype(dtype).text], _lowest(dtype, is_largest)
    compare, which = (">", "max") if is_largest else ("<", "min")
    worst = f"tl.full([1, 1], {start}, {kind})"
    step = [f"candidate = {rows.masked(value, worst)}"]
    if dtype.is_float:
        step += [
            f"nan_at = tl.minimum(nan_at, tl.where(candidate != candidate, column, {_FAR}))",
            f"candidate = tl.where(candidate != candidate, {start}, candidate)",
        ]
    step += [
        f"is_better = (candidate {compare} extreme) | (at == {_FAR})",
        "at = tl.where(is_better, column, at)",
        "extreme = tl.where(is_better, candidate, extreme)",
    ]
    lines = [f"extreme = tl.full({rows.shape}, {start}, {kind})", f"at = tl.full({rows.shape}, {_FAR}, tl.int32)"]
    lines += [f"nan_at = tl.full({rows.shape}, {_FAR}, tl.int32)"] if dtype.is_float else []
    lines += [
        *rows.sweep([*load, *step]),
        f"best = tl.{which}(extreme, axis=1, keep_dims=True)",
        f"at = tl.min(tl.where(extreme == best, at, {_FAR}), axis=1, keep_dims=True)",
    ]
    if not dtype.is_float:
        return lines, "at"
    return [*lines, "nan_at = tl.min(nan_at, axis=1, keep_dims=True)"], f"tl.where(nan_at < {_FAR}, nan_at, at)"
