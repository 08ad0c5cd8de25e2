"""Transposed convolutions, gathered: one direct convolution per phase of the output.

    y[oy] = sum over ky of w[ky] * x[iy]   where iy * stride = oy + padding - ky * dilation

Outputs oy = r, r + stride, r + 2 stride, ... (phase r) use the same taps ky, those for which the right side is a
multiple of the stride, and neighbours in the phase use neighbours in x. So each phase is a convolution with stride 1
(Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4), and no output is
touched twice. What lies outside of x is read from its halo: `transposed_halo`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import gcd
from typing import TYPE_CHECKING, ClassVar

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import image_frame
from graphopt.backends.cpu.kernel import Code, Kernel, Packed, Pointers, ReadState
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.dense_candidates import direct_candidates
from graphopt.backends.cpu.kernels.direct import DirectConv
from graphopt.backends.cpu.storage import Storage

if TYPE_CHECKING:
    import numpy

__all__ = ["TransposedConv", "transposed_candidates", "transposed_halo"]


@dataclass(frozen=True, slots=True)
class _Axis:
    """Phase `first` of an axis: `size` outputs, taps in the order of what they read, which starts at `start`."""

    first: int
    size: int
    taps: tuple[int, ...]
    start: int
    step: int

    @property
    def end(self) -> int:
        """One past the last element of x that the last output reads."""
        return self.start + (len(self.taps) - 1) * self.step + self.size


def _axes(kernel: int, stride: int, padding: int, dilation: int, outputs: int) -> list[_Axis]:
    step = dilation // gcd(dilation, stride)
    axes: list[_Axis] = []
    for first in range(min(stride, outputs)):
        taps = [tap for tap in reversed(range(kernel)) if (first + padding - tap * dilation) % stride == 0]
        start = (first + padding - taps[0] * dilation) // stride if taps else 0
        axes.append(_Axis(first, -(-(outputs - first) // stride), tuple(taps), start, step))
    return axes


def transposed_halo(convolution: Convolution, size: Sequence[int], outputs: Sequence[int]) -> tuple[int, int]:
    """Halo (h, w) that x of `size` pixels needs for `outputs` pixels; one-dimensional sizes have no h."""
    halo = [0, 0]
    kernel, stride, padding, dilation = _attributes(convolution)
    for place, (inputs, wanted) in enumerate(zip(size, outputs, strict=True), start=2 - len(size)):
        for axis in _axes(kernel[place], stride[place], padding[place], dilation[place], wanted):
            if axis.taps:
                halo[place] = max(halo[place], -axis.start, axis.end - inputs)
    return halo[0], halo[1]


def _attributes(convolution: Convolution) -> tuple[tuple[int, int], ...]:
    return convolution.kernel, convolution.stride, convolution.padding, convolution.dilation


@dataclass(frozen=True, slots=True)
class _PhasePointers:
    """Pointers of a phase: its packed arrays are numbers 2 `index` and 2 `index` + 1."""

    outer: Pointers
    index: int

    def read(self, storage: Storage) -> str:
        return self.outer.read(storage)

    def write(self, storage: Storage) -> str:
        return self.outer.write(storage)

    def packed(self, index: int = 0) -> str:
        return self.outer.packed(2 * self.index + index)

    @property
    def scratch(self) -> str:
        return self.outer.scratch

    @property
    def shared(self) -> str:
        return self.outer.shared


@dataclass(frozen=True)
class TransposedConv(Kernel):
    """y = chain(conv_transpose(x, weight) + bias); weight is [in, out / groups, kh, kw].

    `convolution` has the attributes of the transposed convolution; its output padding shows in y's size.
    `choice` is which candidate of a direct convolution each phase takes.
    """

    x: Storage
    y: Storage
    weight: str
    bias: str | None
    convolution: Convolution
    choice: int = 0
    chain: Chain = field(default=Chain())

    algorithm: ClassVar[str] = "transposed"
    headers: ClassVar[tuple[str, ...]] = DirectConv.headers

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chain reads."""
        return (self.x, *self.chain.operands)

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    def _axes(self) -> Iterator[tuple[_Axis, _Axis]]:
        """Phases (h, w); h of a one-dimensional convolution is one element."""
        sizes = (1, *self.y.shape[2:])[-2:]
        kernel, stride, padding, dilation = _attributes(self.convolution)
        h, w = (_axes(kernel[place], stride[place], padding[place], dilation[place], size) for place, size in enumerate(sizes))
        return ((row, column) for row in h for column in w)

    @cached_property
    def phases(self) -> Sequence[DirectConv]:
        """A convolution with stride 1 per phase, over every stride-th pixel of y."""
        return tuple(self._phase(row, column) for row, column in self._axes())

    def _phase(self, row: _Axis, column: _Axis) -> DirectConv:
        axes = (row, column)[-(self.x.rank - 2) :]

        def part(storage: Storage) -> Storage:
            for place, (axis, stride) in enumerate(zip(axes, self.convolution.stride[-len(axes) :], strict=True), start=2):
                sliced = storage.slice(place, axis.first, storage.shape[place], stride)
                assert sliced is not None, "an axis of pixels is not blocked"
                storage = sliced
            return storage

        shift = sum(axis.start * stride for axis, stride in zip(axes, self.x.strides[2:], strict=True))
        x = replace(self.x, offset=self.x.offset + shift)
        chain = replace(self.chain, operands=tuple(part(operand) for operand in self.chain.operands))
        convolution = Convolution((len(row.taps), len(column.taps)), (1, 1), (0, 0), (row.step, column.step), self.convolution.groups)
        found = [
            kernel
            for kernel in direct_candidates(x, part(self.y), self.weight, self.bias, convolution, image_frame(x.rank), chain)
            if isinstance(kernel, DirectConv)
        ]
        return found[min(self.choice, len(found) - 1)]

    @property
    def flops(self) -> int:
        """Two per weight and pixel of x."""
        return 2 * self.x.elements * self.y.shape[1] // self.convolution.groups * self.convolution.taps

    @property
    def scratch(self) -> int:
        """Of the phase that needs most."""
        return max(phase.scratch for phase in self.phases)

    @property
    def packed(self) -> Sequence[Packed]:
        """Weights and bias of each phase."""
        return tuple(packed for phase in self.phases for packed in phase.packed)

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """See `conv_direct.hpp` for the order in a phase."""
        import numpy

        groups, (height, width) = self.convolution.groups, self.convolution.kernel
        channels, outputs = self.x.shape[1], self.y.shape[1]
        weight = numpy.asarray(read(self.weight), dtype=numpy.float32).reshape(groups, channels // groups, outputs // groups, height, width)
        forward = weight.swapaxes(1, 2).reshape(outputs, channels // groups, height, width)
        arrays: list[numpy.ndarray] = []
        for (row, column), phase in zip(self._axes(), self.phases, strict=True):
            taps = forward[:, :, list(row.taps)][:, :, :, list(column.taps)]
            arrays += phase.pack(lambda name, taps=taps: taps if name == self.weight else read(name))
        return tuple(arrays)

    def describe(self) -> str:
        """Attributes, channels, pixels, tile of the first phase."""
        n, c = self.y.shape[:2]
        size = "x".join(map(str, (1, *self.y.shape[2:])[-2:]))
        phases = self.phases
        place = f"{self.x.shape[1]}->{c} @{f'{n}x' if n != 1 else ''}{size}"
        return f"{self.convolution.text} {place}{self.chain.text}, {len(phases)} phases, {phases[0].tiling.text}"

    def emit(self, pointers: Pointers) -> Code:
        """A call of `direct_convolution` per phase; phases of one shape share their constants."""
        places: dict[str, str] = {}
        calls: list[str] = []
        for index, phase in enumerate(self.phases):
            declarations, arguments = phase.parts(_PhasePointers(pointers, index))
            place = places.setdefault(declarations, f"phase_{index}")
            made = arguments[-1] if arguments[-1].startswith("Identity") else f"{place}::{arguments[-1]}"
            calls.append(f"direct_convolution<{place}::S>(worker, {', '.join([*arguments[:-1], made])});")
        text = "\n".join(f"namespace {place} {{\n{declarations}}}  // namespace {place}" for declarations, place in places.items())
        return Code(text, "\n".join(calls))


def transposed_candidates(
    x: Storage, y: Storage, weight: str, bias: str | None, convolution: Convolution, chain: Chain | None = None
) -> list[Kernel]:
    """Kernels for a transposed convolution whose surroundings are in x's halo; none where the layouts do not do."""
    sizes = (x.shape[2:], y.shape[2:])
    frame = image_frame(x.rank)
    needed = transposed_halo(convolution, *sizes)
    strides, result = frame.strides(x), frame.strides(y)
    if strides is None or result is None or strides.lane == 0 or any(have < want for have, want in zip(x.halo, needed, strict=True)):
        return []
    return [TransposedConv(x, y, weight, bias, convolution, choice, chain or Chain()) for choice in range(2)]
