"""Inputs against the graph's signature, without torch: number, dtype, shape, and the sizes of symbols.

graph f(%x: f32[batch,3,8,8], %y: f32[2*n]) where batch in [1, 64]
run on f32[4,3,8,8], f32[6]  ->  {"batch": 4, "n": 3}
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from graphopt.backends.onnxruntime.dtypes import from_numpy
from graphopt.backends.onnxruntime.records import Array
from graphopt.errors import RunInputError, SymbolError
from graphopt.ir.dims import Dim, Symbol, evaluate_dim, symbols_of
from graphopt.ir.graph import Graph, Value

__all__ = ["array_text", "bind_shapes", "check_arrays", "solve_symbols"]


def solve_symbols(values: Sequence[Value], known: Collection[str] = ()) -> Iterator[tuple[str, Value, int, int, int]]:
    """(symbol, value, axis, factor, offset) for each symbol that can be read from an axis: size = factor*symbol + offset.

    A bare symbol is preferred.
    """
    found = set(known)
    for bare in (True, False):
        for value in values:
            for axis, dim in enumerate(value.shape):
                linear = _linear(dim)
                if linear is None or linear[0] in found or (bare and linear[1:] != (1, 0)):
                    continue
                found.add(linear[0])
                yield (linear[0], value, axis, linear[1], linear[2])


def _linear(dim: Dim) -> tuple[str, int, int] | None:
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


def array_text(array: Array) -> str:
    """Dtype and shape of an array as in IR text, `f32[1,3,8,8]`."""
    dtype = from_numpy(array.dtype)
    return f"{dtype.text if dtype else array.dtype}[{','.join(str(size) for size in array.shape)}]"


def check_arrays(graph: Graph, inputs: Sequence[Array]) -> None:
    """Compare number, dtype and rank with the graph's inputs.

    Raises:
        RunInputError: they differ.
    """
    if len(inputs) != len(graph.inputs):
        names = ", ".join(f"%{value.name}" for value in graph.inputs) or "none"
        raise RunInputError(f"graph '{graph.name}' got {len(inputs)} inputs, needs {len(graph.inputs)} ({names})")
    for index, (value, given) in enumerate(zip(graph.inputs, inputs, strict=True)):
        if from_numpy(given.dtype) is not value.type.dtype or given.ndim != value.type.rank:
            raise _mismatch(index, value, given)


def _mismatch(index: int, value: Value, given: Array, fix: str | None = None) -> RunInputError:
    return RunInputError(f"input {index} (%{value.name}) is {array_text(given)}, needs {value.type.text}", fix=fix)


def bind_shapes(graph: Graph, inputs: Sequence[Array]) -> dict[str, int]:
    """Sizes of the symbols, from the shapes of the inputs; those that only results carry are left out.

    Raises:
        RunInputError: a shape differs from the graph's signature.
        SymbolError: a size is outside the range of its symbol.
    """
    positions = {value: index for index, value in enumerate(graph.inputs)}
    dims: dict[str, int] = {}
    for name, value, axis, factor, offset in solve_symbols(graph.inputs):
        dims[name] = (inputs[positions[value]].shape[axis] - offset) // factor
    for value, index in positions.items():
        for dim, size in zip(value.shape, inputs[index].shape, strict=True):
            if symbols_of(dim) <= dims.keys() and evaluate_dim(dim, dims) != size:
                used = sorted(set[str]().union(*(symbols_of(axis) for axis in value.shape)) & dims.keys())
                said = ", ".join(f"{name} = {dims[name]}" for name in used)
                raise _mismatch(index, value, inputs[index], f"the inputs say {said}" if said else None)
    for name, size in dims.items():
        limits = graph.symbols.get(name)
        if limits is not None and size not in limits:
            raise SymbolError(
                f"dimension '{name}' is {size} in the inputs, the graph needs {name} in {limits}",
                fix="pass inputs inside the range, or capture with a wider one",
            )
    return dims
