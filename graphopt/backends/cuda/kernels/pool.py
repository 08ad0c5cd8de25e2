"""Pools over windows and over pieces of an image: y = chain(largest or mean).

    max     padding counts as -inf; NaN where one is NaN
    avg     the sum in float32 over the rows and columns of the window, divided at the end

x and y are [N, C, H, W] or [N, C, L] (or without N), whatever their strides. Numeric class: maxima are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from graphopt.backends.cuda.chain import Chain, compute_dtype
from graphopt.backends.cuda.kernel import TRITON_TYPES, Code, Kernel, Launch, Unsupported
from graphopt.backends.cuda.kernels.blocks import function
from graphopt.backends.cuda.kernels.chain_code import NO_CHAIN, chain_arguments, chain_lines, check_dtypes, check_shapes
from graphopt.backends.cuda.kernels.expressions import rounded
from graphopt.backends.cuda.kernels.images import Images, image_blocks, window_loop, window_test
from graphopt.backends.cuda.kernels.reduce import Reduce
from graphopt.backends.cuda.kernels.walks import joined, times
from graphopt.backends.cuda.storage import Storage

__all__ = ["AdaptivePool", "Pool"]

_NAMES = ("h", "w")


class _Pool(Kernel):
    """What all pools share."""

    op: str
    x: Storage
    y: Storage
    chain: Chain

    algorithm: ClassVar[str] = "pool"

    def _check(self, spatial: int) -> None:
        check_dtypes(self.x.dtype, self.y.dtype, *(operand.dtype for operand in self.chain.operands))
        check_shapes(self.y.shape, *self.chain.operands)
        if not compute_dtype(self.x.dtype).is_float or self.op not in ("max", "avg"):
            raise Unsupported(f"a {self.op} pool of {self.x.dtype.text} has no kernel")
        if spatial not in (1, 2) or self.x.rank != self.y.rank or self.x.rank < spatial + 1:
            raise Unsupported(f"a pool over {spatial} axes of {self.x.type_text} has no kernel")
        if self.x.shape[:-spatial] != self.y.shape[:-spatial]:
            raise Unsupported(f"a pool of {self.x.type_text} is not {self.y.type_text}")

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chain reads."""
        return tuple(dict.fromkeys((self.x, *self.chain.operands)))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def _kind(self) -> str:
        return TRITON_TYPES[compute_dtype(self.x.dtype).text]

    @property
    def _identity(self) -> str:
        """What padding counts as."""
        return 'float("-inf")' if self.op == "max" else "0.0"

    def _images(self, spatial: int) -> Images:
        """Blocks over y, x without space, and the chain's operands."""
        still = Storage("", self.x.dtype, self.y.shape, (*self.x.strides[:-spatial], *(0 for _ in range(spatial))))
        return image_blocks([self.y, still, *self.chain.operands], spatial)

    def _start(self, images: Images) -> str:
        return f"total = tl.full({images.shape}, {self._identity}, {self._kind})"

    def _step(self, images: Images, test: str, spatial: int) -> list[str]:
        """One position of the window, whose coordinates are `h` and `w` (or `w` alone)."""
        names = _NAMES[-spatial:]
        steps = [times(name, stride) for name, stride in zip(names, self.x.strides[-spatial:], strict=True)]
        mask = f", mask={test}, other={self._identity}" if test else ""
        load = f"found = tl.load({joined('x', images.block.offset(1), *steps)}{mask}).to({self._kind})"
        step = "total = tl.maximum(total, found, propagate_nan=tl.PropagateNan.ALL)" if self.op == "max" else "total += found"
        return [load, step]

    def _finish(self, name: str, images: Images, lines: list[str], result: str) -> Code:
        dtype = self.chain.value if self.chain else self.y.dtype
        after, last = chain_lines(
            self.chain, "result", lambda index: images.block.load(f"p{index}", 2 + index, self.chain.operands[index].dtype)
        )
        lines += [f"result = {rounded(f'({result})', dtype)}", *after, images.block.store("y", 0, last)]
        arguments = [("x", self.x), *chain_arguments(self.chain), ("y", self.y)]
        launch = Launch(name, (images.programs,), tuple(storage for _, storage in arguments), warps=images.warps)
        return Code(function(name, arguments, self.describe(), lines), (launch,))


@dataclass(frozen=True)
class Pool(_Pool):
    """y = chain(largest ("max") or mean ("avg") of each window). All sizes are of the 1 or 2 last axes.

    A mean counts padding where `count_include_pad` is set, but not what lies beyond it; `divisor` replaces the number of elements.
    Windows that begin inside and end outside (ceil_mode) follow from the shape of y.
    """

    op: str
    x: Storage
    y: Storage
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...] = (1, 1)
    count_include_pad: bool = True
    divisor: int | None = None
    chain: Chain = NO_CHAIN

    def __post_init__(self) -> None:
        self._check(len(self.kernel))
        if self.op == "avg" and set(self.dilation) != {1}:
            raise Unsupported("a mean over a dilated window has no kernel")
        self.emit("kernel")

    @property
    def flops(self) -> int:
        """One per element of each window."""
        return self.y.elements * (prod(self.kernel) + self.chain.flops)

    def describe(self) -> str:
        """`max pool 3x3 stride 2x2 f32[1,64,56,56] + relu`."""
        sizes = ("x".join(map(str, numbers)) for numbers in (self.kernel, self.stride))
        return f"{self.op} pool {' stride '.join(sizes)} {self.y.type_text}{self.chain.text}"

    def _ends(self) -> list[tuple[int, int]]:
        """The first and last position that any window has, along each axis."""
        sizes = zip(self.y.shape[-len(self.kernel) :], self.kernel, self.stride, self.padding, self._dilations, strict=True)
        return [(-padding, (size - 1) * stride - padding + (kernel - 1) * dilation) for size, kernel, stride, padding, dilation in sizes]

    @property
    def _dilations(self) -> tuple[int, ...]:
        return self.dilation[: len(self.kernel)]

    def emit(self, name: str) -> Code:
        """One kernel, one launch: blocks over y."""
        if not self.y.elements:
            return Code("", ())
        spatial = len(self.kernel)
        images, names, inputs = self._images(spatial), _NAMES[-spatial:], self.x.shape[-spatial:]
        leaves = [low < 0 or high >= size for (low, high), size in zip(self._ends(), inputs, strict=True)]
        test = window_test(images.block, names, inputs, leaves)
        lines, body = [*images.lines], list[str]()
        for axis, axis_name in enumerate(names):
            padding = f" - {self.padding[axis]}" if self.padding[axis] else ""
            lines.append(f"{axis_name}_first = {times(images.coordinates[axis], self.stride[axis])}{padding}")
            body.append(f"{axis_name} = {axis_name}_first + {times(f'k{axis_name}', self._dilations[axis])}")
        body += self._step(images, test, spatial)
        lines += [self._start(images), *window_loop([f"k{axis_name}" for axis_name in names], self.kernel, body)]
        if self.op == "max":
            return self._finish(name, images, lines, "total")
        count = self._count(names, inputs)
        return self._finish(name, images, lines, f"total / {count}")

    def _count(self, names: Sequence[str], inputs: Sequence[int]) -> str:
        """How many elements a mean is over."""
        if self.divisor is not None:
            return f"{float(self.divisor)!r}"
        factors: list[str] = []
        constant = 1
        for axis, (low, high) in enumerate(self._ends()):
            begin = -self.padding[axis] if self.count_include_pad else 0
            end = inputs[axis] + (self.padding[axis] if self.count_include_pad else 0)
            if low >= begin and high < end:
                constant *= self.kernel[axis]
                continue
            first = f"{names[axis]}_first"
            start = f"tl.maximum({first}, {begin})" if low < begin else first
            factors.append(f"(tl.minimum({first} + {self.kernel[axis]}, {end}) - {start})")
        if not factors:
            return f"{float(constant)!r}"
        return f"({' * '.join([*factors, *([str(constant)] if constant != 1 else [])])}).to({self._kind})"


@dataclass(frozen=True)
class AdaptivePool(_Pool):
    """y = chain(largest or mean of the pieces that x is cut into): piece i of n is from floor(i H / n) to ceil((i + 1) H / n)."""

    op: str
    x: Storage
    y: Storage
    chain: Chain = NO_CHAIN

    def __post_init__(self) -> None:
        self._check(self._spatial)
        self.emit("kernel")

    @property
    def _spatial(self) -> int:
        return 1 if self.x.rank == 3 else 2

    @property
    def flops(self) -> int:
        """About one per element."""
        return self.x.elements + self.y.elements * self.chain.flops

    def describe(self) -> str:
        """`adaptive avg pool f32[1,64,7,7]`."""
        return f"adaptive {self.op} pool {self.y.type_text}{self.chain.text}"

    def emit(self, name: str) -> Code:
        """A reduction where y has one pixel, else one kernel over blocks of y."""
        spatial = self._spatial
        inputs, outputs = self.x.shape[-spatial:], self.y.shape[-spatial:]
        if not self.y.elements or not self.x.elements:
            if self.y.elements:
                raise Unsupported(f"an adaptive pool of {self.x.type_text} has no kernel")
            return Code("", ())
        if set(outputs) == {1}:
            axes = tuple(range(self.x.rank - spatial, self.x.rank))
            return Reduce("amax" if self.op == "max" else "mean", self.x, self.y, axes, chain=self.chain).emit(name)
        images, names = self._images(spatial), _NAMES[-spatial:]
        lines, body, tests, counts, windows = [*images.lines], list[str](), [images.block.whole_mask], list[str](), list[int]()
        for axis, axis_name in enumerate(names):
            size, count = inputs[axis], outputs[axis]
            lines.append(f"{axis_name}_first = {images.coordinates[axis]} * {size} // {count}")
            body.append(f"{axis_name} = {axis_name}_first + k{axis_name}")
            if size % count == 0:
                windows.append(size // count)
                counts.append(str(size // count))
                continue
            lines.append(f"{axis_name}_end = ({images.coordinates[axis]} * {size} + {size + count - 1}) // {count}")
            tests.append(f"({axis_name} < {axis_name}_end)")
            counts.append(f"({axis_name}_end - {axis_name}_first)")
            windows.append(max(-(-(piece + 1) * size // count) - piece * size // count for piece in range(count)))
        test = " & ".join(filter(None, tests))
        lines += [
            self._start(images),
            *window_loop([f"k{axis_name}" for axis_name in names], windows, [*body, *self._step(images, test, spatial)]),
        ]
        divided = (
            f"total / {float(prod(windows))!r}"
            if all(count.isdecimal() for count in counts)
            else f"total / ({' * '.join(counts)}).to({self._kind})"
        )
        return self._finish(name, images, lines, "total" if self.op == "max" else divided)
