"""Copies from one storage to another of the same shape and dtype: changes of layout, and what views can't tell.

    copy f32[1,64,56,56] -> blocked(1) halo 1x1

Where both lie side by side along an axis, runs are copied; where they do along different axes, tiles of
16 x 16 are turned in registers; else element by element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cpu.kernel import C_TYPES, Code, Kernel, Pointers
from graphopt.backends.cpu.kernels.halo import halo_code
from graphopt.backends.cpu.kernels.loops import Axis, Nest, chunked, nests, outer_code
from graphopt.backends.cpu.kernels.vector_ops import literal
from graphopt.backends.cpu.storage import LANES, Storage

__all__ = ["Copies", "Copy", "Fill", "halo_code"]


@dataclass(frozen=True)
class Copy(Kernel):
    """y = x. A source may be broadcast (stride 0) or reversed (stride below 0); its elements are read only where y has them."""

    x: Storage
    y: Storage

    algorithm: ClassVar[str] = "copy"
    headers: ClassVar[tuple[str, ...]] = ("copy.hpp",)

    @property
    def reads(self) -> Sequence[Storage]:
        """What is copied."""
        return (self.x,)

    @property
    def writes(self) -> Sequence[Storage]:
        """What is written."""
        return (self.y,)

    def describe(self) -> str:
        """Types and layouts."""
        return f"{self.x.moved('', 0).text.strip()} -> {self.y.moved('', 0).text.strip()}"

    def emit(self, pointers: Pointers) -> Code:
        """A struct of loops and a call per nest."""
        return copy_code([(self.x, self.y)], (), pointers)


@dataclass(frozen=True)
class Fill(Kernel):
    """y = value."""

    y: Storage
    value: float | int | bool

    algorithm: ClassVar[str] = "fill"
    headers: ClassVar[tuple[str, ...]] = ("copy.hpp",)

    @property
    def reads(self) -> Sequence[Storage]:
        """What is copied."""
        return ()

    @property
    def writes(self) -> Sequence[Storage]:
        """What is written."""
        return (self.y,)

    def describe(self) -> str:
        """Types and layouts."""
        return f"{self.value} -> {self.y.moved('', 0).text.strip()}"

    def emit(self, pointers: Pointers) -> Code:
        """A struct of loops and a call per nest."""
        return copy_code((), [(self.y, self.value)], pointers)


@dataclass(frozen=True)
class Copies(Kernel):
    """Several copies and fills in one step: parts of one tensor. They do not overlap, and none reads what another writes."""

    title: str
    copies: tuple[tuple[Storage, Storage], ...]
    fills: tuple[tuple[Storage, float | int | bool], ...] = ()

    algorithm: ClassVar[str] = "copy"
    headers: ClassVar[tuple[str, ...]] = ("copy.hpp",)

    @property
    def reads(self) -> Sequence[Storage]:
        """What is copied."""
        return tuple(dict.fromkeys(x for x, _ in self.copies))

    @property
    def writes(self) -> Sequence[Storage]:
        """What is written."""
        return tuple(dict.fromkeys([y for _, y in self.copies] + [y for y, _ in self.fills]))

    def describe(self) -> str:
        """Types and layouts."""
        return f"{self.title}: {len(self.copies)} copies{f' and {len(self.fills)} fills' if self.fills else ''}"

    def emit(self, pointers: Pointers) -> Code:
        """A struct of loops and a call per nest."""
        return copy_code(self.copies, self.fills, pointers)


def copy_code(copies: Sequence[tuple[Storage, Storage]], fills: Sequence[tuple[Storage, float | int | bool]], pointers: Pointers) -> Code:
    """Code of copies (x, y) and of fills (y, value)."""
    declarations: list[str] = []
    statements: list[str] = []
    for y, value in fills:
        for nest in nests([y], fill=True):
            _fill_nest(nest, y, pointers.write(y), value, declarations, statements)
    for x, y in copies:
        if x.dtype is not y.dtype:
            raise ValueError(f"copy of {x.text} to {y.text}, needs one dtype")
        for nest in nests([y, x], fill=True):
            _copy_nest(nest, y, pointers.write(y), pointers.read(x), declarations, statements)
    return Code("\n".join(declarations), "\n".join(statements))


def _behind(pointer: str, offset: int) -> str:
    return f"{pointer} + {offset}" if offset else pointer


def _structure(declarations: list[str], axes: Sequence[Axis], count: int, *constants: str) -> str:
    name = f"Copy{len(declarations)}"
    lines = [f"struct {name} {{", *outer_code(axes, count), *(f"  {constant}" for constant in constants), "};"]
    declarations.append("\n".join(lines))
    return name


def _fill_nest(nest: Nest, y: Storage, pointer: str, value: float | int | bool, declarations: list[str], statements: list[str]) -> None:
    for part in chunked(nest):
        *outer, inner = part.axes or (Axis(1, (1,)),)
        name = _structure(declarations, outer, 1, f"static constexpr long LENGTH = {inner.size}, STEP = {inner.strides[0]};")
        c_type = C_TYPES[y.dtype.text]
        statements.append(f"fill<{name}>(worker, {_behind(pointer, part.offsets[0])}, static_cast<{c_type}>({literal(value, y.dtype)}));")


def _copy_nest(nest: Nest, y: Storage, to: str, source: str, declarations: list[str], statements: list[str]) -> None:
    axes = list(nest.axes) or [Axis(1, (1, 1))]
    turned = _turned_axis(axes) if y.dtype.bytes == 4 and not _takes_turns(axes) else None
    if turned is not None:
        _transposed_nest(nest, axes, turned, y, to, source, declarations, statements)
        return
    if _takes_turns(axes):
        *outer, run, ways = axes
        constants = f"static constexpr long LENGTH = {run.size}, WAYS = {ways.size}, X_WAY = {ways.strides[1]};"
        name = _structure(declarations, outer, 2, constants)
        statements.append(f"copy_interleaved<{name}>(worker, {_behind(to, nest.offsets[0])}, {_behind(source, nest.offsets[1])});")
        return
    for part in chunked(Nest(tuple(axes), nest.offsets)):
        *outer, inner = part.axes
        pair = f"{_behind(to, part.offsets[0])}, {_behind(source, part.offsets[1])}"
        if inner.strides == (1, 1) or inner.size == 1:
            name = _structure(declarations, outer, 2, f"static constexpr long LENGTH = {inner.size};  // side by side in both")
            statements.append(f"copy_runs<{name}>(worker, {pair});")
        else:
            constants = f"static constexpr long LENGTH = {inner.size}, STEPS[] = {{{inner.strides[0]}, {inner.strides[1]}}};"
            name = _structure(declarations, outer, 2, constants)
            statements.append(f"copy_elements<{name}>(worker, {pair});")


def _takes_turns(axes: Sequence[Axis]) -> bool:
    """True for a few runs of x that alternate in y, as in a shuffle of channels that lie side by side."""
    if len(axes) < 2:
        return False
    run, ways = axes[-2:]
    return ways.strides[0] == 1 and 2 <= ways.size <= 4 and run.strides == (ways.size, 1) and run.size >= 8


def _turned_axis(axes: Sequence[Axis]) -> int | None:
    """The axis along which x lies side by side, where y does along the last; tiles have to be worth it."""
    last = axes[-1]
    if last.strides[0] != 1 or last.strides[1] in (0, 1) or last.size < 3:
        return None
    return next((number for number, axis in enumerate(axes[:-1]) if axis.strides[1] == 1 and axis.size >= 4), None)


def _transposed_nest(
    nest: Nest, axes: Sequence[Axis], turned: int, y: Storage, to: str, source: str, declarations: list[str], statements: list[str]
) -> None:
    columns, rows = axes[turned], axes[-1]
    rest = [axis for number, axis in enumerate(axes[:-1]) if number != turned]
    whole = rows.size // LANES
    tiles = [(whole, LANES, 0)] if whole else []
    if rows.size % LANES:
        tiles.append((1, rows.size % LANES, whole * LANES))
    cast = y.dtype.text != "f32"
    for count, size, start in tiles:
        outer = [*rest, *([Axis(count, (LANES, LANES * rows.strides[1]))] if count > 1 else [])]
        offsets = (nest.offsets[0] + start, nest.offsets[1] + start * rows.strides[1])
        # columns go last, so that `chunked` cuts them
        for part in chunked(Nest((*outer, columns), offsets), multiple=LANES):
            *around, inner = part.axes
            name = _structure(
                declarations,
                around,
                2,
                f"static constexpr int ROWS = {size}, COLUMNS = {inner.size};",
                f"static constexpr long X_ROW = {rows.strides[1]}, Y_ROW = {inner.strides[0]};",
            )
            target, origin = _behind(to, part.offsets[0]), _behind(source, part.offsets[1])
            if cast:
                target, origin = f"reinterpret_cast<float*>({target})", f"reinterpret_cast<const float*>({origin})"
            statements.append(f"copy_transposed<{name}>(worker, {target}, {origin});")
