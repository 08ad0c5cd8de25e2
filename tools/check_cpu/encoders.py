"""Random transformers: odd widths, heads and token counts; attention fused and written out, windows, masks, embeddings.

graph = encoder(17)
"""

from __future__ import annotations

import random

from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Graph, Operand, Value
from graphopt.ir.types import DType, TensorType
from graphopt.ops import builder
from tools.check_cpu.convnets import random_sparsity
from tools.check_cpu.numbers import fill

__all__ = ["encoder"]

_TOKENS = (1, 2, 5, 8, 16, 17, 31, 49, 65)
_HEAD_WIDTHS = (1, 4, 5, 8, 11, 16, 17, 32, 64)


def encoder(seed: int) -> Graph:
    """A valid network of one or two blocks with numbers in every state; the same seed gives the same one."""
    graph = _Encoder(random.Random(seed)).grow()
    fill(graph, seed)
    return graph


class _Encoder:
    """A network under construction."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.builder = builder("encoder")
        self.sparse = rng.random() < 0.3
        self.heads = rng.choice((1, 2, 3, 4))
        self.width = self.heads * rng.choice(_HEAD_WIDTHS)
        self.batch = rng.choice((1, 1, 2, 3))
        self.tokens = rng.choice(_TOKENS)
        self.norm_eps = rng.choice((1e-5, 1e-6, 1e-12))
        self.mask = self._mask() if rng.random() < 0.4 else None

    def grow(self) -> Graph:
        """Input of some kind, blocks, an output of some kind."""
        match self.rng.randrange(4):
            case 0:
                x = self.embedded()
            case 1:
                x = self.patches()
            case _:
                x = self.builder.input("x", TensorType(DType.f32, (self.batch, self.tokens, self.width)))
        for _ in range(self.rng.randint(1, 2)):
            x = self.block(x)
        self.builder.outputs(self.output(x))
        return self.builder.graph

    # Pieces

    def add(self, op: str, *operands: Operand, **attrs: Attribute) -> Value:
        """Append a node; its first result."""
        return self.builder.insert(op, operands, attrs).results[0]

    def state(self, hint: str, *shape: int, sparse: bool = False) -> Value:
        """A parameter, annotated as sparse now and then where that is allowed."""
        annotation = random_sparsity(self.rng, shape) if sparse and self.sparse and self.rng.random() < 0.6 else None
        return self.builder.state(self.builder.graph.fresh_name(f"layer.{hint}"), TensorType(DType.f32, shape, annotation))

    def linear(self, x: Value, out: int) -> Value:
        """With a bias, mostly."""
        bias = self.state("bias", out) if self.rng.random() < 0.85 else None
        return self.add("linear", x, self.state("weight", out, x.type.static_shape[-1], sparse=True), bias)

    def norm(self, x: Value) -> Value:
        """Layer norm, or root mean square written out."""
        if self.rng.random() < 0.85:
            states = (self.state("scale", self.width), self.state("shift", self.width))
            return self.add("layer_norm", x, *states, normalized_shape=(self.width,), eps=self.norm_eps)
        mean = self.add("mean", self.add("mul", x, x), axes=(2,), keepdims=True)
        scaled = self.add("mul", x, self.add("rsqrt", self.add("add", mean, self.norm_eps)))
        return self.add("mul", scaled, self.state("scale", self.width))

    def _mask(self) -> Value:
        """A mask as an input: which tokens there are, or numbers to add to the scores."""
        if self.rng.random() < 0.5:
            return self.builder.input("mask", TensorType(DType.boolean, (self.batch, 1, 1, self.tokens)))
        return self.builder.input("mask", TensorType(DType.f32, (self.batch, 1, self.tokens, self.tokens)))

    # Ends

    def embedded(self) -> Value:
        """Words and positions."""
        words = self.rng.choice((7, 100))
        ids = self.builder.input("ids", TensorType(self.rng.choice((DType.i64, DType.i32)), (self.batch, self.tokens)))
        x = self.add("embedding", self.state("words", words, self.width), ids, padding_idx=None)
        return self.norm(self.add("add", x, self.state("positions", self.tokens, self.width)))

    def patches(self) -> Value:
        """A convolution that cuts an image, then tokens; sometimes a class token in front."""
        side, kernel = self.rng.choice(((4, 2), (6, 2), (12, 4), (15, 3)))
        image = self.builder.input("image", TensorType(DType.f32, (self.batch, 3, side, side)))
        pad: dict[str, Attribute] = {"padding": (0, 0), "dilation": (1, 1), "groups": 1}
        x = self.add("conv2d", image, self.state("weight", self.width, 3, kernel, kernel), None, stride=(kernel, kernel), **pad)
        count = (side // kernel) ** 2
        x = self.add("permute", self.add("reshape", x, shape=(self.batch, self.width, count)), axes=(0, 2, 1))
        if self.rng.random() < 0.5:
            token = self.add("expand", self.state("token", 1, 1, self.width), shape=(self.batch, 1, self.width))
            x, count = self.add("concat", token, x, axis=1), count + 1
        if self.mask is None:
            self.tokens = count
            return self.add("add", x, self.state("positions", 1, count, self.width))
        return self.add("slice", self._repeated(x, count), axis=1, start=0, stop=self.tokens, step=1)

    def _repeated(self, x: Value, count: int) -> Value:
        """Enough tokens for the mask that was made for another number of them."""
        return self.add("concat", *[x] * -(-self.tokens // count), axis=1)

    def output(self, x: Value) -> Value:
        """All tokens, the first one's class, or the mean."""
        match self.rng.randrange(4):
            case 0:
                return self.linear(self.add("select", self.norm(x), axis=1, index=0), self.rng.choice((2, 10, 33)))
            case 1:
                return self.add("tanh", self.linear(self.add("mean", x, axes=(1,), keepdims=False), self.width))
            case 2:
                return self.add("log_softmax", self.linear(x, 19), axis=2)
            case _:
                return self.norm(x)

    # Blocks

    def block(self, x: Value) -> Value:
        """Attention and a feed-forward part, norms before or after."""
        before = self.rng.random() < 0.6
        for part in (self.windowed if self.mask is None and self.rng.random() < 0.2 else self.attention, self.feed_forward):
            y = part(self.norm(x) if before else x)
            x = self.add("add", *self.rng.sample((x, y), 2))
            x = x if before else self.norm(x)
        return x

    def feed_forward(self, x: Value) -> Value:
        """Wide, an activation or a gate, and back."""
        wide = self.width * self.rng.choice((1, 2, 4)) + self.rng.choice((0, 0, 3))
        if self.rng.random() < 0.25:
            y = self.add("mul", self.add("silu", self.linear(x, wide)), self.linear(x, wide))
        elif self.rng.random() < 0.7:
            y = self.add("gelu", self.linear(x, wide), approximate=self.rng.choice(("none", "none", "tanh")))
        else:
            y = self.add(self.rng.choice(("relu", "silu", "sigmoid")), self.linear(x, wide))
        return self.linear(y, self.width)

    def attention(self, x: Value) -> Value:
        """Heads from one projection or three."""
        batch, tokens, _ = x.type.static_shape
        width = self.width // self.heads
        if self.rng.random() < 0.5:
            split = self.add("reshape", self.linear(x, 3 * self.width), shape=(batch, tokens, 3, self.heads, width))
            moved = self.add("permute", split, axes=(2, 0, 3, 1, 4))
            parts = [self.add("select", moved, axis=0, index=index) for index in range(3)]
        else:
            parts = [
                self.add(
                    "permute", self.add("reshape", self.linear(x, self.width), shape=(batch, tokens, self.heads, width)), axes=(0, 2, 1, 3)
                )
                for _ in range(3)
            ]
        y = self._attend(*parts)
        joined = self.add("reshape", self.add("permute", y, axes=(0, 2, 1, 3)), shape=(batch, tokens, self.width))
        return self.linear(joined, self.width)

    def _attend(self, q: Value, k: Value, v: Value) -> Value:
        if self.rng.random() < 0.6:
            causal = self.mask is None and self.rng.random() < 0.3
            scale = self.rng.choice((None, None, 0.25))
            return self.add("scaled_dot_product_attention", q, k, v, self.mask, dropout_p=0.0, causal=causal, scale=scale, grouped=False)
        scores = self.add("mul", self.add("matmul", q, self.add("permute", k, axes=(0, 1, 3, 2))), 0.3)
        if self.mask is not None:
            scores = (
                self.add("where", self.mask, scores, -1e4) if self.mask.type.dtype is DType.boolean else self.add("add", scores, self.mask)
            )
        return self.add("matmul", self.add("softmax", scores, axis=3), v)

    def windowed(self, x: Value) -> Value:
        """As in Swin: tokens as an image, rolled, attention within windows, rolled back."""
        batch, tokens, width = x.type.static_shape
        side = next((side for side in (7, 6, 4, 3, 2) if tokens % (side * side) == 0 and side * side == tokens), 0)
        window = next((size for size in (2, 3, 7) if side and side % size == 0), 0)
        if not window:
            return self.attention(x)
        count = side // window
        image = self.add("roll", self.add("reshape", x, shape=(batch, side, side, width)), shifts=(-1, -1), axes=(1, 2))
        cut = self.add("permute", self.add("reshape", image, shape=(batch, count, window, count, window, width)), axes=(0, 1, 3, 2, 4, 5))
        y = self.attention(self.add("reshape", cut, shape=(batch * count * count, window * window, width)))
        back = self.add("permute", self.add("reshape", y, shape=(batch, count, count, window, window, width)), axes=(0, 1, 3, 2, 4, 5))
        rolled = self.add("roll", self.add("reshape", back, shape=(batch, side, side, width)), shifts=(1, 1), axes=(1, 2))
        return self.add("reshape", rolled, shape=(batch, tokens, width))
