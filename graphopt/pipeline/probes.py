"""Inputs on which the pass manager tries a graph before and after a pass.

Floats are normal random numbers, bools coin flips, integers are kept inside what they index: an input
that reaches the indices of an embedding or a gather stays below the size of the table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from graphopt.errors import SymbolError
from graphopt.ir.data import TensorData
from graphopt.ir.dims import Dim, evaluate_dim
from graphopt.ir.graph import Graph, GraphEditor, Range, Use, Value

if TYPE_CHECKING:
    import torch

__all__ = ["fill_states", "integer_limit", "plant_special_values", "probe_dims", "random_inputs"]

_DEFAULT_LIMIT = 2
"""Integers that index nothing we know of are 0 or 1, as in an attention mask."""

_CARRIES = frozenset(
    {"reshape", "permute", "expand", "slice", "select", "split", "concat", "tile", "roll", "flip", "cast"}
    | {"index_select", "gather", "index", "where", "maximum", "minimum", "clamp"}
)
"""Ops whose result holds only values of their operands, so a bound on the result is one on the operand."""


def probe_dims(graph: Graph) -> dict[str, int]:
    """A small size for each symbolic dimension: at least 2 where its range allows, and distinct where it can be."""
    dims: dict[str, int] = {}
    for name, limits in graph.symbols.items():
        size = max(limits.minimum, 2)
        while size in dims.values() and size + 1 in limits:
            size += 1
        dims[name] = size if size in limits else _nearest(size, limits)
    return dims


def random_inputs(graph: Graph, *, seed: int = 0, dims: Mapping[str, int] | None = None) -> tuple[torch.Tensor, ...]:
    """One flat set of inputs in the declared dtypes, always the same for a seed.

    Raises:
        SymbolError: an input's size is negative for these dims.
    """
    import torch

    sizes = dict(dims) if dims is not None else probe_dims(graph)
    generator = torch.Generator().manual_seed(seed)
    inputs: list[torch.Tensor] = []
    for value in graph.inputs:
        shape = tuple(_size(dim, sizes) for dim in value.shape)
        if any(size < 0 for size in shape):
            raise SymbolError(f"input {value!r} gets the shape {shape} for {sizes}", fix="pass probe inputs that fit the model")
        dtype: torch.dtype = getattr(torch, value.type.dtype.torch_name)
        if dtype == torch.bool:
            inputs.append(torch.randint(0, 2, shape, generator=generator).bool())
        elif value.type.dtype.kind == "int":
            inputs.append(torch.randint(0, integer_limit(value, sizes), shape, generator=generator).to(dtype))
        else:
            wide = torch.complex128 if value.type.dtype.kind == "complex" else torch.float64
            inputs.append(torch.randn(shape, generator=generator, dtype=wide).to(dtype))
    return tuple(inputs)


def plant_special_values(inputs: Sequence[torch.Tensor], *, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Copies of inputs in which a few floats are NaN, infinities, zeros of both signs and subnormals.

    A rewrite such as `x * 0 -> 0` is right on every finite number and wrong on these.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    specials = (float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 1e-310)
    planted: list[torch.Tensor] = []
    for tensor in inputs:
        if tensor.is_floating_point() and tensor.numel():
            tensor = tensor.clone(memory_format=torch.contiguous_format)
            places = torch.randperm(tensor.numel(), generator=generator)[: len(specials)]
            flat = tensor.view(-1)
            for place, special in zip(places.tolist(), specials, strict=False):
                flat[place] = special
        planted.append(tensor)
    return tuple(planted)


def fill_states(graph: Graph, *, seed: int = 0) -> Graph:
    """A copy in which every state has numbers: its own, or random ones where it had none, as after parsing text.

    Running variances are positive, integers stay inside what they index.
    """
    import torch

    copy = graph.clone()
    editor, generator = GraphEditor(copy), torch.Generator().manual_seed(seed)
    for state in list(copy.states.values()):
        if state.data is not None:
            continue
        shape, dtype = state.type.static_shape, getattr(torch, state.type.dtype.torch_name)
        if state.type.dtype.kind in ("int", "bool"):
            tensor = torch.randint(0, integer_limit(state.value, {}), shape, generator=generator)
        else:
            tensor = torch.randn(shape, generator=generator, dtype=torch.float64)
            if any(use.index == 4 and use.node.op in ("batch_norm", "instance_norm") for use in state.value.uses):
                tensor = tensor.abs() + 0.1
        editor.update_state(replace(state, data=TensorData(tensor.to(dtype))))
    return copy


def integer_limit(value: Value, dims: Mapping[str, int]) -> int:
    """One more than the largest integer that may safely be put into `value`."""
    limit: int | None = None
    pending, seen = deque([value]), {value}
    while pending:
        for use in pending.popleft().uses:
            bound = _bound(use, dims)
            if bound is not None:
                limit = bound if limit is None else min(limit, bound)
            if use.node.op in _CARRIES:
                fresh = [result for result in use.node.results if result not in seen and result.type.dtype.kind == "int"]
                pending.extend(fresh)
                seen.update(fresh)
    return max(1, _DEFAULT_LIMIT if limit is None else limit)


def _bound(use: Use, dims: Mapping[str, int]) -> int | None:
    """Size of the table that this use indexes, or None when it indexes none."""
    node, operands = use.node, use.node.operands
    table = operands[0] if operands else None
    if use.index == 0 or not isinstance(table, Value):
        return None
    match node.op:
        case "embedding":
            axis = 0
        case "gather" | "index_select" | "scatter" if use.index == 1:
            found = node.attrs.get("axis")
            axis = found if isinstance(found, int) else 0
        case "index":
            axis = use.index - 1
        case "index_put" if use.index >= 2:
            axis = use.index - 2
        case "aten.embedding.default" | "aten.embedding_bag.default":
            axis = 0
        case _:
            return None
    return _size(table.shape[axis], dims) if axis < len(table.shape) else None


def _size(dim: Dim, dims: Mapping[str, int]) -> int:
    size = evaluate_dim(dim, dims)
    if not isinstance(size, int):
        raise SymbolError(f"dimension {dim} has no size for {dict(dims)}", fix="pass probe inputs that fit the model")
    return size


def _nearest(size: int, limits: Range) -> int:
    return max(limits.minimum, min(size, limits.maximum if limits.maximum is not None else size))
