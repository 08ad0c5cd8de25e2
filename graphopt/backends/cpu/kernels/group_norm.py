"""Group norm and instance norm with the image's own statistics (`group_norm.hpp`), on images of every layout.

    y = chain((x - mean) / sqrt(var + eps) * weight + bias), mean and var per image and group of channels

    channels   16 channels side by side (blocked, channels last): sums per channel, added up by group
    planes     neighbours along the last axis side by side (plain)

Numeric class: two passes in f32 in partial sums; where groups are few they are cut into chunks, always the same ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Code, Kernel, Packed, Pointers, ReadState
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, chain_fits, epilogue_code
from graphopt.backends.cpu.kernels.row_frames import NO_CHAIN, find_frame, strides_in
from graphopt.backends.cpu.kernels.shape_code import shape_code
from graphopt.backends.cpu.kernels.vector_ops import float_literal
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy

__all__ = ["GroupNorm", "group_norm_candidates"]

_PIECES = 8
"""Pieces of work that should exist at least, so that several workers have something to do."""
_CHUNK = 2048
"""Elements of a chunk at least."""


def _padded(size: int) -> int:
    return -(-size // LANES) * LANES


@dataclass(frozen=True)
class GroupNorm(Kernel):
    """Normalises x [N, C, ...] over `groups` groups of channels; instance norm has as many groups as channels.

    `weight` and `bias` are names of states, one number per channel. `frame` has n = (0,), c = 1.
    """

    x: Storage
    y: Storage
    frame: Frame
    lanes: Literal["c", "w"]
    groups: int
    weight: str | None = None
    bias: str | None = None
    eps: float = 1e-5
    chain: Chain = NO_CHAIN

    algorithm: ClassVar[str] = "group norm"
    headers: ClassVar[tuple[str, ...]] = ("group_norm.hpp", *CHAIN_HEADERS)

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chain reads."""
        return (self.x, *self.chain.operands)

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def flops(self) -> int:
        """As the op is counted."""
        return (5 + (self.weight is not None) + (self.bias is not None)) * self.y.elements

    @property
    def unit(self) -> int:
        """Channels of a piece of work: whole groups in whole vectors, or all."""
        channels = self.x.shape[1]
        return min(channels, math.lcm(channels // self.groups, LANES))

    @property
    def chunks(self) -> int:
        """Pieces that a group, or unit of channels, is cut into."""
        images, channels, height, width = self.frame.sizes(self.x.shape)
        if self.lanes == "c":
            pieces, most = images * -(-channels // self.unit), height * width * self.unit // _CHUNK
        else:
            group = channels // self.groups
            pieces, most = images * self.groups, min(group, group * height * width // _CHUNK)
        return max(1, min(-(-_PIECES // pieces), most)) if pieces < _PIECES else 1

    @property
    def scratch(self) -> int:
        """Means, shifts, scales and two kinds of sums of a unit's channels."""
        return 5 * _padded(self.unit) if self.lanes == "c" else 0

    @property
    def shared(self) -> int:
        """Sums of all chunks: of numbers, of distances and of squares."""
        if self.chunks == 1:
            return 0
        images, channels, _, _ = self.frame.sizes(self.x.shape)
        sums = -(-channels // self.unit) * _padded(self.unit) if self.lanes == "c" else self.groups
        return 3 * images * sums * self.chunks

    @property
    def packed(self) -> Sequence[Packed]:
        """Weight and bias, padded to whole vectors."""
        return tuple(Packed(name, "f32", (_padded(self.x.shape[1]),)) for name in ("weight", "bias"))

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """Ones and zeros where there is none."""
        import numpy

        channels = self.x.shape[1]
        weight = numpy.ones(channels) if self.weight is None else read(self.weight)
        bias = numpy.zeros(channels) if self.bias is None else read(self.bias)
        return tuple(numpy.pad(numpy.asarray(numbers, dtype=numpy.float32), (0, -channels % LANES)) for numbers in (weight, bias))

    def describe(self) -> str:
        """Images, groups x channels, positions, what is fused."""
        images, channels, height, width = self.frame.sizes(self.x.shape)
        lanes = "channels" if self.lanes == "c" else "pixels"
        chunks = f", {self.chunks} chunks" if self.chunks > 1 else ""
        return f"{images} x {self.groups}x{channels // self.groups} @ {height * width}{self.chain.text}, {lanes} side by side{chunks}"

    def emit(self, pointers: Pointers) -> Code:
        """One call."""
        images, channels, height, width = sizes = self.frame.sizes(self.x.shape)
        epilogue, make_epilogue = epilogue_code(self.chain, self.frame, sizes, pointers, lanes=self.lanes)
        shape = {"IMAGES": images, "HEIGHT": height, "WIDTH": width, "CHANNELS": channels, "GROUPS": self.groups, "CHUNKS": self.chunks}
        if self.lanes == "c":
            padded = self.y.blocked_axis is not None
            text = shape_code(
                {
                    **shape,
                    "X": strides_in(self.frame, self.x),
                    "Y": strides_in(self.frame, self.y),
                    "UNIT": (self.unit, "channels of a piece of work"),
                    "IS_PADDED": padded,
                },
                "Shape",
            )
        else:
            lines = [
                f"  static constexpr PlaneStrides {name} = {self._plane_strides(storage)};"
                for name, storage in (("X", self.x), ("Y", self.y))
            ]
            text = "\n".join([shape_code(shape, "Shape").removesuffix("};\n").rstrip(), *lines, "};"]) + "\n"
        arguments = [
            pointers.read(self.x),
            pointers.write(self.y),
            pointers.packed(0),
            pointers.packed(1),
            float_literal(self.eps),
            pointers.shared,
            make_epilogue,
        ]
        function = "group_norm_channels" if self.lanes == "c" else "group_norm_planes"
        return Code("\n".join(filter(None, (text, epilogue))), f"{function}<Shape>(worker, {', '.join(arguments)});")

    def _plane_strides(self, storage: Storage) -> str:
        return f"{{{storage.strides[0]}, {storage.strides[1]}, {_collapsed(storage, self.frame.h) or 0}}}"


def _collapsed(storage: Storage, axes: Sequence[int]) -> int | None:
    """The one stride of some axes, None where there is none; 1 for axes of one element."""
    real = [axis for axis in axes if storage.shape[axis] != 1]
    if any(storage.strides[left] != storage.strides[right] * storage.shape[right] for left, right in itertools.pairwise(real)):
        return None
    return storage.strides[real[-1]] if real else 1


def _frames(rank: int) -> Iterator[Frame]:
    """n is the image, c the channels; the others in w, or in h and w."""
    spatial = tuple(range(2, rank))
    for split in range(max(1, len(spatial))):
        yield Frame((0,), 1, spatial[:split], spatial[split:])


def group_norm_candidates(
    x: Storage,
    y: Storage,
    groups: int,
    weight: str | None = None,
    bias: str | None = None,
    eps: float = 1e-5,
    chain: Chain = NO_CHAIN,
) -> list[Kernel]:
    """Kernels for group_norm, or instance_norm with as many groups as channels; empty where strides do not fit.

    x and y [N, C, ...] have both 16 channels side by side, or both the last axis; the chain's operands have their shape.
    """
    if 0 in x.shape or x.rank < 2:
        return []
    frame = find_frame(_frames(x.rank), (x, y), (chain,))
    if frame is not None:
        return [GroupNorm(x, y, frame, "c", groups, weight, bias, eps, chain)]
    if x.blocked_axis is not None or y.blocked_axis is not None:
        return []
    for frame in _frames(x.rank):
        fits = all(_collapsed(storage, frame.w) == 1 and _collapsed(storage, frame.h) is not None for storage in (x, y))
        if fits and chain_fits(chain, frame, "w"):
            return [GroupNorm(x, y, frame, "w", groups, weight, bias, eps, chain)]
    return []
