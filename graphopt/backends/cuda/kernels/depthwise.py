"""Depthwise convolution: y[n, c] = chain(x[n, c] * weight[c, 0] + bias[c]), each channel by itself, in one or two dimensions.

Each program holds a block of y and walks through the window; weights are loaded once for a block's channels. Sums are float32.
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
from graphopt.backends.cuda.kernels.images import image_blocks, window_loop, window_test
from graphopt.backends.cuda.kernels.walks import joined, times
from graphopt.backends.cuda.storage import Storage

__all__ = ["Depthwise"]

_NAMES = ("h", "w")


@dataclass(frozen=True)
class Depthwise(Kernel):
    """x [N, C, H, W] or [N, C, L], weight [C, 1, KH, KW] or [C, 1, K], bias [C] or None, y as x; `chain` is of y."""

    x: Storage
    weight: Storage
    bias: Storage | None
    y: Storage
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    chain: Chain = NO_CHAIN

    algorithm: ClassVar[str] = "depthwise"

    def __post_init__(self) -> None:
        others = [self.weight, self.y, *([self.bias] if self.bias else []), *self.chain.operands]
        check_dtypes(self.x.dtype, *(storage.dtype for storage in others))
        check_shapes(self.y.shape, *self.chain.operands)
        spatial = len(self.stride)
        if self.x.rank != spatial + 2 or spatial not in (1, 2) or not compute_dtype(self.x.dtype).is_float:
            raise Unsupported(f"a depthwise convolution of {self.x.type_text} has no kernel")
        channels = self.x.shape[1]
        if self.weight.shape[:2] != (channels, 1) or self.y.shape[:2] != self.x.shape[:2]:
            raise Unsupported(f"{self.weight.type_text} is no depthwise weight of {self.x.type_text}")
        self.emit("kernel")

    @property
    def reads(self) -> Sequence[Storage]:
        """x, weight, bias, and what the chain reads."""
        return tuple(dict.fromkeys((self.x, self.weight, *([self.bias] if self.bias else []), *self.chain.operands)))

    @property
    def writes(self) -> Sequence[Storage]:
        """y."""
        return (self.y,)

    @property
    def flops(self) -> int:
        """Two per element of each window."""
        return self.y.elements * (2 * prod(self.weight.shape[2:]) + self.chain.flops)

    def describe(self) -> str:
        """`depthwise 3x3 stride 1x1 f32[1,64,56,56] + relu`."""
        sizes = ("x".join(map(str, numbers)) for numbers in (self.weight.shape[2:], self.stride))
        return f"depthwise {' stride '.join(sizes)} {self.y.type_text}{self.chain.text}"

    def emit(self, name: str) -> Code:
        """One kernel, one launch: blocks over y."""
        if not self.y.elements:
            return Code("", ())
        spatial, shape = len(self.stride), self.y.shape
        names, window, inputs = _NAMES[-spatial:], self.weight.shape[2:], self.x.shape[2:]
        none = (0,) * spatial
        still = Storage("", self.x.dtype, shape, (*self.x.strides[:2], *none))
        weights = Storage("", self.weight.dtype, shape, (0, self.weight.strides[0], *none))
        biases = [Storage("", self.bias.dtype, shape, (0, self.bias.strides[0], *none))] if self.bias else []
        storages = [self.y, still, weights, *biases, *self.chain.operands]
        images = image_blocks(storages, spatial)
        block, kind = images.block, TRITON_TYPES[compute_dtype(self.x.dtype).text]
        lines, body, leaves = [*images.lines], list[str](), list[bool]()
        for axis, axis_name in enumerate(names):
            padding = f" - {self.padding[axis]}" if self.padding[axis] else ""
            lines.append(f"{axis_name}_first = {times(images.coordinates[axis], self.stride[axis])}{padding}")
            body.append(f"{axis_name} = {axis_name}_first + {times(f'k{axis_name}', self.dilation[axis])}")
            last = (shape[2 + axis] - 1) * self.stride[axis] - self.padding[axis] + (window[axis] - 1) * self.dilation[axis]
            leaves.append(self.padding[axis] > 0 or last >= inputs[axis])
        test = window_test(block, names, inputs, leaves)
        steps = [times(axis_name, stride) for axis_name, stride in zip(names, self.x.strides[2:], strict=True)]
        taps = [times(f"k{axis_name}", stride) for axis_name, stride in zip(names, self.weight.strides[2:], strict=True)]
        mask = f", mask={test}, other=0.0" if test else ""
        tap_mask = f", mask={block.mask(2)}, other=0.0" if block.mask(2) else ""
        body += [
            f"found = tl.load({joined('x', block.offset(1), *steps)}{mask}).to({kind})",
            f"tap = tl.load({joined('weight', block.offset(2), *taps)}{tap_mask}).to({kind})",
            "total += found * tap",
        ]
        lines += [f"total = tl.zeros({images.shape}, {kind})", *window_loop([f"k{axis_name}" for axis_name in names], window, body)]
        if self.bias:
            lines.append(f"total += {block.load('bias', 3, self.bias.dtype)}")
        first = 3 + len(biases)
        dtype = self.chain.value if self.chain else self.y.dtype
        after, last_name = chain_lines(
            self.chain, "result", lambda index: block.load(f"p{index}", first + index, self.chain.operands[index].dtype)
        )
        lines += [f"result = {rounded('total', dtype)}", *after, block.store("y", 0, last_name)]
        arguments = [("x", self.x), ("weight", self.weight), *([("bias", self.bias)] if self.bias else []), *chain_arguments(self.chain)]
        arguments.append(("y", self.y))
        launch = Launch(name, (images.programs,), tuple(storage for _, storage in arguments), warps=images.warps)
        return Code(function(name, arguments, self.describe(), lines), (launch,))
