"""Layer norm and RMS norm of rows (`layer_norm.hpp`), with a residual addition before them where one is fused.

    z = before(x)                                    stored too where others read it
    y = chain((z - mean(z)) / sqrt(var(z) + eps) * weight + bias)

The normalised axis is the last; its elements lie side by side in groups of 16, so tokens, channels-last and blocked
images (seen as [N, H, W, C]) are all the same kernel. Numeric class: mean and variance in two passes in f32, in 64
partial sums, at least as exact as torch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from graphopt.backends.cpu.chain import Chain
from graphopt.backends.cpu.frame import Frame
from graphopt.backends.cpu.kernel import Code, Kernel, Packed, Pointers, ReadState
from graphopt.backends.cpu.kernels.chain_code import CHAIN_HEADERS, epilogue_code
from graphopt.backends.cpu.kernels.row_frames import NO_CHAIN, find_frame, frames_along, strides_in
from graphopt.backends.cpu.kernels.shape_code import shape_code
from graphopt.backends.cpu.kernels.vector_ops import float_literal
from graphopt.backends.cpu.storage import LANES, Storage

if TYPE_CHECKING:
    import numpy

__all__ = ["LayerNorm", "layer_norm_candidates", "merge_last", "merge_last_of_chain"]

_F32_EPSILON = 2.0**-23
_BLOCK = 4096
"""Elements of a block of rows that should stay in L1 between the passes."""


@dataclass(frozen=True)
class LayerNorm(Kernel):
    """Normalises x over axis `frame.c`, its last.

    `weight` and `bias` are names of states. Without `z` the result of `before` is kept in y meanwhile.
    """

    x: Storage
    y: Storage
    frame: Frame
    weight: str | None = None
    bias: str | None = None
    eps: float = 1e-5
    has_mean: bool = True
    before: Chain = NO_CHAIN
    z: Storage | None = None
    chain: Chain = NO_CHAIN

    algorithm: ClassVar[str] = "layer norm"
    headers: ClassVar[tuple[str, ...]] = ("layer_norm.hpp", *CHAIN_HEADERS)

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chains read."""
        return (self.x, *self.before.operands, *self.chain.operands)

    @property
    def writes(self) -> Sequence[Storage]:
        """y, and z where it is kept."""
        return (self.y,) if self.z is None else (self.y, self.z)

    @property
    def channels(self) -> int:
        """Elements of a row."""
        return self.x.shape[self.frame.c]

    @property
    def rows_at_once(self) -> int:
        """Rows of a block: 16, 8 or 4."""
        return max(4, min(LANES, 1 << int(math.log2(max(1, _BLOCK // self.channels)))))

    @property
    def flops(self) -> int:
        """As the op is counted."""
        return ((5 if self.has_mean else 3) + (self.weight is not None) + (self.bias is not None)) * self.y.elements

    @property
    def packed(self) -> Sequence[Packed]:
        """Weight and bias, padded to whole vectors."""
        padded = -(-self.channels // LANES) * LANES
        return tuple(Packed(name, "f32", (padded,)) for name, state in (("weight", self.weight), ("bias", self.bias)) if state is not None)

    def pack(self, read: ReadState) -> Sequence[numpy.ndarray]:
        """Padded with zeros."""
        import numpy

        arrays: list[numpy.ndarray] = []
        for state in (self.weight, self.bias):
            if state is not None:
                numbers = numpy.asarray(read(state), dtype=numpy.float32).reshape(-1)
                arrays.append(numpy.pad(numbers, (0, -len(numbers) % LANES)))
        return arrays

    def describe(self) -> str:
        """Rows x channels, what is fused."""
        before = self.before.text.removeprefix(" + ") + (" (kept) + " if self.z is not None else " + ") if self.before else ""
        kind = "layer norm" if self.has_mean else "rms norm"
        return f"{self.x.elements // max(self.channels, 1)} x {self.channels}: {before}{kind}{self.chain.text}"

    def emit(self, pointers: Pointers) -> Code:
        """One call of `layer_norm`."""
        z = self.y if self.z is None else self.z
        strides = [strides_in(self.frame, storage) for storage in (self.x, self.y, z)]
        sizes = self.frame.sizes(self.x.shape)
        before, make_before = epilogue_code(self.before, self.frame, sizes, pointers, "Before")
        after, make_after = epilogue_code(self.chain, self.frame, sizes, pointers, "After")
        shape = shape_code(
            {
                "IMAGES": sizes[0],
                "HEIGHT": sizes[2],
                "WIDTH": sizes[3],
                "CHANNELS": (sizes[1], "normalised"),
                "X": strides[0],
                "Y": strides[1],
                "Z": strides[2],
                "ROWS": (self.rows_at_once, "of a block"),
                "HAS_MEAN": self.has_mean,
                "HAS_WEIGHT": self.weight is not None,
                "HAS_BIAS": self.bias is not None,
                "HAS_BEFORE": bool(self.before),
                "IS_PADDED": self.y.blocked_axis is not None,
                "IS_Z_PADDED": z.blocked_axis is not None,
            },
            "Shape",
        )
        weight = "nullptr" if self.weight is None else pointers.packed(0)
        bias = "nullptr" if self.bias is None else pointers.packed(int(self.weight is not None))
        arguments = [
            pointers.read(self.x),
            pointers.write(self.y),
            pointers.write(z) if self.before else "nullptr",
            weight,
            bias,
            float_literal(self.eps),
            make_before,
            make_after,
        ]
        return Code("\n".join(filter(None, (shape, before, after))), f"layer_norm<Shape>(worker, {', '.join(arguments)});")


def merge_last(storage: Storage, count: int) -> Storage | None:
    """The last `count` axes as one."""
    if count == 1:
        return storage
    lead = storage.shape[: storage.rank - count]
    return storage.reshape((*lead, math.prod(storage.shape[storage.rank - count :])))


def merge_last_of_chain(chain: Chain, count: int) -> Chain | None:
    """The chain with operands whose last `count` axes are one."""
    operands = [merge_last(operand, count) for operand in chain.operands]
    found = [operand for operand in operands if operand is not None]
    return replace(chain, operands=tuple(found)) if len(found) == len(operands) else None


def layer_norm_candidates(
    x: Storage,
    y: Storage,
    weight: str | None = None,
    bias: str | None = None,
    eps: float | None = 1e-5,
    axes: int = 1,
    is_rms: bool = False,
    before: Chain = NO_CHAIN,
    z: Storage | None = None,
    chain: Chain = NO_CHAIN,
) -> list[Kernel]:
    """Kernels for layer_norm or rms_norm over the last `axes` axes of x; empty where strides do not fit.

    y, z and the chains' operands have the shape of x. Without `before` there is no z.
    """
    if 0 in x.shape or (z is not None and not before):
        return []
    x_rows, y_rows = merge_last(x, axes), merge_last(y, axes)
    z_rows = None if z is None else merge_last(z, axes)
    before_rows, chain_rows = merge_last_of_chain(before, axes), merge_last_of_chain(chain, axes)
    if x_rows is None or y_rows is None or before_rows is None or chain_rows is None or (z_rows is None) != (z is None):
        return []
    storages = [x_rows, y_rows] if z_rows is None else [x_rows, y_rows, z_rows]
    frame = find_frame(frames_along(x_rows.rank, x_rows.rank - 1), storages, (before_rows, chain_rows))
    if frame is None:
        return []
    eps = _F32_EPSILON if eps is None else eps
    return [LayerNorm(x_rows, y_rows, frame, weight, bias, eps, not is_rms, before_rows, z_rows, chain_rows)]
