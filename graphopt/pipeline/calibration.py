"""Calibration data: a few batches of the user's own, as flat inputs of the graph.

    calibration_from(graph, loader)                          a DataLoader, a list, a generator
    calibration_from(graph, torch.randn(64, 3, 32, 32))      one batch: a tensor, tuple or dict

What an item may be stands in `graphopt.pipeline.batches`. Batches are read once and kept, as references to the
tensors that the data gave, so generators will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from graphopt.analysis.table import counted
from graphopt.errors import GraphoptError, UsageError
from graphopt.ir.dims import Dim, Expression
from graphopt.ir.graph import Graph
from graphopt.pipeline.batches import Batch, read_item
from graphopt.pipeline.randomness import seeded

if TYPE_CHECKING:
    import torch

__all__ = ["DEFAULT_SAMPLES", "Batch", "Calibration", "calibration_from"]

DEFAULT_SAMPLES = 256
"""Samples after which no more calibration data is read, unless the caller says otherwise."""

_LEAST_ROWS = 2
"""What the last batch is cut to at least: symbols of torch.export start at 2 unless the user says otherwise."""


class Calibration:
    """Batches that can be gone through any number of times, always in the same order.

    `notes` say what was done to make the data fit.
    """

    def __init__(self, batches: Sequence[Batch], notes: Sequence[str] = ()) -> None:
        self._batches = tuple(batches)
        self.notes = tuple(notes)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def samples(self) -> int:
        """Rows of the first input over all batches."""
        return sum(batch.samples for batch in self._batches)

    def __repr__(self) -> str:
        return f"<Calibration: {counted(self.samples, 'sample')} in {counted(len(self), 'batch', 'batches')}>"


def calibration_from(graph: Graph, data: object, *, limit: int = DEFAULT_SAMPLES, seed: int = 0) -> Calibration:
    """The user's data as flat inputs of `graph`, checked.

    A tensor, tuple or dict is one batch; anything else is gone through for batches until there are `limit`
    samples (rows of the first input); where the number of rows is symbolic, the last batch is cut to that. Random
    numbers that the data draws from torch, as a shuffling DataLoader does, come from `seed`, so that the same call
    gives the same batches; torch's own state is put back.

    Where the graph was captured with a fixed number of rows and batches have more, they are cut into pieces of
    that size, and what is left over at their end is dropped.

    Raises:
        UsageError: the data is empty, raises, holds something that does not fit the graph (number, dtype, shape),
            or NaN or infinities; the message names the batch and the input. Zeros and minus infinities alone are
            an additive attention mask and pass.
    """
    if limit < 1:
        raise UsageError(f"calibration_samples is {limit}, needs at least 1")
    if isinstance(data, Calibration):
        for index, batch in enumerate(data):
            try:
                _check_fits(graph, batch)
            except GraphoptError as error:
                raise UsageError(f"calibration batch {index}: {error.what}", where=error.where, fix=_fix(error)) from error
        return data
    reader = _Reader(graph, limit)
    with seeded(seed):
        reader.read(_items(data))
    if not reader.batches:
        raise reader.nothing(data)
    return Calibration(reader.batches, reader.notes)


def _items(data: object) -> Iterator[object]:
    import torch

    if isinstance(data, torch.Tensor | Mapping | tuple):
        return iter((cast("object", data),))
    if isinstance(data, torch.utils.data.Dataset) and not isinstance(data, torch.utils.data.IterableDataset):
        raise UsageError(
            f"calibration data is the dataset {type(data).__name__}, which gives samples and not batches",
            fix="pass torch.utils.data.DataLoader(dataset, batch_size=32)",
        )
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise UsageError(
            f"calibration data is a {type(data).__name__}, needs a DataLoader, a list of batches, or one batch",
            fix="pass calibration=loader, calibration=[x1, x2] or calibration=x",
        )
    return iter(cast("Iterable[object]", data))


class _Reader:
    """Collects batches until there are enough samples."""

    def __init__(self, graph: Graph, limit: int) -> None:
        self.graph = graph
        self.limit = limit
        self.batches: list[Batch] = []
        self.notes: list[str] = []
        self._samples = 0
        self._seen = 0
        self._too_short = ""

    def read(self, items: Iterator[object]) -> None:
        """Go through items in order; nothing is taken from them once there is enough."""
        while self._samples < self.limit:
            try:
                item = next(items)
            except StopIteration:
                break
            except Exception as error:
                raise UsageError(
                    f"calibration data raised {type(error).__name__} at batch {self._seen}: {error}", fix="go through the data by itself"
                ) from error
            try:
                self._take(item)
            except GraphoptError as error:
                raise UsageError(f"calibration batch {self._seen}: {error.what}", where=error.where, fix=_fix(error)) from error
            self._seen += 1

    def _take(self, item: object) -> None:
        batch = read_item(self.graph, item)
        dim, rows = _row_dim(self.graph, batch), batch.samples
        left = max(self.limit - self._samples, min(self.limit, _LEAST_ROWS))
        size = left if isinstance(dim, Expression) and rows > left else dim
        if not isinstance(size, int) or size in (0, rows):
            self._add(batch)
            return
        if size is not dim:
            self._note(f"of a calibration batch of {rows} rows the first {size} were used: calibration_samples is {self.limit}")
            self._add(_slice(batch, 0, size, rows))
            return
        if rows < size:
            self._too_short = f"its batches have {counted(rows, 'row')}, the graph was captured with {size}"
            self._note(f"calibration batches of {counted(rows, 'row')} were left out: the graph was captured with {size}")
            return
        self._note(f"calibration batches of {rows} rows were cut into {rows // size} of {size}, with which the graph was captured")
        for start in range(0, rows - size + 1, size):
            if self._samples >= self.limit:
                break
            self._add(_slice(batch, start, start + size, rows))

    def _add(self, batch: Batch) -> None:
        _check_fits(self.graph, batch)
        for value, tensor in zip(self.graph.inputs, batch.inputs, strict=True):
            _check_finite(value.name, tensor)
        self.batches.append(batch)
        self._samples += batch.samples

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def nothing(self, data: object) -> UsageError:
        """The error for data without a usable batch."""
        if self._too_short:
            fix = "use batches of at least that size, or capture with a symbolic one: dynamic={'x': {0: 'batch'}}"
            return UsageError(f"calibration data has no batch that fits: {self._too_short}", fix=fix)
        spent = isinstance(data, Iterator)
        return UsageError(
            f"calibration data is empty: no batch came out of the {type(data).__name__}",
            fix="a generator can be gone through once, and this one is at its end; make a new one" if spent else "give at least one batch",
        )


def _check_fits(graph: Graph, batch: Batch) -> None:
    from graphopt.backends.reference.binding import bind_dims, check_inputs

    check_inputs(graph, batch.inputs)
    bind_dims(graph, batch.inputs)


def _row_dim(graph: Graph, batch: Batch) -> Dim | None:
    """Size of axis 0 in the graph where all inputs share it and the batch differs in nothing else; None otherwise."""
    dims: set[Dim] = set()
    rows: set[int] = set()
    for value, tensor in zip(graph.inputs, batch.inputs, strict=True):
        if value.type.rank != tensor.dim() or tensor.dim() == 0:
            return None
        rest = zip(value.shape[1:], tensor.shape[1:], strict=True)
        if any(isinstance(dim, int) and dim != size for dim, size in rest):
            return None
        dims.add(value.shape[0])
        rows.add(int(tensor.shape[0]))
    return dims.pop() if len(dims) == 1 and len(rows) == 1 else None


def _slice(batch: Batch, start: int, stop: int, rows: int) -> Batch:
    """Rows of a batch, as views; labels go along where there is one per row."""
    target = batch.target
    if target is not None and target.dim() and target.shape[0] == rows:
        target = target[start:stop]
    return Batch(tuple(tensor[start:stop] for tensor in batch.inputs), target)


def _check_finite(name: str, tensor: torch.Tensor) -> None:
    import torch

    if not (tensor.is_floating_point() or tensor.is_complex()):
        return
    finite = torch.isfinite(tensor)
    if bool(finite.all()) or _is_mask(tensor):
        return
    places = (~finite).nonzero()
    place = ", ".join(str(int(index)) for index in places[0])
    raise UsageError(
        f"input %{name} has {len(places)} NaN or infinite values among {tensor.numel()}, the first at ({place})",
        fix="clean the data: every number that is learned from such a batch would be NaN",
    )


def _is_mask(tensor: torch.Tensor) -> bool:
    """True for what is added to attention scores: nothing but zeros and minus infinities."""
    return tensor.is_floating_point() and bool(((tensor == 0) | (tensor == float("-inf"))).all())


def _fix(error: GraphoptError) -> str | None:
    if error.fix is not None or " needs " not in error.what:
        return error.fix
    return "give batches as the model takes them: same dtypes and shapes as the example inputs"
