"""Small networks whose axis groups are known by hand: one for each way that axes hang together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Graph, Operand, Value
from graphopt.ir.types import DType, TensorType
from graphopt.ops import builder

__all__ = ["CASES", "Net"]


class Net:
    """Builds a graph layer by layer; states are named after their layers as in torch."""

    def __init__(self, name: str) -> None:
        self.builder = builder(name)

    def input(self, *shape: int, dtype: DType = DType.f32) -> Value:
        """An input `x`, or `x_1`, ..."""
        return self.builder.input(self.builder.graph.fresh_name("x"), TensorType(dtype, shape))

    def state(self, name: str, *shape: int, kind: str = "param", dtype: DType = DType.f32) -> Value:
        """A parameter or constant."""
        return self.builder.state(name, TensorType(dtype, shape), kind="constant" if kind == "constant" else "param")

    def op(self, name: str, op: str, *operands: Operand, **attrs: Attribute) -> Value:
        """A node; its first result."""
        return self.builder.insert(op, operands, attrs, name=name).results[0]

    def conv(self, name: str, x: Value, out: int, kernel: int = 1, groups: int = 1) -> Value:
        """A convolution that keeps the image's size, without bias."""
        channels = x.type.static_shape[1]
        weight = self.state(f"{name}.weight", out, channels // groups, kernel, kernel)
        pad = kernel // 2
        return self.op(name, "conv2d", x, weight, None, stride=(1, 1), padding=(pad, pad), dilation=(1, 1), groups=groups)

    def norm(self, name: str, x: Value) -> Value:
        """A batch norm."""
        count = x.type.static_shape[1]
        states = [self.state(f"{name}.{part}", count) for part in ("weight", "bias", "running_mean", "running_var")]
        return self.op(name, "batch_norm", x, *states, eps=1e-5, momentum=0.1, mode="follow")

    def linear(self, name: str, x: Value, out: int) -> Value:
        """A linear layer with bias."""
        weight = self.state(f"{name}.weight", out, x.type.static_shape[-1])
        return self.op(name, "linear", x, weight, self.state(f"{name}.bias", out))

    def layer_norm(self, name: str, x: Value) -> Value:
        """A layer norm over the last axis."""
        count = x.type.static_shape[-1]
        weight, bias = self.state(f"{name}.weight", count), self.state(f"{name}.bias", count)
        return self.op(name, "layer_norm", x, weight, bias, normalized_shape=(count,), eps=1e-5)

    def relu(self, name: str, x: Value) -> Value:
        """A ReLU."""
        return self.op(name, "relu", x)

    def reshape(self, name: str, x: Value, *shape: int) -> Value:
        """A reshape."""
        return self.op(name, "reshape", x, shape=shape)

    def permute(self, name: str, x: Value, *axes: int) -> Value:
        """A permutation of axes."""
        return self.op(name, "permute", x, axes=axes)

    def attention(self, name: str, q: Value, k: Value, v: Value, mask: Value | None = None, *, grouped: bool = False) -> Value:
        """Attention of [batch, heads, tokens, features]."""
        return self.op(name, "scaled_dot_product_attention", q, k, v, mask, causal=False, dropout_p=0.0, grouped=grouped, scale=None)

    def done(self, *outputs: Value) -> Graph:
        """The graph."""
        return self.builder.outputs(*outputs)


def residual_block() -> Graph:
    """Stem, two convolutions around which the stem's result is added, head."""
    net = Net("residual_block")
    stem = net.relu("relu", net.norm("bn", net.conv("stem", net.input(2, 3, 6, 6), 8, 3)))
    inner = net.relu("relu1", net.norm("bn1", net.conv("conv1", stem, 6, 3)))
    total = net.op("add", "add", net.norm("bn2", net.conv("conv2", inner, 8, 3)), stem)
    pooled = net.op("pool", "mean", net.relu("relu2", total), axes=(2, 3), keepdims=False)
    return net.done(net.linear("fc", pooled, 5))


def dense_block() -> Graph:
    """Each layer reads everything before it, side by side."""
    net = Net("dense_block")
    first = net.conv("conv0", net.input(2, 3, 6, 6), 8)
    second = net.conv("conv1", net.relu("relu1", net.norm("bn1", first)), 4, 3)
    joined = net.op("concat", "concat", first, second, axis=1)
    third = net.conv("conv2", net.relu("relu2", net.norm("bn2", joined)), 4, 3)
    return net.done(net.conv("head", net.op("concat_1", "concat", first, second, third, axis=1), 5))


def shuffle_unit() -> Graph:
    """ShuffleNet v2: half of the channels pass by, the halves are interleaved and split again."""
    net = Net("shuffle_unit")
    x = net.relu("relu", net.norm("bn", net.conv("stem", net.input(2, 3, 4, 4), 12)))
    left, right = net.builder.insert("split", (x,), {"axis": 1, "sizes": (6, 6)}, name="split").results
    right = net.conv("branch.2", net.conv("branch.1", net.conv("branch.0", right, 6), 6, 3, groups=6), 6)
    joined = net.op("concat", "concat", left, right, axis=1)
    mixed = net.permute("permute", net.reshape("reshape", joined, 2, 2, 6, 4, 4), 0, 2, 1, 3, 4)
    return net.done(net.conv("head", net.reshape("shuffled", mixed, 2, 12, 4, 4), 5))


def se_block() -> Graph:
    """Squeeze and excitation: a gate for each channel."""
    net = Net("se_block")
    x = net.conv("conv", net.input(2, 3, 4, 4), 8, 3)
    pooled = net.op("pool", "adaptive_avg_pool2d", x, output_size=(1, 1))
    gate = net.op("gate", "sigmoid", net.conv("fc2", net.relu("relu", net.conv("fc1", pooled, 4)), 8))
    return net.done(net.conv("head", net.op("scale", "mul", x, gate), 5))


def swin_block() -> Graph:
    """Windows of tokens, packed q, k and v, a table of relative positions for each head."""
    net = Net("swin_block")
    x = net.permute("permute", net.conv("embed", net.input(1, 3, 4, 4), 12), 0, 2, 3, 1)
    rolled = net.op("roll", "roll", net.layer_norm("norm1", x), shifts=(-1, -1), axes=(1, 2))
    windows = net.permute("windows", net.reshape("cut", rolled, 1, 2, 2, 2, 2, 12), 0, 1, 3, 2, 4, 5)
    tokens = net.reshape("tokens", windows, 4, 4, 12)
    packed = net.reshape("packed", net.linear("qkv", tokens, 36), 4, 4, 3, 3, 4)
    parts = net.permute("parts", packed, 2, 0, 3, 1, 4)
    q, k, v = (net.op(name, "select", parts, axis=0, index=index) for index, name in enumerate("qkv"))
    table = net.op("positions", "index", net.state("table", 9, 3), net.state("places", 16, kind="constant", dtype=DType.i64))
    bias = net.permute("bias", net.reshape("square", table, 4, 4, 3), 2, 0, 1)
    scores = net.op("scores", "add", net.op("product", "matmul", q, net.permute("k_t", k, 0, 1, 3, 2)), bias)
    mixed = net.op("mixed", "matmul", net.op("softmax", "softmax", scores, axis=3), v)
    heads = net.reshape("joined", net.permute("back", mixed, 0, 2, 1, 3), 4, 4, 12)
    out = net.reshape("out", net.linear("proj", heads, 12), 1, 2, 2, 2, 2, 12)
    x = net.op("add", "add", x, net.reshape("image", net.permute("unwindow", out, 0, 1, 3, 2, 4, 5), 1, 4, 4, 12))
    hidden = net.op("gelu", "gelu", net.linear("mlp.0", net.layer_norm("norm2", x), 16), approximate="none")
    x = net.op("add_1", "add", x, net.linear("mlp.2", hidden, 12))
    return net.done(net.linear("head", net.op("pool", "mean", x, axes=(1, 2), keepdims=False), 5))


def _heads(net: Net, name: str, x: Value, heads: int, size: int) -> Value:
    tokens = x.type.static_shape[1]
    projected = net.linear(f"{name}_proj", x, heads * size)
    return net.permute(name, net.reshape(f"{name}_heads", projected, 1, tokens, heads, size), 0, 2, 1, 3)


def grouped_query_attention() -> Graph:
    """Four heads of q share two of k and v."""
    net = Net("grouped_query_attention")
    x = net.op("tokens", "embedding", net.state("tokens.weight", 10, 8), net.input(1, 5, dtype=DType.i64), padding_idx=None)
    q, k, v = _heads(net, "q", x, 4, 3), _heads(net, "k", x, 2, 3), _heads(net, "v", x, 2, 3)
    mixed = net.attention("attention", q, k, v, grouped=True)
    joined = net.reshape("joined", net.permute("back", mixed, 0, 2, 1, 3), 1, 5, 12)
    return net.done(net.linear("head", net.op("add", "add", x, net.linear("o_proj", joined, 8)), 10))


def repeated_keys() -> Graph:
    """The same with k and v repeated by expand and reshape, as written out by hand."""
    net = Net("repeated_keys")
    x = net.op("tokens", "embedding", net.state("tokens.weight", 10, 8), net.input(1, 5, dtype=DType.i64), padding_idx=None)
    q, k, v = _heads(net, "q", x, 4, 3), _heads(net, "k", x, 2, 3), _heads(net, "v", x, 2, 3)
    k, v = (
        net.reshape(
            f"{name}_all",
            net.op(f"{name}_copies", "expand", net.reshape(f"{name}_one", part, 1, 2, 1, 5, 3), shape=(1, 2, 2, 5, 3)),
            1,
            4,
            5,
            3,
        )
        for name, part in (("k", k), ("v", v))
    )
    mixed = net.attention("attention", q, k, v)
    joined = net.reshape("joined", net.permute("back", mixed, 0, 2, 1, 3), 1, 5, 12)
    return net.done(net.linear("head", net.op("add", "add", x, net.linear("o_proj", joined, 8)), 10))


def packed_qkv() -> Graph:
    """q, k and v from one linear layer, in three thirds of its rows."""
    net = Net("packed_qkv")
    x = net.linear("embed", net.input(1, 5, 3), 8)
    thirds = net.builder.insert("split", (net.linear("qkv", x, 24),), {"axis": 2, "sizes": (8, 8, 8)}, name="split").results
    q, k, v = (net.permute(n, net.reshape(f"{n}_heads", part, 1, 5, 2, 4), 0, 2, 1, 3) for n, part in zip("qkv", thirds, strict=True))
    joined = net.reshape("joined", net.permute("back", net.attention("attention", q, k, v), 0, 2, 1, 3), 1, 5, 8)
    return net.done(net.linear("head", net.linear("proj", joined, 6), 5))


def _merged_heads(net: Net) -> list[Value]:
    """q, k and v as torch.nn.MultiheadAttention has them: [tokens, batch, features] -> [batch * heads, tokens, 4]."""
    x = net.linear("embed", net.input(5, 2, 3), 8)
    merged = [net.reshape(f"{name}_merged", net.linear(name, x, 8), 5, 4, 4) for name in "qkv"]
    return [net.permute(f"{name}_turned", value, 1, 0, 2) for name, value in zip("qkv", merged, strict=True)]


def merged_heads() -> Graph:
    """Batch and heads are one axis that is split again before the attention."""
    net = Net("merged_heads")
    q, k, v = (net.reshape(f"{name}_heads", part, 2, 2, 5, 4) for name, part in zip("qkv", _merged_heads(net), strict=True))
    joined = net.reshape("joined", net.permute("back", net.attention("attention", q, k, v), 2, 0, 1, 3), 10, 8)
    return net.done(net.linear("proj", joined, 6))


def merged_heads_in_products() -> Graph:
    """Batch and heads are one axis all the way."""
    net = Net("merged_heads_in_products")
    q, k, v = _merged_heads(net)
    scores = net.op("scores", "matmul", q, net.permute("keys", k, 0, 2, 1))
    mixed = net.op("mixed", "matmul", net.op("weights", "softmax", scores, axis=2), v)
    joined = net.reshape("joined", net.permute("back", mixed, 1, 0, 2), 5, 2, 8)
    return net.done(net.linear("proj", joined, 6))


def flatten_linear() -> Graph:
    """Channels and image are flattened: a channel takes its columns along."""
    net = Net("flatten_linear")
    x = net.relu("relu", net.conv("conv", net.input(2, 3, 4, 4), 6, 3))
    return net.done(net.linear("fc", net.reshape("flat", x, 2, 96), 5))


def grouped_conv() -> Graph:
    """Two groups of three channels each: more to choose from inside groups than among them."""
    net = Net("grouped_conv")
    x = net.conv("conv1", net.input(2, 3, 4, 4), 6)
    return net.done(net.conv("head", net.norm("bn", net.conv("conv2", x, 8, 3, groups=2)), 5))


def gated_linear_unit() -> Graph:
    """One half of the rows gates the other."""
    net = Net("gated_linear_unit")
    hidden = net.linear("in", net.input(2, 3), 12)
    left, right = net.builder.insert("split", (hidden,), {"axis": 1, "sizes": (6, 6)}, name="split").results
    return net.done(net.linear("out", net.op("gated", "mul", left, net.op("silu", "silu", right)), 5))


def group_norm() -> Graph:
    """Two groups of four channels, a layer scale, and a layer behind them."""
    net = Net("group_norm")
    x = net.conv("conv1", net.input(2, 3, 4, 4), 8)
    x = net.op("norm", "group_norm", x, net.state("norm.weight", 8), net.state("norm.bias", 8), groups=2, eps=1e-5)
    x = net.op("scaled", "mul", x, net.state("gamma", 8, 1, 1))
    return net.done(net.conv("head", net.relu("relu", net.conv("conv2", x, 6)), 5))


def padded_shortcut() -> Graph:
    """The shortcut is padded with channels of zeros before it is added."""
    net = Net("padded_shortcut")
    stem = net.conv("stem", net.input(2, 3, 4, 4), 4)
    wide = net.op("pad", "pad", stem, pads=((0, 0), (2, 2), (0, 0), (0, 0)), mode="constant", value=0.0)
    return net.done(net.conv("head", net.op("add", "add", wide, net.conv("conv", stem, 8, 3)), 5))


CASES: Mapping[str, Callable[[], Graph]] = {
    make.__name__: make
    for make in (
        residual_block,
        dense_block,
        shuffle_unit,
        se_block,
        swin_block,
        grouped_query_attention,
        repeated_keys,
        packed_qkv,
        merged_heads,
        merged_heads_in_products,
        flatten_linear,
        grouped_conv,
        gated_linear_unit,
        group_norm,
        padded_shortcut,
    )
}
