"""An image at positions that a tensor gives, -1 to 1 along each axis, last coordinate first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from graphopt.backends.cpu.kernel import Code, Kernel, Pointers
from graphopt.backends.cpu.storage import Storage

__all__ = ["GridSample"]

_MODES = {"nearest": "NEAREST", "bilinear": "LINEAR", "bicubic": "CUBIC"}


@dataclass(frozen=True)
class GridSample(Kernel):
    """y[n, c, ...] = x[n, c] at grid[n, ..., :]; x has two or three spatial axes, nothing is blocked."""

    x: Storage
    grid: Storage
    y: Storage
    mode: Literal["bilinear", "nearest", "bicubic"]
    padding_mode: Literal["zeros", "border", "reflection"]
    align_corners: bool

    algorithm: ClassVar[str] = "grid_sample"
    headers: ClassVar[tuple[str, ...]] = ("grid_sample.hpp",)

    def __post_init__(self) -> None:
        if any(storage.blocked_axis is not None for storage in (self.x, self.grid, self.y)):
            raise ValueError(f"{self.describe()}: a storage is blocked, needs plain strides")
        if self.mode == "bicubic" and self.x.rank != 4:
            raise ValueError(f"{self.describe()}: bicubic needs 4 axes")

    @property
    def reads(self) -> Sequence[Storage]:
        """x and the grid."""
        return (self.x, self.grid)

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    def describe(self) -> str:
        """Mode and shapes."""
        corners = " with corners" if self.align_corners else ""
        return f"{self.mode} {self.padding_mode}{corners} of {self.x.moved('', 0).text.strip()} at {list(self.grid.shape)}"

    def emit(self, pointers: Pointers) -> Code:
        """A struct of sizes and a call."""

        def numbers(values: Sequence[int]) -> str:
            return f"{{{', '.join(map(str, values))}}}"

        x, y = self.x, self.y
        lines = [
            "struct Shape {",
            f"  static constexpr int AXES = {x.rank - 2};",
            f"  static constexpr long N = {y.shape[0]}, C = {y.shape[1]}, X_N = {x.strides[0]}, X_C = {x.strides[1]};",
            f"  static constexpr long Y_N = {y.strides[0]}, Y_C = {y.strides[1]};",
            f"  static constexpr long IN_SIZES[] = {numbers(x.shape[2:])}, OUT_SIZES[] = {numbers(y.shape[2:])};",
            f"  static constexpr long X_AXES[] = {numbers(x.strides[2:])}, Y_AXES[] = {numbers(y.strides[2:])};",
            f"  static constexpr long GRID[] = {numbers(self.grid.strides)};",
            "};",
        ]
        mode, outside = f"Sampling::{_MODES[self.mode]}", f"Outside::{self.padding_mode.upper()}"
        call = f"grid_sample<Shape, {mode}, {outside}, {'true' if self.align_corners else 'false'}>"
        return Code("\n".join(lines), f"{call}(worker, {pointers.write(y)}, {pointers.read(x)}, {pointers.read(self.grid)});")
