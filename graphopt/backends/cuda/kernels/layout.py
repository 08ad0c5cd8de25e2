"""Padding and concatenation: copies of which parts are filled, or come from several tensors.

y = x within the pads, `value` outside         a negative pad takes elements away
y = x0, x1, ... one after the other            a launch for each part, which writes its slice of y
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cuda.kernel import Code, Kernel, Launch, Unsupported
from graphopt.backends.cuda.kernels.blocks import function
from graphopt.backends.cuda.kernels.chain_code import check_dtypes
from graphopt.backends.cuda.kernels.elementwise import Elementwise
from graphopt.backends.cuda.kernels.expressions import constant
from graphopt.backends.cuda.kernels.flat import flat_blocks, unit
from graphopt.backends.cuda.kernels.walks import joined
from graphopt.backends.cuda.storage import Storage

__all__ = ["Concat", "Pad"]


@dataclass(frozen=True)
class Pad(Kernel):
    """y = x with elements added at the ends of each axis, (low, high) for each, or taken away."""

    x: Storage
    y: Storage
    pads: tuple[tuple[int, int], ...]
    value: float | int | bool = 0

    algorithm: ClassVar[str] = "pad"

    def __post_init__(self) -> None:
        check_dtypes(self.x.dtype, self.y.dtype)
        padded = tuple(low + size + high for size, (low, high) in zip(self.x.shape, self.pads, strict=True))
        if padded != self.y.shape:
            raise Unsupported(f"{self.x.type_text} padded by {self.pads} is not {self.y.type_text}")

    @property
    def reads(self) -> Sequence[Storage]:
        """x."""
        return (self.x,)

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    def describe(self) -> str:
        """Type and pads."""
        return f"pad {self.x.type_text} by {', '.join(f'{low}+{high}' for low, high in self.pads)} with {self.value}"

    def emit(self, name: str) -> Code:
        """One kernel, one launch: blocks along y."""
        if not self.y.elements:
            return Code("", ())
        axes = [axis for axis, pads in enumerate(self.pads) if pads != (0, 0)]
        shape = self.y.shape
        shifted = Storage(self.x.buffer, self.x.dtype, shape, self.x.strides)
        flat = flat_blocks([self.y, shifted, *(unit(shape, axis) for axis in axes)])
        tests = [flat.block.mask(0)]
        for number, axis in enumerate(axes):
            low, high = self.pads[axis]
            coordinate = flat.block.offset(2 + number) or "0"
            tests += [f"({coordinate} >= {low})"] if low > 0 else []
            tests += [f"({coordinate} < {low + self.x.shape[axis]})"] if high > 0 else []
        first = sum(low * stride for (low, _), stride in zip(self.pads, self.x.strides, strict=True))
        pointer = joined("x", flat.block.offset(1)) + (f" - {first}" if first > 0 else f" + {-first}" if first < 0 else "")
        tests = [test for test in tests if test]
        mask = f", mask={' & '.join(tests)}, other=0" if tests else ""
        lines = [*flat.lines, f"value = tl.load({pointer}{mask})"]
        outside = [test for test in tests if test != flat.block.mask(0)]
        if outside and self.value != 0:
            lines.append(f"value = tl.where({' & '.join(outside)}, value, {constant(self.value, self.x.dtype)})")
        lines.append(flat.block.store("y", 0, "value"))
        arguments = [("x", self.x), ("y", self.y)]
        launch = Launch(name, (flat.programs,), (self.x, self.y), warps=flat.warps)
        return Code(function(name, arguments, self.describe(), lines), (launch,))


@dataclass(frozen=True)
class Concat(Kernel):
    """y = the parts one after the other along an axis."""

    parts: tuple[Storage, ...]
    y: Storage
    axis: int

    algorithm: ClassVar[str] = "concat"

    def __post_init__(self) -> None:
        for part, target in self._copies:
            Elementwise(part, target)
        if sum(part.shape[self.axis] for part in self.parts) != self.y.shape[self.axis]:
            raise Unsupported(f"the parts do not fill {self.y.type_text} along axis {self.axis}")

    @property
    def _copies(self) -> list[tuple[Storage, Storage]]:
        found: list[tuple[Storage, Storage]] = []
        start = 0
        for part in self.parts:
            stop = start + part.shape[self.axis]
            found.append((part, self.y.slice(self.axis, start, stop)))
            start = stop
        return found

    @property
    def reads(self) -> Sequence[Storage]:
        """The parts."""
        return tuple(dict.fromkeys(self.parts))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    def describe(self) -> str:
        """Sizes along the axis, and the whole."""
        sizes = " + ".join(str(part.shape[self.axis]) for part in self.parts)
        return f"concat {sizes} along {self.axis} -> {self.y.type_text}"

    def emit(self, name: str) -> Code:
        """A kernel for each different part, a launch for each part."""
        declarations: dict[str, str] = {}
        launches: list[Launch] = []
        for part, target in self._copies:
            copy = Elementwise(part, target)
            plain = copy.emit("part").declarations
            if not plain:
                continue
            made = declarations.setdefault(plain, f"{name}_{len(declarations)}")
            launches += [launch for launch in copy.emit(made).launches if isinstance(launch, Launch)]
        texts = [copy.replace("def part(", f"def {made}(") for copy, made in declarations.items()]
        return Code("\n\n".join(texts), tuple(launches))
