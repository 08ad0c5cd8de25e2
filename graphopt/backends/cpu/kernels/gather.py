"""Reading at positions given by index tensors: embedding, index_select, index, gather.

    y[b, t, :] = weight[tokens[b, t], :]

All of them are one loop: y and the indices are seen in the shape of y, x without the axes that are indexed.
An index out of range makes the run fail; nothing is read there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from graphopt.backends.cpu.kernel import Code, Kernel, Pointers
from graphopt.backends.cpu.kernels.loops import Axis, Nest, chunked, nests, outer_code
from graphopt.backends.cpu.storage import Storage

__all__ = ["Gather", "Index", "Viewed", "indexed_views", "indexing_code"]


@dataclass(frozen=True)
class Viewed:
    """x and indices in the shape of what is read (or written): `x` has stride 0 along axes that indices make."""

    x: Storage
    indices: tuple[Storage, ...]
    axes: tuple[int, ...]
    """The axis of the tensor that each index points into."""


def indexed_views(x: Storage, indices: Sequence[Storage | None]) -> Viewed:
    """Numpy's advanced indexing: indices broadcast together; their axes take the place of the indexed ones where
    those are neighbours, else they come first."""
    used = [axis for axis, index in enumerate(indices) if index is not None]
    tensors = [index for index in indices if index is not None]
    rank = max(index.rank for index in tensors)
    block = [1] * rank
    for index in tensors:
        for place, size in enumerate(index.shape, start=rank - index.rank):
            block[place] = size if block[place] == 1 else block[place]
    kept = [axis for axis in range(x.rank) if axis not in used]
    together = used == list(range(used[0], used[-1] + 1))
    before = [axis for axis in kept if axis < used[0]] if together else []
    after = [axis for axis in kept if axis not in before]
    shape = (*(x.shape[axis] for axis in before), *block, *(x.shape[axis] for axis in after))
    strides = (*(x.strides[axis] for axis in before), *(0 for _ in block), *(x.strides[axis] for axis in after))
    views: list[Storage] = []
    for index in tensors:
        wide = index.expand(tuple(block))
        assert wide is not None, "index tensors are not blocked"
        steps = (*(0 for _ in before), *wide.strides, *(0 for _ in after))
        views.append(replace(wide, shape=shape, strides=steps))
    return Viewed(replace(x, shape=shape, strides=strides, halo=(0, 0)), tuple(views), tuple(used))


def _require_strided(kernel: Kernel, *storages: Storage | None) -> None:
    for storage in storages:
        if storage is not None and storage.blocked_axis is not None:
            raise ValueError(f"{kernel.describe()}: {storage.text} is blocked, needs plain strides")


@dataclass(frozen=True)
class Index(Kernel):
    """y = x[indices]: None where an axis is not indexed. Indices are i64 or i32, all of one dtype.

    Embedding is `Index(weight, (tokens,), y)`, index_select along axis 1 is `Index(x, (None, index), y)`.
    """

    x: Storage
    indices: tuple[Storage | None, ...]
    y: Storage
    from_end: bool = False
    """Indices below 0 count from the end, as for `index`."""

    algorithm: ClassVar[str] = "index"
    headers: ClassVar[tuple[str, ...]] = ("gather.hpp",)

    def __post_init__(self) -> None:
        _require_strided(self, self.x, self.y, *self.indices)

    @property
    def reads(self) -> Sequence[Storage]:
        """x and the indices."""
        return (self.x, *(index for index in self.indices if index is not None))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    def describe(self) -> str:
        """Shapes."""
        places = ", ".join(":" if index is None else str(list(index.shape)) for index in self.indices)
        return f"{self.x.moved('', 0).text.strip()}[{places}]"

    def emit(self, pointers: Pointers) -> Code:
        """A struct of loops and a call per nest."""
        viewed = indexed_views(self.x, self.indices)
        sizes = [self.x.shape[axis] for axis in viewed.axes]
        strides = [self.x.strides[axis] for axis in viewed.axes]
        tensors = [index for index in self.indices if index is not None]
        return _take_code((self.y, viewed.x, *viewed.indices), tensors, self.x, sizes, strides, self.from_end, pointers)


@dataclass(frozen=True)
class Gather(Kernel):
    """y[i, j] = x[i, index[i, j]]: x at index along an axis, position by position; y has the shape of index."""

    x: Storage
    index: Storage
    y: Storage
    axis: int

    algorithm: ClassVar[str] = "gather"
    headers: ClassVar[tuple[str, ...]] = ("gather.hpp",)

    def __post_init__(self) -> None:
        _require_strided(self, self.x, self.index, self.y)

    @property
    def reads(self) -> Sequence[Storage]:
        """x and the index."""
        return (self.x, self.index)

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    def describe(self) -> str:
        """Shapes."""
        return f"axis {self.axis} of {self.x.moved('', 0).text.strip()} at {list(self.index.shape)}"

    def emit(self, pointers: Pointers) -> Code:
        """A struct of loops and a call per nest."""
        if self.x.rank == 0:
            view, size, stride = self.x, 1, 0
        else:
            steps = (*self.x.strides[: self.axis], 0, *self.x.strides[self.axis + 1 :])
            view = replace(self.x, shape=self.y.shape, strides=steps, halo=(0, 0))
            size, stride = self.x.shape[self.axis], self.x.strides[self.axis]
        return _take_code((self.y, view, self.index), [self.index], self.x, [size], [stride], False, pointers)


def _take_code(
    views: Sequence[Storage],
    tensors: Sequence[Storage],
    x: Storage,
    sizes: Sequence[int],
    strides: Sequence[int],
    from_end: bool,
    pointers: Pointers,
) -> Code:
    declarations: list[str] = []
    statements: list[str] = []
    for nest in nests(views):
        for part in _pieces(nest, len(views)):
            *outer, inner = part.axes
            in_runs = all(stride == 0 for stride in inner.strides[2:])
            number = len(declarations)
            constants = [f"  static constexpr long LENGTH = {inner.size}, STEPS[] = {{{', '.join(map(str, inner.strides))}}};"]
            constants.append(f"  static constexpr bool IN_RUNS = {'true' if in_runs else 'false'};")
            lines = [f"struct Take{number} {{", *outer_code(outer, len(views)), *constants, *indexing_code(sizes, strides, from_end), "};"]
            declarations.append("\n".join(lines))
            bases = [pointers.write(views[0]), pointers.read(x), *(pointers.read(tensor) for tensor in tensors)]
            arguments = ", ".join(f"{base} + {offset}" if offset else base for base, offset in zip(bases, part.offsets, strict=True))
            statements.append(f"take<Take{number}>(worker, {arguments});")
    return Code("\n".join(declarations), "\n".join(statements))


def indexing_code(sizes: Sequence[int], strides: Sequence[int], from_end: bool) -> list[str]:
    """Members of a C++ struct that tell what indices point into."""
    of_axes, apart = ", ".join(map(str, sizes)), ", ".join(map(str, strides))
    return [
        f"  static constexpr int INDICES = {len(sizes)};",
        f"  static constexpr long SIZES_INDEXED[] = {{{of_axes}}}, STRIDES_INDEXED[] = {{{apart}}};",
        f"  static constexpr bool FROM_END = {'true' if from_end else 'false'};",
    ]


def _pieces(nest: Nest, count: int) -> list[Nest]:
    return chunked(nest if nest.axes else Nest((Axis(1, (0,) * count),), nest.offsets))
