"""One item of the user's data as a batch: the model's arguments, flat and in the graph's order, and the labels.

tensor                       the only argument
(a, b)                       the arguments of a model that takes two, or (argument, labels) of a model that takes one
((a, b), labels)             arguments and labels; {"mask": m, ...} in the place of (a, b) too
{"input_ids": i, ...}        arguments by the model's own names; labels under one of `LABELS`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from graphopt.backends.calling import Parameter, flatten_call, is_fixed, parameters
from graphopt.errors import LoweringError, RunInputError
from graphopt.ir.graph import Graph

if TYPE_CHECKING:
    import torch

__all__ = ["LABELS", "Batch", "as_tensor", "labels_of", "read_item"]

LABELS = ("labels", "label", "target", "targets", "y")
"""Keys of a dict under which labels are looked for, in this order."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch: flat inputs in the graph's order, and labels where the data has them."""

    inputs: tuple[torch.Tensor, ...]
    target: torch.Tensor | None = None

    @property
    def samples(self) -> int:
        """Rows of the first input; 1 where it has no axes."""
        return int(self.inputs[0].shape[0]) if self.inputs and self.inputs[0].dim() else 1


def read_item(graph: Graph, item: object) -> Batch:
    """The batch that an item stands for; shapes and dtypes are not looked at.

    A tuple or list is taken as the arguments where they fit the call that was captured, else as arguments with
    labels behind them.

    Raises:
        RunInputError: it fits the call in no way, or an input is no tensor.
    """
    if isinstance(item, Mapping):
        return _from_mapping(graph, cast("Mapping[str, Any]", item), None)
    if not isinstance(item, tuple | list):
        return _batch(graph, (item,), {}, None)
    parts = tuple(cast("Sequence[Any]", item))
    try:
        return _batch(graph, parts, {}, None)
    except RunInputError as error:
        first = error
    if len(parts) < 2:
        raise first
    if len(parts) == 2 and isinstance(parts[0], Mapping) and not _takes_mapping(graph):
        return _from_mapping(graph, cast("Mapping[str, Any]", parts[0]), parts[1])
    attempts: list[tuple[Any, ...]] = [parts[:-1]]
    if len(parts) == 2 and isinstance(parts[0], tuple | list):
        attempts.append(tuple(cast("Sequence[Any]", parts[0])))
    for args in attempts:
        try:
            return _batch(graph, args, {}, parts[-1])
        except RunInputError:
            continue
    raise first


def _from_mapping(graph: Graph, item: Mapping[str, Any], target: object) -> Batch:
    places = _places(graph)
    names = [place.name for place in places]
    if _takes_mapping(graph) and not set(names) & set(item):
        return _batch(graph, (item,), {}, target)
    unknown = [str(key) for key in item if key not in names and key not in LABELS]
    if unknown:
        raise RunInputError(
            f"key '{unknown[0]}' is none of the model's arguments, which are {', '.join(names)}",
            fix=f"leave it out, or capture the model with it; labels are looked for under {', '.join(LABELS)}",
        )
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for place in places:
        if place.name not in item:
            if not is_fixed(place.place):
                raise RunInputError(
                    f"key '{place.name}' is missing, got {', '.join(map(str, item))}",
                    fix="add it to the batch, or capture the model without that argument",
                )
            given = place.place
        else:
            given = item[place.name]
        if place.name in graph.structure.kwargs:
            kwargs[place.name] = given
        else:
            args.append(given)
    if target is None:
        target = next((item[name] for name in LABELS if name in item), None)
    return _batch(graph, args, kwargs, target)


def _places(graph: Graph) -> tuple[Parameter, ...]:
    """The arguments of the captured call, by name; positional ones in order."""
    try:
        return parameters(graph, graph.structure)
    except LoweringError:  # a keyword that no Python function can have
        return tuple(Parameter(name, place, is_fixed(place)) for name, place in graph.structure.kwargs.items())


def _takes_mapping(graph: Graph) -> bool:
    """True when the first positional argument is itself a dict."""
    args = graph.structure.args
    return bool(args) and isinstance(args[0], Mapping)


def _batch(graph: Graph, args: Sequence[Any], kwargs: Mapping[str, Any], target: object) -> Batch:
    structure = graph.structure
    free = [name for name, place in structure.kwargs.items() if not is_fixed(place)]
    if len(args) == 1 and not kwargs and not structure.args and len(free) == 1:  # model(x=x) captured, x given
        args, kwargs = (), {free[0]: args[0]}
    flat = flatten_call(graph, args, kwargs)
    tensors: list[torch.Tensor] = []
    for value, given in zip(graph.inputs, flat, strict=True):
        tensor = as_tensor(given)
        if tensor is None:
            raise RunInputError(f"input %{value.name} is a {type(given).__name__}, needs a tensor {value.type.text}")
        tensors.append(tensor)
    return Batch(tuple(tensors), None if target is None else labels_of(target))


def as_tensor(given: object) -> torch.Tensor | None:
    """A tensor or numpy array as a tensor that shares its memory; None for anything else."""
    import numpy
    import torch

    if isinstance(given, torch.Tensor):
        return given.detach()
    if isinstance(given, numpy.ndarray):
        try:
            return torch.from_numpy(given)
        except (TypeError, ValueError):  # a dtype or stride that torch does not have
            return None
    return None


def labels_of(target: object) -> torch.Tensor | None:
    """Labels as a tensor; None for what has no such form, as boxes of a detector."""
    import torch

    found = as_tensor(target)
    if found is not None:
        return found
    if isinstance(target, bool | int | float) or _is_numbers(target):
        return torch.as_tensor(target)
    return None


def _is_numbers(target: object) -> TypeGuard[Sequence[float]]:
    return isinstance(target, tuple | list) and all(isinstance(part, bool | int | float) for part in cast("Sequence[object]", target))
