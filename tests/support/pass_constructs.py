"""Random graphs made of what the lossless passes look for: each construct makes at least one pass fire.

    graph = construct_graph(3, symbolic=True)

Constructs read an image `[batch, 4, 6, 6]` or tokens `[batch, 5, 8]`, and many give one back, so that they
chain in random orders: a pass has to cope with its pattern next to every other pattern.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

from graphopt.ir.attributes import Attribute
from graphopt.ir.data import TensorData
from graphopt.ir.graph import Graph, GraphEditor, Operand, Value
from graphopt.ir.types import DType, TensorType
from graphopt.ops import builder
from tests.support.random_graphs import fill

__all__ = ["CONSTRUCTS", "construct_graph"]

_CHANNELS, _SIZE, _TOKENS, _FEATURES = 4, 6, 5, 8


class Maker:
    """A graph under construction, with the images and tokens that it has so far."""

    def __init__(self, seed: int, symbolic: bool) -> None:
        self.rng = random.Random(seed)
        self.builder = builder("constructs")
        batch = self.builder.symbol("batch", 1, 16) if symbolic else self.rng.choice((1, 2))
        self.batch = batch
        self.image_type = TensorType(DType.f32, (batch, _CHANNELS, _SIZE, _SIZE))
        self.token_type = TensorType(DType.f32, (batch, _TOKENS, _FEATURES))
        self.images = [self.builder.input("image", self.image_type)]
        self.token_values = [self.builder.input("tokens", self.token_type)]
        self.mask = self.builder.input("mask", TensorType(DType.boolean, self.token_type.shape))

    def add(self, op: str, *operands: Operand, **attrs: Attribute) -> Value:
        """Append a node and give its first result."""
        return self.builder.insert(op, operands, attrs).results[0]

    def state(self, *shape: int) -> Value:
        """A fresh parameter."""
        graph = self.builder.graph
        return self.builder.state(graph.fresh_name("weight"), TensorType(DType.f32, shape))

    @property
    def image(self) -> Value:
        """Some image, later ones more often."""
        return self.images[max(self.rng.randrange(len(self.images)), self.rng.randrange(len(self.images)))]

    @property
    def tokens(self) -> Value:
        """Some tokens, later ones more often."""
        found = self.token_values
        return found[max(self.rng.randrange(len(found)), self.rng.randrange(len(found)))]

    def keep(self, value: Value) -> None:
        """Let later constructs read the value, where it has a shape that they read."""
        if value.type == self.image_type:
            self.images.append(value)
        elif value.type == self.token_type:
            self.token_values.append(value)

    def conv(self, x: Value, kernel: int, padding: int) -> Value:
        """A convolution from 4 to 4 channels with bias."""
        weight, bias = self.state(_CHANNELS, _CHANNELS, kernel, kernel), self.state(_CHANNELS)
        return self.add("conv2d", x, weight, bias, stride=(1, 1), padding=(padding, padding), dilation=(1, 1), groups=1)

    def pool(self, op: str, x: Value, kernel: int, stride: int) -> Value:
        """A max or average pool without padding."""
        window: dict[str, Attribute] = {"kernel": (kernel, kernel), "stride": (stride, stride), "padding": (0, 0), "ceil_mode": False}
        own: dict[str, Attribute] = {"dilation": (1, 1)} if op == "max_pool2d" else {"count_include_pad": True, "divisor_override": None}
        return self.add(op, x, **window, **own)

    def pad(self, x: Value, sides: int, value: float) -> Value:
        """Pad both spatial axes on both sides."""
        return self.add("pad", x, pads=((0, 0), (0, 0), (sides, sides), (sides, sides)), mode="constant", value=value)


def _dead(m: Maker) -> Value | None:
    m.add("relu", m.add("exp", m.image))
    return None


def _unread_constant(m: Maker) -> Value | None:
    m.builder.state(m.builder.graph.fresh_name("constant"), TensorType(DType.f32, (2,)), kind="constant")
    return None


def _common(m: Maker) -> Value:
    x = m.tokens
    return m.add("sub", m.add("sin", x), m.add("mul", m.add("sin", x), 0.5))


def _dropout(m: Maker) -> Value:
    return m.add(m.rng.choice(("dropout", "alpha_dropout", "feature_dropout")), m.image, p=0.5, mode=m.rng.choice(("follow", "eval")))


def _neutral(m: Maker) -> Value:
    x = m.add("mul", m.image, m.rng.choice((1, 1.0)))
    return m.add("sub", m.add("div", x, 1.0, rounding=None), 0.0)


def _zero(m: Maker) -> Value:
    return m.add("add", 0.0, m.tokens)


def _noop_shape(m: Maker) -> Value:
    x = m.tokens
    match m.rng.randrange(5):
        case 0:
            return m.add("reshape", x, shape=x.shape)
        case 1:
            return m.add("permute", x, axes=(0, 1, 2))
        case 2:
            return m.add("slice", x, axis=1, start=0, stop=_TOKENS, step=1)
        case 3:
            return m.add("concat", x, axis=m.rng.randrange(3))
        case _:
            return m.add("tile", m.add("roll", x, axes=(1, 2), shifts=(_TOKENS, -_FEATURES)), repeats=(1, 1, 1))


def _unit_pools(m: Maker) -> Value:
    x = m.pool("max_pool2d", m.image, 1, 1)
    return m.add("adaptive_avg_pool2d", m.pool("avg_pool2d", x, 1, 1), output_size=(_SIZE, _SIZE))


def _idempotent(m: Maker) -> Value:
    inner = m.rng.choice(("relu", "abs", "sigmoid", "exp"))
    return m.add("relu", m.add(inner, m.tokens))


def _rounded(m: Maker) -> Value:
    return m.add(m.rng.choice(("floor", "ceil", "trunc", "round")), m.add(m.rng.choice(("sign", "floor", "round")), m.image))


def _inverses(m: Maker) -> Value:
    x = m.tokens
    x = m.add("neg", m.add("neg", x)) if m.rng.random() < 0.5 else m.add("flip", m.add("flip", x, axes=(1,)), axes=(1,))
    return m.add("roll", m.add("roll", x, axes=(1, 2), shifts=(2, 1)), axes=(2,), shifts=(m.rng.choice((-1, 1)),))


def _negations(m: Maker) -> Value:
    x, y = m.image, m.image
    return m.add(m.rng.choice(("add", "sub")), x, m.add("neg", y))


def _selects(m: Maker) -> Value:
    x, y = m.tokens, m.tokens
    inner = m.add("where", m.mask, x, 0.5)
    outer = m.add("where", m.mask, inner, y)
    return m.add("where", m.add("logical_not", m.mask), outer, m.add("where", m.mask, x, x))


def _resize(m: Maker) -> Value:
    mode = m.rng.choice(("nearest", "nearest_exact", "linear", "cubic"))
    return m.add("resize", m.image, size=(_SIZE, _SIZE), mode=mode, align_corners=False, scales=None)


def _casts(m: Maker) -> Value:
    x = m.add("cast", m.tokens, dtype=DType.f64)
    return m.add("cast", x, dtype=DType.f32)


def _reshapes(m: Maker) -> Value:
    x = m.add("reshape", m.tokens, shape=(m.batch, _TOKENS * _FEATURES))
    x = m.add("reshape", x, shape=(m.batch, 10, 2, 2))
    return m.add("reshape", x, shape=(m.batch, _TOKENS, _FEATURES)) if m.rng.random() < 0.5 else x


def _permutes(m: Maker) -> Value:
    axes = [0, 1, 2, 3]
    m.rng.shuffle(axes)
    x = m.add("permute", m.image, axes=tuple(axes))
    m.rng.shuffle(axes)
    return m.add("permute", x, axes=tuple(axes))


def _permutes_around_reshape(m: Maker) -> Value:
    x = m.add("permute", m.image, axes=(0, 2, 3, 1))
    x = m.add("reshape", x, shape=(m.batch, _SIZE * _SIZE, _CHANNELS))
    x = m.add("permute", x, axes=m.rng.choice(((0, 2, 1), (2, 0, 1), (1, 2, 0))))
    return m.add("reshape", x, shape=m.image_type.shape) if x.shape == (m.batch, _CHANNELS, _SIZE * _SIZE) else x


def _unit_permute(m: Maker) -> Value:
    x = m.add("mean", m.image, axes=(2, 3), keepdims=True)
    return m.add("mul", m.image, m.add("permute", m.add("permute", x, axes=(0, 2, 3, 1)), axes=(0, 3, 1, 2)))


def _permutes_around_arithmetic(m: Maker) -> Value:
    axes = (0, 2, 3, 1)
    x = m.add(m.rng.choice(("relu", "sin", "silu")), m.add("permute", m.image, axes=axes))
    x = m.add("add", x, m.add("permute", m.image, axes=axes))
    return m.add("permute", x, axes=m.rng.choice(((0, 3, 1, 2), (0, 1, 3, 2))))


def _reshapes_around_arithmetic(m: Maker) -> Value:
    flat = (m.batch, _TOKENS * _FEATURES)
    x = m.add("tanh", m.add("reshape", m.tokens, shape=flat))
    x = m.add("mul", x, m.add("reshape", m.tokens, shape=flat))
    return m.add("reshape", x, shape=m.rng.choice((m.token_type.shape, (m.batch, _FEATURES, _TOKENS))))


def _expand(m: Maker) -> Value:
    x = m.add("expand", m.state(_FEATURES), shape=m.token_type.shape)
    return m.add("add", m.tokens, m.add("exp", x) if m.rng.random() < 0.5 else x)


def _full(m: Maker) -> Value:
    ones = m.add("full", shape=(_FEATURES, _TOKENS), value=m.rng.choice((1.0, 2.5)), dtype=DType.f32)
    return m.add("add", m.tokens, m.add("permute", ones, axes=(1, 0)))


def _slices(m: Maker) -> Value:
    x = m.add("slice", m.image, axis=2, start=1, stop=_SIZE, step=m.rng.choice((1, 2)))
    if m.rng.random() < 0.5:
        return m.add("select", x, axis=2, index=m.rng.randrange(3))
    return m.add("slice", x, axis=2, start=1, stop=3, step=m.rng.choice((1, 2)))


def _slice_of_concat(m: Maker) -> Value:
    x = m.add("concat", m.tokens, m.tokens, axis=1)
    start = m.rng.choice((0, 1, _TOKENS, _TOKENS + 1))
    return m.add("slice", x, axis=1, start=start, stop=start + m.rng.choice((2, _TOKENS - 1)), step=1)


def _slice_of_split(m: Maker) -> Value:
    pieces = m.builder.add("split", m.tokens, axis=2, sizes=(3, 5)).results
    return m.add("select", m.rng.choice(pieces), axis=2, index=m.rng.randrange(3))


def _concats(m: Maker) -> Value:
    x = m.tokens
    pieces = m.builder.add("split", x, axis=1, sizes=(1, 4)).results
    again = m.add("concat", *pieces, axis=1)
    return m.add("concat", m.add("concat", again, x, axis=0), m.tokens, axis=0)


def _pads(m: Maker) -> Value:
    return m.pool("max_pool2d", m.pad(m.pad(m.image, 1, 0.0), 1, 0.0), 2, 2)


def _infinite_pad(m: Maker) -> Value:
    return m.pool("max_pool2d", m.pad(m.image, 1, -math.inf), 3, 1)


def _padded_convolution(m: Maker) -> Value:
    return m.conv(m.pad(m.image, 1, 0.0), 3, 0) if m.rng.random() < 0.7 else m.pool("avg_pool2d", m.pad(m.image, 1, 0.0), 3, 1)


def _clamps(m: Maker) -> Value:
    x = m.add("relu", m.image)
    x = m.add("clamp", x, minimum=m.rng.choice((None, -1.0, 0.5)), maximum=m.rng.choice((6.0, 0.25)))
    return m.add("minimum", x, m.rng.choice((1.0, 7.0)))


def _activation(m: Maker) -> Value:
    x = m.tokens
    shifted = m.add("clamp", m.add("add", x, 3), minimum=0, maximum=6)
    match m.rng.randrange(5):
        case 0:
            return m.add("mul", x, m.add("sigmoid", x))
        case 1:
            return m.add("mul", x, m.add("div", shifted, 6, rounding=None))
        case 2:
            return m.add("div", 1.0, m.add("add", m.add("exp", m.add("neg", x)), 1), rounding=None)
        case 3:
            return m.add("mul", x, m.add("tanh", m.add("softplus", x, beta=1.0, threshold=20.0)))
        case _:
            return m.add("maximum", x, 0.0)


def _gelu(m: Maker) -> Value:
    x = m.image
    if m.rng.random() < 0.5:
        bracket = m.add("erf", m.add("div", x, math.sqrt(2), rounding=None))
    else:
        cubic = m.add("mul", m.add("pow", x, 3), 0.044715)
        bracket = m.add("tanh", m.add("mul", m.add("add", x, cubic), math.sqrt(2 / math.pi)))
    return m.add("mul", m.add("mul", x, 0.5), m.add("add", bracket, 1.0))


def _norm(m: Maker) -> Value:
    x = m.tokens
    if m.rng.random() < 0.5:
        squared = m.add("mean", m.add("pow", x, 2), axes=(2,), keepdims=True)
        return m.add("mul", m.state(_FEATURES), m.add("mul", x, m.add("rsqrt", m.add("add", squared, 1e-05))))
    centred = m.add("sub", x, m.add("mean", x, axes=(2,), keepdims=True))
    variance = m.add("mean", m.add("square", centred), axes=(2,), keepdims=True)
    normed = m.add("div", centred, m.add("sqrt", m.add("add", variance, 1e-05)), rounding=None)
    return m.add("add", m.add("mul", normed, m.state(_FEATURES)), m.state(_FEATURES))


def _attention(m: Maker) -> Value:
    q, k, v = m.tokens, m.tokens, m.tokens
    scores = m.add("matmul", q, m.add("permute", k, axes=(0, 2, 1)))
    scores = m.add("mul", scores, 0.25) if m.rng.random() < 0.7 else scores
    return m.add("matmul", m.add("softmax", scores, axis=2), v)


def _merged_attention(m: Maker) -> Value:
    """Batch and heads in one axis, as nn.MultiheadAttention has them when asked for its weights."""
    heads, size = 2, _FEATURES // 2

    def merged(x: Value) -> Value:
        x = m.add("reshape", m.add("permute", x, axes=(1, 0, 2)), shape=(_TOKENS, m.batch * heads, size))
        return m.add("permute", x, axes=(1, 0, 2))

    q = merged(m.tokens)
    q = m.add("mul", q, 0.5) if m.rng.random() < 0.5 else q
    options: dict[str, Attribute] = {"causal": m.rng.random() < 0.5, "dropout_p": 0.0, "grouped": False, "scale": None}
    y = m.add("scaled_dot_product_attention", q, merged(m.tokens), merged(m.tokens), None, **options)
    y = m.add("reshape", m.add("permute", y, axes=(1, 0, 2)), shape=(_TOKENS, m.batch, _FEATURES))
    return m.add("permute", y, axes=(1, 0, 2))


def _reductions(m: Maker) -> Value:
    op = m.rng.choice(("mean", "amax", "sum"))
    x = m.add(op, m.image, axes=(2, 3), keepdims=True)
    return m.add("reshape", x, shape=(m.batch, _CHANNELS)) if m.rng.random() < 0.7 else m.add(op, x, axes=(1,), keepdims=True)


def _averages(m: Maker) -> Value:
    match m.rng.randrange(3):
        case 0:
            x = m.add(m.rng.choice(("adaptive_avg_pool2d", "adaptive_max_pool2d")), m.image, output_size=(1, 1))
            return m.add("reshape", x, shape=(m.batch, _CHANNELS))
        case 1:
            x = m.add("mean", m.image, axes=(3,), keepdims=False)
            return m.add("mean", x, axes=(2,), keepdims=False)
        case _:
            x = m.add("permute", m.image, axes=(0, 2, 3, 1))
            return m.add(m.rng.choice(("mean", "sum", "amax")), x, axes=(1, 2), keepdims=False)


def _pooled_activation(m: Maker) -> Value:
    return m.pool("max_pool2d", m.add(m.rng.choice(("relu", "sigmoid", "tanh")), m.pad(m.image, 1, -1.0)), 2, 2)


def _pooled_convolution(m: Maker) -> Value:
    x = m.conv(m.image, 1, 0)
    return m.pool("avg_pool2d", x, 2, 2) if m.rng.random() < 0.5 else m.add("mean", x, axes=(2, 3), keepdims=m.rng.random() < 0.5)


def _sliced_arithmetic(m: Maker) -> Value:
    x = m.add("mul", m.add("sin", m.tokens), m.state(_FEATURES))
    return m.add("select", x, axis=1, index=0) if m.rng.random() < 0.5 else m.add("slice", x, axis=1, start=1, stop=3, step=1)


def _sliced_rows(m: Maker) -> Value:
    match m.rng.randrange(3):
        case 0:
            x = m.add("linear", m.tokens, m.state(3, _FEATURES), m.state(3))
        case 1:
            x = m.add("layer_norm", m.tokens, m.state(_FEATURES), m.state(_FEATURES), normalized_shape=(_FEATURES,), eps=1e-05)
        case _:
            x = m.add("softmax", m.tokens, axis=2)
    return m.add("select", x, axis=1, index=m.rng.randrange(_TOKENS))


def _matmul_with_weight(m: Maker) -> Value:
    return m.add("matmul", m.tokens, m.state(_FEATURES, 3))


def _twins(m: Maker) -> Value:
    x = m.tokens
    for kind in ("constant", "constant", "param", "param"):
        name = m.builder.graph.fresh_name(f"twin.{kind}")
        twin = m.builder.state(name, TensorType(DType.f32, (_FEATURES,)), kind="constant" if kind == "constant" else "param")
        x = m.add("mul", x, twin)
    return x


def _layers_in_a_row(m: Maker) -> Value:
    x = m.add("linear", m.tokens, m.state(16, _FEATURES), m.state(16))
    return m.add("linear", x, m.state(3, 16), None)


def _zero_channels(m: Maker) -> Value:
    graph = m.builder.graph
    zeros = m.builder.state(graph.fresh_name("zero.rows"), TensorType(DType.f32, (16, _FEATURES)))
    hidden = m.add("relu", m.add("linear", m.tokens, zeros, None))
    return m.add("linear", hidden, m.state(3, 16), None)


def _conv_and_batch_norm(m: Maker) -> Value:
    graph = m.builder.graph
    type_ = TensorType(DType.f32, (_CHANNELS,))
    mean = m.builder.state(graph.fresh_name("mean"), type_, kind="buffer")
    var = m.builder.state(graph.fresh_name("var"), type_, kind="buffer")
    x = m.conv(m.image, 3, 1)
    return m.add("batch_norm", x, m.state(_CHANNELS), m.state(_CHANNELS), mean, var, mode="follow", momentum=0.1, eps=1e-05)


def _parallel_layers(m: Maker) -> Value:
    x = m.image
    return m.add("add", m.conv(x, 3, 1), m.conv(x, 1, 0))


def _windows_larger_than_the_image(m: Maker) -> Value:
    x = m.pool("max_pool2d", m.image, 3, 3)
    side = m.rng.choice((5, 7))
    if m.rng.random() < 0.5:
        return m.conv(x, side, side // 2)
    window: dict[str, Attribute] = {"kernel": (side, side), "stride": (1, 1), "padding": (side // 2, side // 2), "ceil_mode": False}
    return m.add("avg_pool2d", m.conv(x, 5, 2), **window, count_include_pad=m.rng.random() < 0.5, divisor_override=None)


def _adaptive_pool(m: Maker) -> Value:
    size = m.rng.choice((2, 3, (3, 6), (4, 4)))
    return m.add(
        m.rng.choice(("adaptive_avg_pool2d", "adaptive_max_pool2d")), m.image, output_size=size if isinstance(size, tuple) else (size,) * 2
    )


CONSTRUCTS: tuple[Callable[[Maker], Value | None], ...] = (
    _dead,
    _unread_constant,
    _common,
    _dropout,
    _neutral,
    _zero,
    _noop_shape,
    _unit_pools,
    _idempotent,
    _rounded,
    _inverses,
    _negations,
    _selects,
    _resize,
    _casts,
    _reshapes,
    _permutes,
    _permutes_around_reshape,
    _unit_permute,
    _permutes_around_arithmetic,
    _reshapes_around_arithmetic,
    _expand,
    _full,
    _slices,
    _slice_of_concat,
    _slice_of_split,
    _concats,
    _pads,
    _infinite_pad,
    _padded_convolution,
    _clamps,
    _activation,
    _gelu,
    _norm,
    _attention,
    _reductions,
    _averages,
    _pooled_activation,
    _pooled_convolution,
    _sliced_arithmetic,
    _sliced_rows,
    _matmul_with_weight,
    _twins,
    _layers_in_a_row,
    _zero_channels,
    _conv_and_batch_norm,
    _parallel_layers,
    _windows_larger_than_the_image,
    _adaptive_pool,
    _merged_attention,
)
"""One function per construct; each appends nodes and returns the result, None for what is dead on purpose."""


def construct_graph(seed: int, *, count: int = 20, symbolic: bool = False) -> Graph:
    """A graph of `count` constructs in random order, with numbers in its states; what nobody reads is an output.

    Seeds that follow each other cover all constructs in turn.
    """
    maker = Maker(seed, symbolic)
    order = [CONSTRUCTS[(seed * count + index) % len(CONSTRUCTS)] for index in range(count)]
    maker.rng.shuffle(order)
    alive: list[Value] = []
    for construct in order:
        made = construct(maker)
        if made is not None:
            alive.append(made)
            maker.keep(made)
    maker.builder.outputs(*[value for value in alive if not value.use_count] or alive[-1:])
    fill(maker.builder.graph, seed)
    _adapt_states(maker.builder.graph)
    return maker.builder.graph


def _adapt_states(graph: Graph) -> None:
    """Equal numbers for twins, and zeros in half of the rows where the name says so."""
    editor = GraphEditor(graph)
    first: TensorData | None = None
    for state in tuple(graph.states.values()):
        assert state.data is not None, "the graph was filled"
        if state.name.startswith("twin"):
            first = first or TensorData(state.data.tensor())
            editor.update_state(replace(state, data=first))
        elif state.name.startswith("zero"):
            numbers = state.data.tensor().clone()
            numbers[::2] = 0
            editor.update_state(replace(state, data=TensorData(numbers)))
