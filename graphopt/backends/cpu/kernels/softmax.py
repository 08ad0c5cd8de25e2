"""Softmax and log softmax along any axis (`softmax.hpp`): y = chain(softmax(before(x))).

    along channels   the axis lies side by side in groups of 16; vectors run along it
    along w          another axis does; vectors run along that, the softmax over w, lane by lane

Numeric class: f32; exponentials as powers of two, relative error 2^-23 times the distance to the maximum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Code, Kernel, Pointers
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, epilogue_code
from graphopt.backends.cpu.kernels.row_frames import NO_CHAIN, find_frame, frames_along, strides_in
from graphopt.backends.cpu.kernels.shape_code import shape_code
from graphopt.backends.cpu.storage import LANES, Storage

__all__ = ["Softmax", "softmax_candidates"]

_BLOCK = 2048
"""Elements of a block of rows that should stay in L1 between the passes."""


@dataclass(frozen=True)
class Softmax(Kernel):
    """Along axis `frame.c` where `along` is "c", else along the one axis of `frame.w`."""

    x: Storage
    y: Storage
    frame: Frame
    along: str
    is_log: bool = False
    before: Chain = NO_CHAIN
    chain: Chain = NO_CHAIN

    algorithm: ClassVar[str] = "softmax"
    headers: ClassVar[tuple[str, ...]] = ("softmax.hpp", *CHAIN_HEADERS)

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chains read."""
        return (self.x, *self.before.operands, *self.chain.operands)

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def flops(self) -> int:
        """As the op is counted."""
        return 5 * self.y.elements

    @property
    def rows_at_once(self) -> int:
        """Rows of a block: 16 to 1."""
        rows = min(LANES, max(1, _BLOCK // self.x.shape[self.frame.c]), self.frame.sizes(self.x.shape)[3])
        return 1 << int(math.log2(rows))

    def describe(self) -> str:
        """Rows x elements, what is fused."""
        n, c, h, w = self.frame.sizes(self.x.shape)
        size = c if self.along == "c" else w
        before = self.before.text.removeprefix(" + ") + " + " if self.before else ""
        lanes = "" if self.along == "c" else f", {c} side by side"
        return f"{n * c * h * w // size} x {size}: {before}{'log ' * self.is_log}softmax{self.chain.text}{lanes}"

    def emit(self, pointers: Pointers) -> Code:
        """One call."""
        sizes = self.frame.sizes(self.x.shape)
        before, make_before = epilogue_code(self.before, self.frame, sizes, pointers, "Before")
        after, make_after = epilogue_code(self.chain, self.frame, sizes, pointers, "After")
        shape = shape_code(
            {
                "IMAGES": sizes[0],
                "HEIGHT": sizes[2],
                "WIDTH": sizes[3],
                "CHANNELS": sizes[1],
                "X": strides_in(self.frame, self.x),
                "Y": strides_in(self.frame, self.y),
                "ROWS": (self.rows_at_once, "of a block"),
                "IS_LOG": self.is_log,
                "HAS_BEFORE": bool(self.before),
                "IS_PADDED": self.y.blocked_axis is not None,
            },
            "Shape",
        )
        function = "softmax_along_channels" if self.along == "c" else "softmax_along_width"
        call = f"{function}<Shape>(worker, {pointers.read(self.x)}, {pointers.write(self.y)}, {make_before}, {make_after});"
        return Code("\n".join(filter(None, (shape, before, after))), call)


def _frames_across(rank: int, axis: int, c: int) -> Iterator[Frame]:
    """Frames with w = axis and vectors along c; the others in h, then in n and h."""
    others = [other for other in range(rank) if other not in (axis, c)]
    for first in range(max(1, len(others))):
        yield Frame(tuple(others[:first]), c, tuple(others[first:]), (axis,))


def softmax_candidates(
    x: Storage,
    y: Storage,
    axis: int,
    is_log: bool = False,
    before: Chain = NO_CHAIN,
    chain: Chain = NO_CHAIN,
) -> list[Kernel]:
    """Kernels for softmax or log_softmax; empty where neither the axis nor another lies side by side in x and y.

    y and the chains' operands have the shape of x.
    """
    if 0 in x.shape or x.rank == 0:
        return []
    frame = find_frame(frames_along(x.rank, axis), (x, y), (before, chain))
    if frame is not None:
        return [Softmax(x, y, frame, "c", is_log, before, chain)]
    # other axes, the longest first: few lanes stay empty
    for c in sorted((c for c in range(x.rank) if c != axis), key=lambda c: -x.shape[c]):
        frame = find_frame(_frames_across(x.rank, axis, c), (x, y), (before, chain))
        if frame is not None:
            return [Softmax(x, y, frame, "w", is_log, before, chain)]
    return []
