"""Softmax and log softmax along one axis: y = chain(softmax(before(x))).

    rows of up to 8192     held in registers: x is read once
    longer ones            three sweeps: the largest, the sum of exponentials, the results

Numeric class: rounding; float32 (float64 for float64) between load and store, exponentials within 2 ulp plus that of their argument.
"""

from __future__ import annotations

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

__all__ = ["Softmax"]


@dataclass(frozen=True)
class Softmax(Kernel):
    """Along `axis` of x. y and the operands of both chains have the shape of x."""

    x: Storage
    y: Storage
    axis: int
    is_log: bool = False
    before: Chain = NO_CHAIN
    chain: Chain = NO_CHAIN

    algorithm: ClassVar[str] = "softmax"

    def __post_init__(self) -> None:
        operands = (*self.before.operands, *self.chain.operands)
        check_dtypes(self.x.dtype, self.y.dtype, *(operand.dtype for operand in operands))
        check_shapes(self.x.shape, self.y, *operands)
        dtype = self.before.dtype if self.before else self.x.dtype
        if not dtype.is_float:
            raise Unsupported(f"softmax of {dtype.text} has no kernel")
        self.emit("kernel")

    @property
    def reads(self) -> Sequence[Storage]:
        """x, and what the chains read."""
        return tuple(dict.fromkeys((self.x, *self.before.operands, *self.chain.operands)))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def flops(self) -> int:
        """As the op is counted, 5 per element; the chains' too."""
        return self.x.elements * (5 + self.before.flops + self.chain.flops)

    def describe(self) -> str:
        """Shape, axis, what is fused."""
        before = self.before.text.removeprefix(" + ") + " + " if self.before else ""
        return f"{before}{'log_' * self.is_log}softmax over ({self.axis}) of {self.x.type_text}{self.chain.text}"

    def emit(self, name: str) -> Code:
        """One kernel, one launch."""
        if not self.x.elements:
            return Code("", ())
        arguments = [("x", self.x), *chain_arguments(self.before, "b"), *chain_arguments(self.chain), ("y", self.y)]
        storages = (self.x, self.y, *self.before.operands, *self.chain.operands)
        rows = row_blocks(storages, (self.axis,), write=1)
        block = rows.block
        before, value = chain_lines(
            self.before, "x_v", lambda index: block.load(f"bp{index}", 2 + index, self.before.operands[index].dtype), "b"
        )
        load = [f"x_v = {block.load('x', 0, self.x.dtype)}", *before]
        again = [] if rows.is_held else load
        kind = TRITON_TYPES[compute_dtype(self.before.dtype if self.before else self.x.dtype).text]
        lowest = 'float("-inf")'
        lines = [
            *rows.head(),
            f"largest = tl.full({rows.shape}, {lowest}, {kind})",
            *rows.sweep([*load, f"largest = tl.maximum(largest, {rows.masked(value, lowest)})"]),
            "largest = tl.max(largest, axis=1, keep_dims=True)",
            f"total = tl.zeros({rows.shape}, {kind})",
            *rows.sweep([*again, f"power = tl.exp({value} - largest)", f"total += {rows.masked('power', '0')}"]),
            "total = tl.sum(total, axis=1, keep_dims=True)",
        ]
        if self.is_log:
            lines.append("shift = largest + tl.log(total)")
            result = f"{value} - shift"
        else:
            result = "power / total" if rows.is_held else f"tl.exp({value} - largest) / total"
        dtype = self.chain.value if self.chain else self.y.dtype
        first = 2 + len(self.before.operands)
        after, last = chain_lines(
            self.chain, "result", lambda index: block.load(f"p{index}", first + index, self.chain.operands[index].dtype)
        )
        lines += rows.sweep([*again, f"result = {rounded(f'({result})', dtype)}", *after, block.store("y", 1, last)])
        launch = Launch(name, (rows.rows.blocks,), tuple(storage for _, storage in arguments), warps=rows.warps)
        return Code(function(name, arguments, self.describe(), lines), (launch,))
