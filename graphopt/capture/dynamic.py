"""Which sizes of the inputs may vary: what users write, and what torch.export wants.

    dynamic={"x": {0: "batch"}}                     by name of the forward parameter
    dynamic={0: "batch"}                            the first input
    dynamic=({0: "batch"}, None)                    one entry per input
    dynamic={"x": {0: torch.export.Dim("batch", min=1, max=64)}}

A name stands for any size from 1; the same name in two places says that the sizes are equal. An input
that is a list or dict of tensors takes a list or dict of such entries.

Where torch can't prove that the model works at every size of a named dimension, it is asked to find the
range itself (`relaxed`), and `graphopt.capture.assumptions` tries what it then assumed about the sizes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import nn
from torch.export import Dim as TorchDim
from torch.utils import _pytree as pytree

from graphopt.errors import ExampleInputError

__all__ = ["Dynamic", "DynamicShapes", "resolve_dynamic"]

Dynamic: TypeAlias = "Mapping[str, object] | Mapping[int, object] | Sequence[object] | None"
"""What `capture(dynamic=...)` accepts."""


@dataclass(frozen=True, slots=True)
class DynamicShapes:
    """Dynamic axes of one call.

    `shapes` is torch.export's `dynamic_shapes`. `args` and `kwargs` are the examples, doubled along dynamic
    axes of size 1, because torch takes a size of 1 for a constant. `names` has, per flat input, the name
    by axis. `relaxed` is `shapes` with the range left open where the user gave a name alone.
    """

    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    shapes: Mapping[str, object] | None = None
    names: tuple[Mapping[int, str], ...] = ()
    relaxed: Mapping[str, object] | None = None


def resolve_dynamic(model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], dynamic: Dynamic) -> DynamicShapes:
    """Bring `dynamic` into torch.export's form.

    Raises:
        ExampleInputError: it names an input or an axis that does not exist, or holds something unknown.
    """
    if dynamic is None:
        return DynamicShapes(args, kwargs)
    bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    by_name = _by_name(dynamic, list(bound))
    dims: dict[str, Any] = {}
    shapes = {name: _convert(by_name.get(name), argument, dims, name) for name, argument in bound.items()}
    flat_names: list[Mapping[int, str]] = []
    leaves: list[object] = []
    positions = list(bound)
    for path, leaf in pytree.tree_flatten_with_path((args, dict(kwargs)))[0]:
        spec = _entry(shapes, positions, path)
        axes = {axis: dim.__name__ for axis, dim in spec.items() if hasattr(dim, "__name__")} if isinstance(spec, Mapping) else {}
        flat_names.append(axes)
        leaves.append(_doubled(leaf, axes))
    wide_args, wide_kwargs = pytree.tree_unflatten(leaves, pytree.tree_structure((args, dict(kwargs))))
    named = [dim for name, dim in dims.items() if name in _strings(dynamic)]
    relaxed = cast("dict[str, object]", _relax(shapes, named)) if named else None
    return DynamicShapes(wide_args, wide_kwargs, shapes, tuple(flat_names), relaxed)


def _strings(spec: object) -> set[str]:
    """All dimension names given as text."""
    found: set[str] = set()
    pending: list[object] = [spec]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            found.add(item)
        elif isinstance(item, Mapping):
            pending.extend(cast("Mapping[object, object]", item).values())
        elif isinstance(item, list | tuple):
            pending.extend(cast("Sequence[object]", item))
    return found


def _relax(spec: object, named: list[Any]) -> object:
    if any(spec is dim for dim in named):
        return TorchDim.DYNAMIC
    if isinstance(spec, Mapping):
        return {key: _relax(item, named) for key, item in cast("Mapping[object, object]", spec).items()}
    if isinstance(spec, list | tuple):
        items = cast("Sequence[object]", spec)
        return type(spec)(_relax(item, named) for item in items)
    return spec


def _by_name(dynamic: Any, names: list[str]) -> dict[str, object]:
    if isinstance(dynamic, Mapping):
        keys = list(dynamic)
        if keys and all(isinstance(key, int) for key in keys):
            if not names:
                raise ExampleInputError("dynamic= names an axis of the first input, and the model has none", fix="leave dynamic= out")
            return {names[0]: dynamic}
        unknown = [key for key in keys if key not in names]
        if unknown:
            raise ExampleInputError(
                f"dynamic= names the inputs {unknown}; the call has {names}", fix="use the names of forward's parameters"
            )
        return dict(cast("Mapping[str, object]", dynamic))
    if isinstance(dynamic, list | tuple):
        entries = list(cast("Sequence[object]", dynamic))
        if len(entries) > len(names):
            raise ExampleInputError(
                f"dynamic= has {len(entries)} entries for {len(names)} inputs {names}",
                fix="give one entry per input, None for one of fixed size",
            )
        return dict(zip(names, entries, strict=False))
    raise ExampleInputError(f"dynamic= is a {type(dynamic).__name__}", fix='use {"x": {0: "batch"}}, {0: "batch"} or one entry per input')


def _convert(spec: object, argument: object, dims: dict[str, Any], what: str) -> object:
    """An entry of `dynamic` in torch's form, checked against the example."""
    if spec is None:
        return None if not isinstance(argument, list | tuple | dict) else pytree.tree_map(_nothing, argument)
    if isinstance(argument, torch.Tensor):
        axes = (
            spec
            if isinstance(spec, Mapping)
            else dict(enumerate(cast("Sequence[object]", spec)))
            if isinstance(spec, list | tuple)
            else None
        )
        if axes is None:
            raise ExampleInputError(f"dynamic= gives {spec!r} for the tensor '{what}'", fix='use {axis: "name"}')
        return _tensor_axes(cast("Mapping[Any, object]", axes), argument, dims, what)
    if isinstance(argument, Mapping) and isinstance(spec, Mapping):
        items = cast("Mapping[str, object]", argument)
        entries = cast("Mapping[str, object]", spec)
        return {key: _convert(entries.get(key), item, dims, f"{what}[{key!r}]") for key, item in items.items()}
    if isinstance(argument, list | tuple) and isinstance(spec, list | tuple):
        both = zip(cast("Sequence[object]", spec), cast("Sequence[object]", argument), strict=True)
        return type(argument)(_convert(entry, item, dims, f"{what}[{i}]") for i, (entry, item) in enumerate(both))
    raise ExampleInputError(
        f"dynamic= gives {spec!r} for '{what}', which is a {type(argument).__name__}", fix="mirror the structure of the input"
    )


def _tensor_axes(axes: Mapping[Any, object], tensor: torch.Tensor, dims: dict[str, Any], what: str) -> dict[int, object]:
    converted: dict[int, object] = {}
    for axis, dim in axes.items():
        if not isinstance(axis, int) or not -tensor.ndim <= axis < tensor.ndim:
            fix = f"use 0 to {tensor.ndim - 1}" if tensor.ndim else "leave it out: it has no axes"
            raise ExampleInputError(f"dynamic= names axis {axis!r} of '{what}', which has the shape {tuple(tensor.shape)}", fix=fix)
        if dim is None:
            continue
        if isinstance(dim, str):
            if not dim.isidentifier():
                raise ExampleInputError(f"dynamic= calls axis {axis} of '{what}' {dim!r}", fix="use a Python identifier, such as 'batch'")
            dim = dims.setdefault(dim, TorchDim(dim, min=1))
        elif (name := getattr(dim, "__name__", None)) is not None:
            dims.setdefault(str(name), dim)
        converted[axis % tensor.ndim] = dim
    return converted


def _entry(shapes: Mapping[str, object], positions: list[str], path: Any) -> object:
    """The converted entry for one leaf of (args, kwargs)."""
    keys: list[Any] = [getattr(key, "idx", getattr(key, "key", None)) for key in path]
    side, first = keys[:2]
    spec: Any = shapes.get(positions[first] if side == 0 and first < len(positions) else first)
    for key in keys[2:]:
        if spec is None or (isinstance(spec, Mapping) and key not in spec):
            return None
        spec = spec[key]
    return spec


def _nothing(_: object) -> None:
    return None


def _doubled(leaf: object, axes: Mapping[int, str]) -> object:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    for axis in axes:
        if leaf.shape[axis] == 1:
            leaf = torch.cat([leaf, leaf], dim=axis)
    return leaf
