"""Random convolutional networks: odd channel counts and images, strides, dilation, groups, concatenation, residuals.

    graph = convnet(17)

Built block by block from what classifiers are made of; unlike theirs, the sizes fit no vector and no tile.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from graphopt.errors import TypeInferenceError
from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Graph, Operand, Value
from graphopt.ir.types import DType, Sparsity, SparsityPattern, TensorType
from graphopt.ops import builder
from tools.check_cpu.numbers import fill

__all__ = ["convnet", "random_sparsity"]

_CHANNELS = (1, 2, 3, 5, 8, 13, 16, 17, 24, 31, 32, 33, 48, 58, 64)
_SIDES = (1, 2, 5, 7, 8, 13, 14, 15, 19, 28, 33)
_ACTIVATIONS = ("relu", "relu", "relu6", "silu", "hardswish", "sigmoid", "tanh", "gelu", "leaky_relu", "hardsigmoid")
_MOST_ELEMENTS = 60_000
"""Elements of an activation; a network should run in about a millisecond."""


def convnet(seed: int) -> Graph:
    """A valid network of about 6 to 25 nodes with numbers in every state; the same seed gives the same one."""
    network = _Convnet(random.Random(seed))
    graph = network.grow()
    fill(graph, seed)
    return graph


def random_sparsity(rng: random.Random, shape: tuple[int, ...]) -> Sparsity:
    """An annotation of one of the patterns that there are, for a weight of that shape."""
    match rng.randrange(4):
        case 0:
            return Sparsity(SparsityPattern.BLOCK, rng.choice((0.5, 0.8)), rng.choice(((4, 1), (16, 1), (4, 4), (1, 16))))
        case 1 if shape[1] % 4 == 0:
            return Sparsity(SparsityPattern.N_M, 0.5, (2, 4), 1)
        case _:
            return Sparsity(SparsityPattern.UNSTRUCTURED, rng.choice((0.3, 0.7, 0.8, 0.9, 0.97, 1.0)))


class _Convnet:
    """A network under construction: `x` is where it has got to."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.builder = builder("convnet")
        self.sparse = rng.random() < 0.3
        side = rng.choice(_SIDES)
        shape = (rng.choice((1, 1, 1, 2, 3)), rng.choice((1, 3, 3, 3, 4, 16, 19)), side, rng.choice((side, side, rng.choice(_SIDES))))
        self.x = self.builder.input("image", TensorType(DType.f32, shape))
        self.outputs: list[Value] = []

    def grow(self) -> Graph:
        """Blocks, a head, and sometimes a value from the middle as a second output."""
        blocks: tuple[Callable[[Value], Value], ...] = (
            *[self.conv_block] * 5,
            *[self.depthwise_separable] * 2,
            *[self.inverted_residual] * 2,
            *[self.residual] * 3,
            *[self.branches] * 2,
            *[self.pool] * 2,
            self.shuffle,
            self.upsample,
            self.squeeze_excite,
            self.arithmetic,
            self.channel_slices,
            self.transposed,
        )
        for _ in range(self.rng.randint(2, 6)):
            self.attempt(self.rng.choice(blocks))
            if self.rng.random() < 0.1:
                self.outputs.append(self.x)
        result = self.head(self.x) if self.rng.random() < 0.6 else self.x
        if result.producer is None:
            result = self.add("relu", result)
        self.builder.outputs(
            result, *[value for value in dict.fromkeys(self.outputs) if value is not result and value.producer is not None]
        )
        return self.builder.graph

    def attempt(self, block: Callable[[Value], Value]) -> None:
        """Append a block where it fits; what a block that does not fit has added so far stays, unread."""
        try:
            made = block(self.x)
        except TypeInferenceError:
            return
        if 0 < math.prod(made.type.static_shape) <= _MOST_ELEMENTS:
            self.x = made

    # Pieces

    def add(self, op: str, *operands: Operand, **attrs: Attribute) -> Value:
        """Append a node; its first result."""
        return self.builder.insert(op, operands, attrs).results[0]

    def state(self, hint: str, *shape: int, sparse: bool = False) -> Value:
        """A parameter, annotated as sparse now and then where that is allowed."""
        annotation = random_sparsity(self.rng, shape) if sparse and self.sparse and self.rng.random() < 0.6 else None
        return self.builder.state(self.builder.graph.fresh_name(f"layer.{hint}"), TensorType(DType.f32, shape, annotation))

    def conv(
        self, x: Value, out: int, kernel: tuple[int, int], stride: int = 1, groups: int = 1, pad: tuple[int, int] | None = None
    ) -> Value:
        """A convolution, sometimes dilated, mostly with a bias, sometimes with a batch norm behind it."""
        channels = x.type.static_shape[1]
        dilation = self.rng.choice((1, 1, 1, 1, 2))
        padding = (
            pad if pad is not None else self.rng.choice(((0, 0), *[(kernel[0] // 2 * dilation, kernel[1] // 2 * dilation)] * 4, (1, 2)))
        )
        weight = self.state("weight", out, channels // groups, *kernel, sparse=True)
        bias = self.state("bias", out) if self.rng.random() < 0.6 else None
        strides = (stride, stride if self.rng.random() < 0.9 else 1)
        y = self.add("conv2d", x, weight, bias, stride=strides, padding=padding, dilation=(dilation, dilation), groups=groups)
        return self.batch_norm(y) if self.rng.random() < 0.25 else y

    def same_conv(self, x: Value, out: int, kernel: int, groups: int = 1) -> Value:
        """A convolution of stride 1 that keeps the size of the image."""
        weight = self.state("weight", out, x.type.static_shape[1] // groups, kernel, kernel, sparse=True)
        pad = (kernel // 2, kernel // 2)
        return self.add("conv2d", x, weight, self.state("bias", out), stride=(1, 1), padding=pad, dilation=(1, 1), groups=groups)

    def batch_norm(self, x: Value) -> Value:
        """By stored statistics."""
        channels = x.type.static_shape[1]
        states = [self.state(hint, channels) for hint in ("scale", "shift")]
        for hint in ("running_mean", "running_var"):
            name = self.builder.graph.fresh_name(f"layer.{hint}")
            states.append(self.builder.state(name, TensorType(DType.f32, (channels,)), kind="buffer"))
        return self.add("batch_norm", x, *states, mode="eval", momentum=0.1, eps=1e-05)

    def activation(self, x: Value) -> Value:
        """One of the usual functions."""
        match self.rng.choice(_ACTIVATIONS):
            case "relu6":
                return self.add("clamp", x, minimum=0.0, maximum=6.0)
            case "gelu":
                return self.add("gelu", x, approximate=self.rng.choice(("none", "tanh")))
            case "leaky_relu":
                return self.add("leaky_relu", x, negative_slope=0.1)
            case op:
                return self.add(op, x)

    # Blocks

    def conv_block(self, x: Value) -> Value:
        """Convolution of any kind and an activation."""
        channels = x.type.static_shape[1]
        kernel = self.rng.choice(((1, 1), (1, 1), (3, 3), (3, 3), (3, 3), (5, 5), (7, 7), (1, 3), (3, 1), (2, 2), (4, 4)))
        groups = self.rng.choice([count for count in (1, 1, 1, 1, 2, 3, 4) if channels % count == 0])
        out = self.rng.choice(_CHANNELS) * groups if groups > 1 else self.rng.choice(_CHANNELS)
        return self.activation(self.conv(x, min(out, 96 // groups * groups), kernel, self.rng.choice((1, 1, 1, 2, 2, 3)), groups))

    def depthwise(self, x: Value, stride: int) -> Value:
        """Each channel for itself, or a few outputs of each."""
        channels = x.type.static_shape[1]
        kernel = self.rng.choice((3, 3, 3, 5, 7))
        return self.conv(x, channels * self.rng.choice((1, 1, 1, 1, 2)), (kernel, kernel), stride, channels)

    def depthwise_separable(self, x: Value) -> Value:
        """As in MobileNet v1."""
        return self.activation(self.conv(self.activation(self.depthwise(x, self.rng.choice((1, 2)))), self.rng.choice(_CHANNELS), (1, 1)))

    def inverted_residual(self, x: Value) -> Value:
        """As in MobileNet v2 and v3: expand, depthwise, project, and back onto the input."""
        channels = x.type.static_shape[1]
        wide = self.activation(self.same_conv(x, min(channels * self.rng.choice((2, 3, 6)), 128), 1))
        kernel = self.rng.choice((3, 5))
        deep = self.activation(self.same_conv(wide, wide.type.static_shape[1], kernel, wide.type.static_shape[1]))
        if self.rng.random() < 0.4:
            deep = self.squeeze_excite(deep)
        return self.add("add", self.same_conv(deep, channels, 1), x)

    def residual(self, x: Value) -> Value:
        """One or two convolutions and the input, in either order of operands, with the activation where people put it."""
        channels = x.type.static_shape[1]
        y = x
        for _ in range(self.rng.randint(1, 2)):
            y = self.same_conv(self.activation(y) if self.rng.random() < 0.7 else y, channels, self.rng.choice((1, 3, 3)))
        y = self.add("add", *self.rng.sample((x, y), 2))
        return self.activation(y) if self.rng.random() < 0.7 else y

    def branches(self, x: Value) -> Value:
        """As in Inception, DenseNet and SqueezeNet: the input or convolutions of it side by side."""
        parts = [
            self.activation(self.same_conv(x, self.rng.choice((1, 3, 8, 16, 17, 32)), self.rng.choice((1, 3))))
            for _ in range(self.rng.randint(1, 3))
        ]
        if self.rng.random() < 0.5 or len(parts) == 1:
            parts.insert(self.rng.randrange(len(parts) + 1), x)
        return self.add("concat", *parts, axis=1)

    def pool(self, x: Value) -> Value:
        """A window of any kind."""
        kernel = self.rng.choice((2, 2, 3, 3, 5))
        common: dict[str, Attribute] = {
            "kernel": (kernel, self.rng.choice((kernel, kernel, 2))),
            "stride": (self.rng.choice((1, 2, 2, 3)),) * 2,
            "padding": (self.rng.choice((0, 1)),) * 2,
            "ceil_mode": self.rng.random() < 0.3,
        }
        match self.rng.randrange(4):
            case 0:
                return self.add("avg_pool2d", x, count_include_pad=self.rng.random() < 0.5, divisor_override=None, **common)
            case 1:
                return self.add("adaptive_avg_pool2d", x, output_size=self.rng.choice(((1, 1), (2, 3), (4, 4))))
            case _:
                return self.add("max_pool2d", x, dilation=(self.rng.choice((1, 1, 1, 2)),) * 2, **common)

    def shuffle(self, x: Value) -> Value:
        """Channel shuffle, as in ShuffleNet."""
        n, channels, height, width = x.type.static_shape
        groups = self.rng.choice([count for count in (1, 2, 3, 4) if channels % count == 0])
        split = self.add("reshape", x, shape=(n, groups, channels // groups, height, width))
        return self.add("reshape", self.add("permute", split, axes=(0, 2, 1, 3, 4)), shape=(n, channels, height, width))

    def upsample(self, x: Value) -> Value:
        """Twice the size, or about that."""
        n, channels, height, width = x.type.static_shape
        mode = self.rng.choice(("nearest", "linear"))
        size = (height * 2, width * 2 + self.rng.choice((0, 0, 1)))
        align = mode == "linear" and self.rng.random() < 0.5
        return self.add("resize", x, size=size, mode=mode, align_corners=align, scales=None) if n * channels < 100 else x

    def squeeze_excite(self, x: Value) -> Value:
        """As in MobileNet v3, EfficientNet and RegNet."""
        channels = x.type.static_shape[1]
        mean = self.add("mean", x, axes=(2, 3), keepdims=True)
        inner = self.activation(self.same_conv(mean, max(1, channels // self.rng.choice((2, 4))), 1))
        return self.add("mul", x, self.add(self.rng.choice(("sigmoid", "hardsigmoid")), self.same_conv(inner, channels, 1)))

    def arithmetic(self, x: Value) -> Value:
        """A scale and shift of each channel, as folded or hand-written norms leave them."""
        channels = x.type.static_shape[1]
        scaled = self.add("mul", x, self.state("scale", channels, 1, 1))
        return self.add("add", scaled, self.state("shift", 1, channels, 1, 1) if self.rng.random() < 0.5 else 0.5)

    def channel_slices(self, x: Value) -> Value:
        """Split, work on a part, put it back together."""
        channels = x.type.static_shape[1]
        if channels < 2:
            return x
        cut = self.rng.randrange(1, channels)
        left, right = self.builder.insert("split", (x,), {"axis": 1, "sizes": (cut, channels - cut)}).results
        worked = self.activation(self.same_conv(right, channels - cut, self.rng.choice((1, 3))))
        return self.add("concat", *self.rng.sample((left, worked), 2), axis=1)

    def transposed(self, x: Value) -> Value:
        """A transposed convolution."""
        channels = x.type.static_shape[1]
        groups = self.rng.choice([count for count in (1, 1, 2) if channels % count == 0])
        out, kernel, stride = self.rng.choice((1, 4, 8, 17)), self.rng.choice((2, 3)), self.rng.choice((1, 2))
        weight = self.state("weight", channels, out, kernel, kernel)
        bias = self.state("bias", out * groups)
        options: dict[str, Attribute] = {"output_padding": (0, 0), "dilation": (1, 1), "groups": groups}
        return self.add("conv_transpose2d", x, weight, bias, stride=(stride, stride), padding=(kernel // 2, 0), **options)

    def head(self, x: Value) -> Value:
        """Pool, flatten, classify."""
        n, channels, height, width = x.type.static_shape
        if self.rng.random() < 0.6:
            x = self.add("mean", x, axes=(2, 3), keepdims=False)
        else:
            x = self.add("reshape", x, shape=(n, channels * height * width))
        if x.type.static_shape[1] > 4096:
            return x
        out = self.rng.choice((1, 7, 10, 33))
        x = self.add("linear", x, self.state("weight", out, x.type.static_shape[1], sparse=True), self.state("bias", out))
        return self.add("softmax", x, axis=1) if self.rng.random() < 0.4 else x
