"""The user's data as training batches: gone through once per epoch, checked, never kept.

What an item may be stands in `graphopt.pipeline.batches`. For a network without a graph, a tuple or list of two or
more is (arguments..., labels), a dict has keyword arguments and labels, and anything else is the only argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from graphopt.backends.reference.binding import bind_dims, check_inputs
from graphopt.errors import GraphoptError, UsageError
from graphopt.ir.graph import Graph
from graphopt.pipeline.batches import LABELS, as_tensor, labels_of, read_item

__all__ = ["TrainingBatch", "check_data", "fixed_rows", "items", "length_of", "read_batch"]


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Arguments of a call of the module, and labels where there are any; `rows` is the size of axis 0."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: torch.Tensor | None
    rows: int

    def to(self, device: torch.device) -> TrainingBatch:
        """The same on a device."""
        args = tuple(_moved(given, device) for given in self.args)
        kwargs = {name: _moved(given, device) for name, given in self.kwargs.items()}
        return replace(self, args=args, kwargs=kwargs, target=None if self.target is None else self.target.to(device))

    def split(self, rows: int) -> list[TrainingBatch]:
        """Pieces of at most `rows` rows, as views; the batch itself where it has no more or its tensors differ in rows."""
        tensors = [given for given in (*self.args, *self.kwargs.values(), self.target) if isinstance(given, torch.Tensor)]
        if rows >= self.rows or any(tensor.dim() == 0 or tensor.shape[0] != self.rows for tensor in tensors):
            return [self]
        return [self._slice(start, min(start + rows, self.rows)) for start in range(0, self.rows, rows)]

    def _slice(self, start: int, stop: int) -> TrainingBatch:
        def cut(given: Any) -> Any:
            return given[start:stop] if isinstance(given, torch.Tensor) else given

        return TrainingBatch(
            tuple(cut(given) for given in self.args),
            {name: cut(given) for name, given in self.kwargs.items()},
            cut(self.target),
            stop - start,
        )


def _moved(given: Any, device: torch.device) -> Any:
    return given.to(device) if isinstance(given, torch.Tensor) else given


def check_data(data: object) -> Iterable[object]:
    """What can be gone through for batches; a tensor, tuple or dict is the only batch.

    Raises:
        UsageError: it is a dataset, or nothing that can be gone through.
    """
    if isinstance(data, torch.Tensor | Mapping | tuple):
        return [cast("object", data)]
    if isinstance(data, torch.utils.data.Dataset) and not isinstance(data, torch.utils.data.IterableDataset):
        raise UsageError(
            f"training data is the dataset {type(data).__name__}, which gives samples and not batches",
            fix="pass torch.utils.data.DataLoader(dataset, batch_size=32, shuffle=True)",
        )
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise UsageError(f"training data is a {type(data).__name__}, needs a DataLoader or a list of batches", fix="recover(model, loader)")
    return cast("Iterable[object]", data)


def length_of(data: Iterable[object]) -> int | None:
    """How many batches there are; None where nobody knows, as of a DataLoader of an IterableDataset, which has a `__len__` that raises.

    Raises:
        UsageError: it fails in another way.
    """
    if not isinstance(data, Sized):
        return None
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None
    except Exception as error:
        raise UsageError(f"len() of training data raised {type(error).__name__}: {error}", fix="call it by itself to see why") from error


def items(data: Iterable[object], seeds: Iterator[int]) -> Iterator[object]:
    """The items of one epoch; torch's generator is seeded from `seeds` before the first and before each one.

    Raises:
        UsageError: the data raises; with the number of the batch.
    """
    torch.manual_seed(next(seeds))
    try:
        iterator = iter(data)
    except Exception as error:
        raise UsageError(
            f"training data raised {type(error).__name__} before its first batch: {error}", fix="go through the data by itself"
        ) from error
    index = 0
    while True:
        torch.manual_seed(next(seeds))
        try:
            item = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            raise UsageError(
                f"training data raised {type(error).__name__} at batch {index}: {error}", fix="go through the data by itself"
            ) from error
        yield item
        index += 1


def read_batch(graph: Graph | None, item: object, index: int) -> list[TrainingBatch]:
    """An item as batches that fit the graph: one, or several where it was captured for a fixed number of rows and the item has
    a multiple of them. An empty list where it has fewer: the last batch of a loader.

    Raises:
        UsageError: it does not fit, or holds NaN or infinities; the message names the batch and the input.
    """
    try:
        batch = _without_graph(item) if graph is None else _with_graph(graph, item)
        for name, given in (*enumerate(batch.args), *batch.kwargs.items()):
            label = f"%{graph.inputs[name].name}" if graph is not None and isinstance(name, int) else f"argument {name}"
            if isinstance(given, torch.Tensor):
                _check_finite(label, given)
        if batch.target is not None:
            _check_finite("labels", batch.target)
        if graph is None:
            return [batch]
        fixed = fixed_rows(graph, batch)
        if fixed is not None and fixed != batch.rows:
            pieces = [piece for piece in batch.split(fixed) if piece.rows == fixed] if fixed < batch.rows else []
        else:
            pieces = [batch]
        for piece in pieces:
            check_inputs(graph, piece.args)
            bind_dims(graph, piece.args)
        return pieces
    except GraphoptError as error:
        fix = error.fix or "give batches as the model takes them: same dtypes and shapes as the example inputs"
        raise UsageError(f"training batch {index}: {error.what}", where=error.where, fix=fix) from error


def _with_graph(graph: Graph, item: object) -> TrainingBatch:
    found = read_item(graph, item)
    check_inputs(graph, found.inputs)
    return TrainingBatch(found.inputs, {}, found.target, _rows(found.inputs))


def _without_graph(item: object) -> TrainingBatch:
    args: tuple[Any, ...] = (item,)
    kwargs: dict[str, Any] = {}
    target: Any = None
    if isinstance(item, Mapping):
        kwargs = dict(cast("Mapping[str, Any]", item))
        label = next((name for name in LABELS if name in kwargs), None)
        target = kwargs.pop(label) if label is not None else None
        args = ()
    elif isinstance(item, tuple | list):
        parts = tuple(cast("Sequence[Any]", item))
        args, target = (parts[:-1], parts[-1]) if len(parts) > 1 else (parts, None)
        if len(args) == 1 and isinstance(args[0], tuple | list):
            args = tuple(cast("Sequence[Any]", args[0]))
    args = tuple(map(_numbers, args))
    kwargs = {name: _numbers(given) for name, given in kwargs.items()}
    tensors = [given for given in (*args, *kwargs.values()) if isinstance(given, torch.Tensor)]
    if not tensors:
        raise UsageError(f"it is a {type(item).__name__} without a tensor")
    return TrainingBatch(args, kwargs, None if target is None else labels_of(target), _rows(tensors))


def _numbers(given: Any) -> Any:
    """numpy arrays as tensors; whatever else a module takes stays as it is."""
    found = as_tensor(given)
    return given if found is None else found


def _rows(tensors: Sequence[torch.Tensor]) -> int:
    return int(tensors[0].shape[0]) if tensors and tensors[0].dim() else 1


def fixed_rows(graph: Graph, batch: TrainingBatch) -> int | None:
    """The number of rows that the graph was captured with, where all inputs share it and the batch has one number for all."""
    sizes = {value.shape[0] if value.type.rank else None for value in graph.inputs}
    rows = {given.shape[0] if given.dim() else None for given in batch.args}
    if len(sizes) != 1 or len(rows) != 1:
        return None
    size = sizes.pop()
    return size if isinstance(size, int) else None


def _check_finite(name: str, tensor: torch.Tensor) -> None:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return
    finite = torch.isfinite(tensor)
    if bool(finite.all()):
        return
    places = (~finite).nonzero()
    place = ", ".join(str(int(part)) for part in places[0])
    raise UsageError(
        f"{name} has {len(places)} NaN or infinite values among {tensor.numel()}, the first at ({place})",
        fix="clean the data: every weight that is trained on such a batch would be NaN",
    )
