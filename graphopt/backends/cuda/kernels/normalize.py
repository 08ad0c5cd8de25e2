"""Layer, RMS, group and instance norm: y = chain((before(x) - mean) / deviation * weight + bias) over some axes.

    layer_norm      the last axes
    group_norm      x seen as [N, groups, C / groups, H, W], axes 2, 3, 4; weight and bias as [groups, C / groups, 1, 1]
    rms_norm        the last axes, without the mean

Rows of up to 8192 elements are held in registers and read once. Longer ones are read three times: mean, variance, results.
The variance is that of the distances from the mean, and the mean is corrected by theirs, so that large means cost no digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cuda.chain import Chain, compute_dtype
from graphopt.backends.cuda.kernel import TRITON_TYPES, Code, Kernel, Launch, Unsupported
from graphopt.backends.cuda.kernels.blocks import function
from graphopt.backends.cuda.kernels.chain_code import NO_CHAIN, chain_arguments, chain_lines, check_dtypes, check_shapes
from graphopt.backends.cuda.kernels.expressions import rounded
from graphopt.backends.cuda.kernels.rows import row_blocks
from graphopt.backends.cuda.storage import Storage

__all__ = ["Normalize"]


@dataclass(frozen=True)
class Normalize(Kernel):
    """Over `axes` of x. y, weight, bias and the operands of both chains have the shape of x, with stride 0 where they are broadcast.

    `centered` is False for RMS norm, whose mean square takes the place of the variance. `op` names the op of the IR.
    """

    op: str
    x: Storage
    y: Storage
    axes: tuple[int, ...]
    eps: float
    weight: Storage | None = None
    bias: Storage | None = None
    centered: bool = True
    before: Chain = NO_CHAIN
    chain: Chain = NO_CHAIN

    algorithm: ClassVar[str] = "normalize"

    def __post_init__(self) -> None:
        others = (*self._scale, *self.before.operands, *self.chain.operands)
        check_dtypes(self.x.dtype, self.y.dtype, *(storage.dtype for storage in others))
        check_shapes(self.x.shape, self.y, *others)
        dtype = self.before.dtype if self.before else self.x.dtype
        if not dtype.is_float or not self.axes:
            raise Unsupported(f"{self.op} of {dtype.text} over {len(self.axes)} axes has no kernel")
        self.emit("kernel")

    @property
    def _scale(self) -> tuple[Storage, ...]:
        return tuple(storage for storage in (self.weight, self.bias) if storage is not None)

    @property
    def reads(self) -> Sequence[Storage]:
        """x, weight, bias, and what the chains read."""
        return tuple(dict.fromkeys((self.x, *self._scale, *self.before.operands, *self.chain.operands)))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def flops(self) -> int:
        """As the op is counted, 7 per element; the chains' too."""
        return self.x.elements * (7 + self.before.flops + self.chain.flops)

    def describe(self) -> str:
        """Shape, axes, what is fused."""
        before = self.before.text.removeprefix(" + ") + " + " if self.before else ""
        return f"{before}{self.op} over ({', '.join(map(str, self.axes))}) of {self.x.type_text}{self.chain.text}"

    def emit(self, name: str) -> Code:
        """One kernel, one launch."""
        if not self.x.elements:
            return Code("", ())
        scale = [(pointer, storage) for pointer, storage in (("weight", self.weight), ("bias", self.bias)) if storage is not None]
        arguments = [("x", self.x), *scale, *chain_arguments(self.before, "b"), *chain_arguments(self.chain), ("y", self.y)]
        storages = (self.x, self.y, *self._scale, *self.before.operands, *self.chain.operands)
        rows = row_blocks(storages, self.axes, write=1)
        block = rows.block
        first = 2 + len(scale)
        before, value = chain_lines(
            self.before, "x_v", lambda index: block.load(f"bp{index}", first + index, self.before.operands[index].dtype), "b"
        )
        load = [f"x_v = {block.load('x', 0, self.x.dtype)}", *before]
        again = [] if rows.is_held else load
        kind = TRITON_TYPES[compute_dtype(self.before.dtype if self.before else self.x.dtype).text]
        count = float(math.prod(self.x.shape[axis] for axis in self.axes))
        lines = rows.head()
        if self.centered:
            lines += [f"total = tl.zeros({rows.shape}, {kind})", *rows.sweep([*load, f"total += {rows.masked(value, '0')}"])]
            lines.append(f"mean = tl.sum(total, axis=1, keep_dims=True) / {count}")
        lines.append(f"squares = tl.zeros({rows.shape}, {kind})")
        if self.centered:
            # the mean is rounded; what is left of it, the mean of the distances, is small and known to many more digits
            lines.append(f"left = tl.zeros({rows.shape}, {kind})")
            steps = [*again, f"distance = {rows.masked(f'{value} - mean', '0')}", "left += distance", "squares += distance * distance"]
            lines += rows.sweep(steps)
            lines += [
                f"rest = tl.sum(left, axis=1, keep_dims=True) / {count}",
                f"variance = tl.sum(squares, axis=1, keep_dims=True) / {count} - rest * rest",
            ]
        else:
            lines += rows.sweep([*load, f"squares += {rows.masked(f'{value} * {value}', '0')}"])
            lines.append(f"variance = tl.sum(squares, axis=1, keep_dims=True) / {count}")
        lines.append(f"factor = tl.rsqrt(variance + {self.eps!r})")
        distance = f"({value} - mean - rest)" if self.centered else value
        body = [*again, f"result = {distance} * factor"]
        for number, (pointer, storage) in enumerate(scale):
            body.append(f"result = result {'*' if pointer == 'weight' else '+'} {block.load(pointer, 2 + number, storage.dtype)}")
        dtype = self.chain.value if self.chain else self.y.dtype
        if dtype is not compute_dtype(dtype) and self.chain:
            body.append(f"result = {rounded('result', dtype)}")
        first += len(self.before.operands)
        after, last = chain_lines(
            self.chain, "result", lambda index: block.load(f"p{index}", first + index, self.chain.operands[index].dtype)
        )
        lines += rows.sweep([*body, *after, block.store("y", 1, last)])
        launch = Launch(name, (rows.rows.blocks,), tuple(storage for _, storage in arguments), warps=rows.warps)
        return Code(function(name, arguments, self.describe(), lines), (launch,))
