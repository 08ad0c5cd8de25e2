"""Inputs against the graph's signature: number, dtype, shape, and what sizes its symbols have.

graph f(%x: f32[batch,3,8,8], %y: f32[2*n]) where batch in [1, 64], n in [1, inf)
run on f32[4,3,8,8], f32[6]  ->  {"batch": 4, "n": 3}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from graphopt.errors import RunInputError, SymbolError
from graphopt.ir.dims import Dim, Symbol, evaluate_dim, symbols_of
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import DType

__all__ = ["Solution", "bind_dims", "bind_results", "check_inputs", "memory_text", "solve", "type_text"]


class Solution:
    """How a symbol follows from one size: `symbol == (size - offset) // factor`."""

    __slots__ = ("axis", "factor", "offset", "symbol", "value")

    def __init__(self, symbol: str, value: Value, axis: int, factor: int, offset: int) -> None:
        self.symbol = symbol
        self.value = value
        self.axis = axis
        self.factor = factor
        self.offset = offset

    def size(self, shape: Sequence[int]) -> int:
        """The symbol's size, given the shape of `value`."""
        return (shape[self.axis] - self.offset) // self.factor


def solve(values: Sequence[Value], known: Mapping[str, Any] | set[str]) -> Iterator[Solution]:
    """For each symbol that is not yet known, the axis it can be read from.

    A bare symbol is preferred; else a dimension `factor*symbol + offset` will do.
    """
    found = set(known)
    for bare in (True, False):
        for value in values:
            for axis, dim in enumerate(value.type.shape):
                linear = _linear(dim)
                if linear is None or linear[0] in found or (bare and linear[1:] != (1, 0)):
                    continue
                found.add(linear[0])
                yield Solution(linear[0], value, axis, linear[1], linear[2])


def _linear(dim: Dim) -> tuple[str, int, int] | None:
    """(symbol, factor, offset) of `factor*symbol + offset` with factor > 0, else None."""
    if isinstance(dim, int):
        return None
    symbol, factor, offset = "", 0, 0
    for monomial, coefficient in dim.terms:
        if not monomial:
            offset = coefficient
        elif len(monomial) == 1 and isinstance(monomial[0], Symbol) and not symbol:
            symbol, factor = monomial[0].name, coefficient
        else:
            return None
    return (symbol, factor, offset) if factor > 0 else None


def type_text(tensor: torch.Tensor) -> str:
    """Dtype and shape of a tensor as in IR text, `f32[1,3,8,8]`."""
    name = str(tensor.dtype).removeprefix("torch.")
    known = next((dtype.text for dtype in DType if dtype.torch_name == name), name)
    return f"{known}[{','.join(str(size) for size in tensor.shape)}]"


def memory_text(tensor: torch.Tensor) -> str:
    """Where and how a tensor keeps its numbers, where that is not dense memory."""
    return "on the meta device" if tensor.is_meta else f"with the layout {tensor.layout}"


def check_inputs(graph: Graph, inputs: Sequence[torch.Tensor], *, precise: bool = False) -> None:
    """Compare number, dtype, layout and rank. With `precise`, float inputs may also be float64.

    Raises:
        RunInputError: they differ from the graph's signature, or have no numbers in dense memory.
    """
    if len(inputs) != len(graph.inputs):
        names = ", ".join(f"%{value.name}" for value in graph.inputs) or "none"
        raise RunInputError(f"graph '{graph.name}' got {len(inputs)} inputs, needs {len(graph.inputs)} ({names})")
    for index, (value, given) in enumerate(zip(graph.inputs, inputs, strict=True)):
        if not isinstance(given, torch.Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise RunInputError(f"input {index} (%{value.name}) is a {type(given).__name__}, needs a tensor {value.type.text}")
        if given.is_nested:
            raise RunInputError(
                f"input {index} (%{value.name}) is a nested tensor, needs {value.type.text}", fix="pass x.to_padded_tensor(0.0)"
            )
        if given.is_meta or given.layout is not torch.strided:
            raise RunInputError(
                f"input {index} (%{value.name}) is {type_text(given)} {memory_text(given)}, needs dense numbers",
                fix="pass a tensor with numbers" if given.is_meta else "pass x.to_dense()",
            )
        allowed = {getattr(torch, value.type.dtype.torch_name)}
        if precise and value.type.dtype.is_float:
            allowed.add(torch.float64)
        if given.dtype not in allowed or given.dim() != value.type.rank:
            raise _mismatch(index, value, given)


def _mismatch(index: int, value: Value, given: torch.Tensor) -> RunInputError:
    return RunInputError(f"input {index} (%{value.name}) is {type_text(given)}, needs {value.type.text}")


def bind_dims(graph: Graph, inputs: Sequence[torch.Tensor]) -> dict[str, int]:
    """Sizes of the symbols, from the shapes of the inputs; symbols that only results carry are left out.

    Raises:
        RunInputError: a shape differs from the graph's signature.
        SymbolError: a size is outside the range of its symbol.
    """
    positions = {value: index for index, value in enumerate(graph.inputs)}
    dims: dict[str, int] = {}
    for solution in solve(graph.inputs, dims):
        shape = inputs[positions[solution.value]].shape
        dims[solution.symbol] = solution.size(shape)
    for value, index in positions.items():
        given = inputs[index]
        for dim, size in zip(value.type.shape, given.shape, strict=True):
            if symbols_of(dim) <= dims.keys() and evaluate_dim(dim, dims) != size:
                raise _with_sizes(_mismatch(index, value, given), value, dims)
    for name, size in dims.items():
        limits = graph.symbols.get(name)
        if limits is not None and size not in limits:
            raise SymbolError(
                f"dimension '{name}' is {size} in the inputs, the graph needs {name} in {limits}",
                fix="pass inputs inside the range, or capture with a wider one",
            )
    return dims


def _with_sizes(error: RunInputError, value: Value, dims: Mapping[str, int]) -> RunInputError:
    used = sorted(set[str]().union(*(symbols_of(dim) for dim in value.type.shape)))
    if used:
        error.fix = "the inputs say " + ", ".join(f"{name} = {dims[name]}" for name in used if name in dims)
    return error


def bind_results(results: Sequence[Value], tensors: Sequence[torch.Tensor], dims: dict[str, int]) -> None:
    """Add the sizes of symbols that first appear in results (data-dependent shapes)."""
    if all(isinstance(dim, int) for value in results for dim in value.type.shape):
        return
    by_value = dict(zip(results, tensors, strict=True))
    for solution in solve(results, dims):
        dims[solution.symbol] = solution.size(by_value[solution.value].shape)
