"""Elementwise ops as a kernel of their own, and copies between layouts: y = chain(x).

    add + relu f32[1,64,56,56]           flat blocks, where all lie in one order
    copy f32[1,64,56,56] -> NHWC         tiles, where x and y lie side by side along different axes

Numeric class: each op rounds as in torch; transcendental functions within 2 ulp of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cuda.chain import Chain
from graphopt.backends.cuda.kernel import Code, Kernel, Launch
from graphopt.backends.cuda.kernels.blocks import Block, Side, function
from graphopt.backends.cuda.kernels.chain_code import NO_CHAIN, chain_arguments, chain_lines, check_dtypes, check_shapes
from graphopt.backends.cuda.kernels.flat import Flat, flat_blocks
from graphopt.backends.cuda.kernels.walks import by_stride, index_type, power_of_two, walk
from graphopt.backends.cuda.storage import Storage

__all__ = ["Elementwise"]

TILE = 64
"""Elements of a tile along each of its axes, at most."""


@dataclass(frozen=True)
class Elementwise(Kernel):
    """y = chain(x), or a copy without a chain. x and the chain's operands have the shape of y; broadcast axes have stride 0."""

    x: Storage
    y: Storage
    chain: Chain = NO_CHAIN

    algorithm: ClassVar[str] = "elementwise"

    def __post_init__(self) -> None:
        check_shapes(self.y.shape, self.x, *self.chain.operands)
        check_dtypes(self.x.dtype, self.y.dtype, *(operand.dtype for operand in self.chain.operands))
        chain_lines(self.chain, "value", lambda index: "")

    @property
    def reads(self) -> Sequence[Storage]:
        """x and what the chain reads."""
        return tuple(dict.fromkeys((self.x, *self.chain.operands)))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def flops(self) -> int:
        """One per op and element."""
        return self.chain.flops * self.y.elements

    def describe(self) -> str:
        """Ops and shape, or what is copied to where."""
        if self.chain:
            return f"{self.chain.text.removeprefix(' + ')} {self.y.type_text}"
        return f"copy {self.x.type_text} -> {self.y.layout}"

    def emit(self, name: str) -> Code:
        """One kernel, one launch."""
        if not self.y.elements:
            return Code("", ())
        storages = (self.y, self.x, *self.chain.operands)
        arguments = [("x", self.x), *chain_arguments(self.chain), ("y", self.y)]
        turned = _turned_axes(storages)
        flat = flat_blocks(storages) if turned is None else _tiles(storages, *turned)
        block = flat.block
        lines, result = chain_lines(self.chain, "value", lambda index: block.load(f"p{index}", index + 2, self.chain.operands[index].dtype))
        lines = [*flat.lines, f"value = {block.load('x', 1, self.x.dtype)}", *lines, block.store("y", 0, result)]
        launch = Launch(name, (flat.programs,), tuple(storage for _, storage in arguments), warps=flat.warps)
        return Code(function(name, arguments, self.describe(), lines), (launch,))


def _tiles(storages: Sequence[Storage], row: int, column: int) -> Flat:
    """Tiles of two axes: loads run along the one, stores along the other."""
    rank = storages[0].rank
    rest = walk(storages, by_stride(storages[0], [axis for axis in range(rank) if axis not in (row, column)]))
    sides = [
        Side(name, walk(storages, [axis]), min(TILE, power_of_two(storages[0].shape[axis])), number)
        for number, (name, axis) in enumerate((("row", row), ("column", column)))
    ]
    across, down = sides[1].blocks, sides[0].blocks
    lines = [f"tile = tl.program_id(0){index_type(storages, rest.elements)}"]
    lines += sides[1].lines(f"tile % {across} * {sides[1].size}" if across > 1 else "")
    lines += sides[0].lines(f"tile // {across} % {down} * {sides[0].size}" if down > 1 else "")
    outer = Side("other", rest, 1, 0, is_scalar=True)
    if rest.elements > 1:
        lines += outer.lines(f"tile // {across * down}")
    return Flat(lines, Block((outer, *sides)), across * down * rest.elements, 4)


def _turned_axes(storages: Sequence[Storage]) -> tuple[int, int] | None:
    """The axes (of another storage, of y) along which elements lie side by side, where they differ and tiles are worth it."""
    y, *others = storages
    inner = _innermost(y)
    for other in others:
        turned = _innermost(other)
        if inner is not None and turned is not None and turned != inner and min(y.shape[inner], y.shape[turned]) >= 4:
            return turned, inner
    return None


def _innermost(storage: Storage) -> int | None:
    return next((axis for axis in range(storage.rank) if abs(storage.strides[axis]) == 1 and storage.shape[axis] > 1), None)
