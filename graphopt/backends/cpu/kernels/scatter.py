"""Writing at positions given by index tensors: scatter and index_put.

    y = x;  y[i, index[i, j]] = source[i, j]

y starts as a copy of x. Then every worker takes places that nobody else writes, and goes through the indices
in order: where several meet, the last one stays, and sums are the same for any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Literal

from graphopt.backends.cpu.kernel import C_TYPES, Code, Kernel, Pointers
from graphopt.backends.cpu.kernels.copy import copy_code
from graphopt.backends.cpu.kernels.gather import indexed_views, indexing_code
from graphopt.backends.cpu.kernels.loops import Axis, nests, outer_code
from graphopt.backends.cpu.kernels.vector_ops import literal
from graphopt.backends.cpu.storage import Storage

__all__ = ["IndexPut", "Scatter"]

_STEPS = {None: "v", "add": "scalar::add(old, v)", "multiply": "scalar::mul(old, v)"}


def _put_code(
    x: Storage,
    y: Storage,
    views: Sequence[Storage],
    shared: Sequence[int],
    source: Storage | float | int | bool,
    tensors: Sequence[Storage],
    places: tuple[Sequence[int], Sequence[int], bool],
    step: str,
    pointers: Pointers,
) -> Code:
    """`views` are y, the source and the indices in one shape; workers may share the axes `shared`."""
    copied = copy_code([(x, y)] if x != y else [], (), pointers)
    if prod(views[0].shape) == 0:
        return copied
    (nest,) = nests(views, merge=False, sort=False)
    real = [axis for axis, size in enumerate(views[0].shape) if size != 1]
    outer = [axis for number, axis in zip(real, nest.axes, strict=True) if number in shared]
    *rows, run = [axis for number, axis in zip(real, nest.axes, strict=True) if number not in shared] or [Axis(1, (0,) * len(views))]
    c_type = C_TYPES[y.dtype.text]
    lines = [
        "struct Shared {",
        *outer_code(outer, len(views)),
        *indexing_code(*places),
        "};",
        "struct InOrder {",
        *outer_code(rows, len(views)),
        f"  static constexpr long LENGTH = {run.size}, STEPS[] = {{{', '.join(map(str, run.strides))}}};",
        "};",
    ]
    before: list[str] = []
    if isinstance(source, Storage):
        values = pointers.read(source)
    else:
        before.append(f"const {c_type} value = static_cast<{c_type}>({literal(source, y.dtype)});")
        values = "&value"
    arguments = ", ".join(
        [
            pointers.write(y),
            values,
            f"[]({c_type} old, {c_type} v) {{ (void)old; return {step}; }}",
            *(pointers.read(tensor) for tensor in tensors),
        ]
    )
    statements = [copied.statements, "worker.wait();", *before, f"put<Shared, InOrder>(worker, {arguments});"]
    return Code("\n".join([copied.declarations, *lines]), "\n".join(statement for statement in statements if statement))


def _require_strided(kernel: Kernel, *storages: object) -> None:
    for storage in storages:
        if isinstance(storage, Storage) and storage.blocked_axis is not None:
            raise ValueError(f"{kernel.describe()}: {storage.text} is blocked, needs plain strides")


@dataclass(frozen=True)
class Scatter(Kernel):
    """y = x with source (a tensor or a number) written at index along an axis, or added, or multiplied."""

    x: Storage
    index: Storage
    source: Storage | float | int | bool
    y: Storage
    axis: int
    reduce: Literal["add", "multiply"] | None = None

    algorithm: ClassVar[str] = "scatter"
    headers: ClassVar[tuple[str, ...]] = ("gather.hpp", "copy.hpp")

    def __post_init__(self) -> None:
        _require_strided(self, self.x, self.index, self.source, self.y)

    @property
    def reads(self) -> Sequence[Storage]:
        """x, the index and a source that is a tensor."""
        return (self.x, self.index, *([self.source] if isinstance(self.source, Storage) else []))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    def describe(self) -> str:
        """Axis and shapes."""
        return f"{self.reduce or 'write'} along axis {self.axis} of {self.x.moved('', 0).text.strip()} at {list(self.index.shape)}"

    def emit(self, pointers: Pointers) -> Code:
        """A copy, then the writes."""
        shape = self.index.shape
        if self.y.rank == 0:
            target, size, stride = replace(self.y, shape=shape, strides=(0,) * len(shape)), 1, 0
        else:
            steps = (*self.y.strides[: self.axis], 0, *self.y.strides[self.axis + 1 :])
            target = replace(self.y, shape=shape, strides=steps, halo=(0, 0))
            size, stride = self.y.shape[self.axis], self.y.strides[self.axis]
        source = _source_view(self.source, shape, self.y)
        shared = [axis for axis in range(len(shape)) if axis != self.axis]
        views = (target, source, self.index)
        return _put_code(self.x, self.y, views, shared, self.source, [self.index], ([size], [stride], False), _STEPS[self.reduce], pointers)


@dataclass(frozen=True)
class IndexPut(Kernel):
    """y = x with x[indices] = values, or += where it accumulates. Indices are i64 or i32, None where an axis has none."""

    x: Storage
    values: Storage | float | int | bool
    indices: tuple[Storage | None, ...]
    y: Storage
    accumulate: bool = False

    algorithm: ClassVar[str] = "index_put"
    headers: ClassVar[tuple[str, ...]] = ("gather.hpp", "copy.hpp")

    def __post_init__(self) -> None:
        _require_strided(self, self.x, self.values, self.y, *self.indices)

    @property
    def reads(self) -> Sequence[Storage]:
        """x, the indices and values that are a tensor."""
        return (
            self.x,
            *(index for index in self.indices if index is not None),
            *([self.values] if isinstance(self.values, Storage) else []),
        )

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    def describe(self) -> str:
        """Shapes."""
        places = ", ".join(":" if index is None else str(list(index.shape)) for index in self.indices)
        return f"{self.x.moved('', 0).text.strip()}[{places}] {'+=' if self.accumulate else '='} values"

    def emit(self, pointers: Pointers) -> Code:
        """A copy, then the writes."""
        viewed = indexed_views(self.y, self.indices)
        sizes = [self.y.shape[axis] for axis in viewed.axes]
        strides = [self.y.strides[axis] for axis in viewed.axes]
        source = _source_view(self.values, viewed.x.shape, self.y)
        tensors = [index for index in self.indices if index is not None]
        block = [axis for axis in range(viewed.x.rank) if any(view.strides[axis] for view in viewed.indices)]
        # axes of the indices are walked through in order, those that are kept can be shared
        shared = [axis for axis in range(viewed.x.rank) if axis not in block and viewed.x.strides[axis] != 0]
        step = _STEPS["add" if self.accumulate else None]
        return _put_code(
            self.x, self.y, (viewed.x, source, *viewed.indices), shared, self.values, tensors, (sizes, strides, True), step, pointers
        )


def _source_view(source: Storage | float | int | bool, shape: Sequence[int], y: Storage) -> Storage:
    if not isinstance(source, Storage):
        return Storage(y.buffer, y.dtype, tuple(shape), (0,) * len(shape))
    if source.rank == len(shape) and any(have > want for have, want in zip(source.shape, shape, strict=True)):
        return replace(source, shape=tuple(shape), halo=(0, 0))  # a scatter reads as much of its source as there are indices
    wide = source.expand(tuple(shape)) if source.shape != tuple(shape) else source
    assert wide is not None, "a source is not blocked"
    return wide
