"""Random valid graphs: the same seed gives the same graph, in every process.

    graph = random_graph(7, nodes=12, symbolic=True, with_data=True)

Each step picks a kind of node and values that suit it, and lets the op table infer the types, so whatever
comes out passes `graphopt.ops.verify`. Every input is read, and every value that nobody reads is an output
or dead on purpose. Without `with_data` torch is not imported.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from graphopt.ir.attributes import Ref
from graphopt.ir.data import TensorData
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Graph, GraphEditor, Value
from graphopt.ir.types import DType, TensorType
from graphopt.ops import builder
from tests.support.graph_maker import HOSTILE_NAMES, GraphMaker

__all__ = ["HOSTILE_NAMES", "fill", "random_graph"]

_FLOATS = ("relu", "sigmoid", "silu", "tanh", "hardswish", "neg", "abs", "exp", "sin", "erf", "square", "floor", "sign")
_BINARY = ("add", "sub", "mul", "maximum", "minimum")
_COMPARE = ("eq", "lt", "ge")


def random_graph(
    seed: int,
    nodes: int = 12,
    symbolic: bool = False,
    *,
    with_data: bool = False,
    hostile: bool = False,
    opaque: bool = False,
    regions: bool = False,
    sparsity: bool = False,
) -> Graph:
    """A valid graph of about `nodes` nodes.

    `symbolic` makes the batch a dimension `batch` in [1, 16]. `hostile` gives values names that need quotes.
    `opaque`, `regions` and `sparsity` allow nodes and annotations that not every backend takes. With `with_data`
    every state has numbers (needs torch).
    """
    maker = _Maker(random.Random(seed), symbolic, hostile)
    kinds: list[Callable[[], Value | None]] = [*maker.kinds()]
    kinds += [maker.opaque] * 2 if opaque else []
    kinds += [maker.region] if regions else []
    maker.sparsity = sparsity
    graph = maker.grow(kinds, nodes)
    if with_data:
        fill(graph, seed)
    return graph


def fill(graph: Graph, seed: int = 0) -> None:
    """Give every state of a graph small random numbers: variances positive, sparse ones with zeros as annotated."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    editor = GraphEditor(graph)
    for state in tuple(graph.states.values()):
        shape = state.type.static_shape
        dtype = getattr(torch, state.type.dtype.torch_name)
        numbers = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.5
        if not state.type.dtype.is_float:
            numbers = torch.randint(0, 2, shape, generator=generator)
        elif "var" in state.name:
            numbers = numbers.abs() + 0.25
        if state.type.sparsity is not None:
            numbers = torch.zeros_like(numbers)  # satisfies every pattern and ratio
        editor.update_state(replace(state, data=TensorData(numbers.to(dtype))))


class _Maker(GraphMaker):
    """What may be added. Each method returns the new value, or None where nothing suits."""

    def kinds(self) -> Sequence[Callable[[], Value | None]]:
        """Methods that add something, each as often as it should be picked."""
        return (
            *[self.unary] * 4,
            *[self.binary] * 4,
            *[self.literal] * 2,
            *[self.conv] * 4,
            *[self.linear] * 3,
            *[self.norm] * 3,
            *[self.pool] * 2,
            *[self.reshape] * 2,
            *[self.permute] * 2,
            *[self.slice] * 2,
            *[self.concat] * 2,
            *[self.split] * 1,
            *[self.reduce] * 2,
            *[self.where] * 1,
            *[self.cast] * 1,
            *[self.softmax] * 1,
            *[self.matmul] * 1,
            *[self.pad] * 1,
            *[self.dropout] * 1,
            *[self.create] * 1,
            *[self.expand] * 1,
        )

    def unary(self) -> Value | None:
        x = self.pick()
        if x is None:
            return None
        match self.rng.randrange(8):
            case 0:
                return self.add("gelu", x, approximate=self.rng.choice(("none", "tanh")))
            case 1:
                return self.add("clamp", x, minimum=self.rng.choice((None, 0.0, -1.5)), maximum=self.rng.choice((6.0, 0.25)))
            case 2:
                return self.add("leaky_relu", x, negative_slope=0.01)
            case _:
                return self.add(self.rng.choice(_FLOATS), x)

    def binary(self) -> Value | None:
        x = self.pick()
        if x is None:
            return None
        same = [v for v in self.values if v.type.dtype is x.type.dtype and v.shape == x.shape]
        if self.rng.random() < 0.7:
            return self.add(self.rng.choice(_BINARY), x, self.rng.choice(same))
        return self.add(self.rng.choice(_BINARY), x, self._broadcast_state(x))

    def _broadcast_state(self, x: Value) -> Value:
        shape = [dim if isinstance(dim, int) and self.rng.random() < 0.6 else 1 for dim in x.shape]
        return self.state("scale", tuple(shape[self.rng.randrange(x.type.rank + 1) :]))

    def literal(self) -> Value | None:
        x = self.pick()
        if x is None:
            return None
        number = self.rng.choice((0, 1, 2, 0.5, -1.0, 1e-05, 3.0, 0.0, -0.0))
        operands = (x, number) if self.rng.random() < 0.7 else (number, x)
        return self.add(self.rng.choice(("add", "sub", "mul")), *operands)

    def _image(self) -> Value | None:
        """A value of rank 4 whose spatial axes are known, so that a window either fits or does not."""
        x = self.pick(4)
        return x if x is not None and all(isinstance(dim, int) for dim in x.shape[2:]) else None

    def conv(self) -> Value | None:
        x = self._image()
        if x is None or not isinstance(channels := x.shape[1], int) or channels > 64:
            return None
        groups = self.rng.choice([g for g in (1, 1, 1, 2, channels) if channels % g == 0])
        out = groups * self.rng.choice((1, 2)) if groups > 1 else self.rng.choice((2, 4, 6))
        kernel = self.rng.choice((1, 3))
        pad = self.rng.choice((0, kernel // 2))
        stride = self.rng.choice((1, 1, 2))
        weight = self.state("weight", (out, channels // groups, kernel, kernel))
        bias = self.state("bias", (out,)) if self.rng.random() < 0.5 else None
        return self.add("conv2d", x, weight, bias, stride=(stride, stride), padding=(pad, pad), dilation=(1, 1), groups=groups)

    def linear(self) -> Value | None:
        x = self.pick(2, 3)
        if x is None or not isinstance(features := x.shape[-1], int) or features > 256:
            return None
        out = self.rng.choice((3, 8))
        bias = self.state("bias", (out,)) if self.rng.random() < 0.6 else None
        return self.add("linear", x, self.state("weight", (out, features)), bias)

    def norm(self) -> Value | None:
        x = self.pick(2, 3, 4)
        if x is None:
            return None
        features = x.shape[-1]
        channels = x.shape[1]
        choice = self.rng.randrange(3)
        if choice == 0 and isinstance(features, int):
            weight, bias = self.state("weight", (features,)), self.state("bias", (features,))
            return self.add("layer_norm", x, weight, bias, normalized_shape=(features,), eps=1e-05)
        if not isinstance(channels, int):
            return None
        weight, bias = self.state("weight", (channels,)), self.state("bias", (channels,))
        if choice == 1 and channels % 2 == 0:
            return self.add("group_norm", x, weight, bias, groups=2, eps=1e-05)
        mean, variance = self.state("running_mean", (channels,), "buffer"), self.state("running_var", (channels,), "buffer")
        return self.add("batch_norm", x, weight, bias, mean, variance, mode="follow", momentum=0.1, eps=1e-05)

    def pool(self) -> Value | None:
        x = self._image()
        if x is None:
            return None
        kernel = self.rng.choice((1, 2, 3))
        square, stride, pad = (kernel, kernel), self.rng.choice((1, 2)), self.rng.choice((0, kernel // 2))
        common: dict[str, Any] = {"kernel": square, "stride": (stride, stride), "padding": (pad, pad), "ceil_mode": False}
        match self.rng.randrange(3):
            case 0:
                return self.add("max_pool2d", x, dilation=(1, 1), **common)
            case 1:
                return self.add("avg_pool2d", x, count_include_pad=self.rng.random() < 0.5, divisor_override=None, **common)
            case _:
                return self.add("adaptive_avg_pool2d", x, output_size=self.rng.choice(((1, 1), (2, 2))))

    def reshape(self) -> Value | None:
        x = self.pick()
        if x is None or x.type.rank < 2:
            return None
        at = self.rng.randrange(x.type.rank - 1)
        shape: tuple[Dim, ...] = (*x.shape[:at], x.shape[at] * x.shape[at + 1], *x.shape[at + 2 :])
        if self.rng.random() < 0.3:
            shape = (*x.shape[:at], 1, *x.shape[at:])
        return self.add("reshape", x, shape=shape) if len(shape) <= 5 else None

    def permute(self) -> Value | None:
        x = self.pick()
        if x is None:
            return None
        axes = list(range(x.type.rank))
        self.rng.shuffle(axes)
        return self.add("permute", x, axes=tuple(axes))

    def slice(self) -> Value | None:
        x = self.pick()
        if x is None or x.type.rank == 0:
            return None
        axis = self.rng.randrange(x.type.rank)
        size = x.shape[axis]
        if not isinstance(size, int) or size < 2:
            return None
        if self.rng.random() < 0.3:
            return self.add("select", x, axis=axis, index=self.rng.randrange(size))
        start = self.rng.randrange(size - 1)
        return self.add("slice", x, axis=axis, start=start, stop=self.rng.randrange(start + 1, size + 1), step=self.rng.choice((1, 1, 2)))

    def concat(self) -> Value | None:
        x = self.pick()
        if x is None or x.type.rank == 0:
            return None
        axis = self.rng.randrange(x.type.rank)
        if not isinstance(x.shape[axis], int):
            return None

        def others(value: Value) -> tuple[object, ...]:
            return value.type.dtype, value.type.rank, value.shape[:axis], value.shape[axis + 1 :]

        fitting = [value for value in self.values if others(value) == others(x)]
        return self.add("concat", x, *self.rng.choices(fitting, k=self.rng.choice((1, 2))), axis=axis)

    def split(self) -> Value | None:
        x = self.pick()
        if x is None or x.type.rank == 0:
            return None
        axis = self.rng.randrange(x.type.rank)
        size = x.shape[axis]
        if not isinstance(size, int) or size < 2:
            return None
        cut = self.rng.randrange(1, size)
        node = self.builder.add("split", x, name=self.name("split"), axis=axis, sizes=(cut, size - cut))
        self.values.extend(node.results)
        return None

    def reduce(self) -> Value | None:
        x = self.pick()
        if x is None or x.type.rank == 0:
            return None
        axes = tuple(sorted(self.rng.sample(range(x.type.rank), self.rng.randint(1, x.type.rank))))
        keepdims = self.rng.random() < 0.6
        op = self.rng.choice(("sum", "mean", "amax", "amin", "logsumexp"))
        return self.add(op, x, axes=axes, keepdims=keepdims)

    def where(self) -> Value | None:
        x = self.pick()
        if x is None:
            return None
        mask = self.add(self.rng.choice(_COMPARE), x, self.rng.choice((0, 0.5)))
        self.values.append(mask)
        return self.add("where", mask, x, self.rng.choice((0.0, -1.0)))

    def cast(self) -> Value | None:
        x = self.pick(dtype=self.rng.choice((DType.f32, DType.f64, DType.boolean)))
        if x is None:
            return None
        wide = self.add("cast", x, dtype=self.rng.choice((DType.f64, DType.f32)))
        self.values.append(wide)
        return self.add("cast", wide, dtype=DType.f32)

    def softmax(self) -> Value | None:
        x = self.pick()
        if x is None or x.type.rank == 0:
            return None
        return self.add(self.rng.choice(("softmax", "log_softmax")), x, axis=self.rng.randrange(x.type.rank))

    def matmul(self) -> Value | None:
        x = self.pick(2, 3, 4)
        if x is None:
            return None
        axes = (*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2)
        turned = self.add("permute", x, axes=axes)
        self.values.append(turned)
        return self.add("matmul", x, turned)

    def pad(self) -> Value | None:
        x = self.pick(3, 4)
        if x is None:
            return None
        still = ((0, 0),) * (x.type.rank - 2)
        return self.add("pad", x, pads=(*still, (1, 0), (0, 2)), mode="constant", value=self.rng.choice((0.0, -1.0)))

    def dropout(self) -> Value | None:
        x = self.pick()
        return None if x is None else self.add("dropout", x, p=0.5, mode=self.rng.choice(("follow", "eval")))

    def create(self) -> Value | None:
        shape: tuple[Dim, ...] = (self.batch, self.rng.choice((3, 8)))
        return self.add("full", shape=shape, value=self.rng.choice((0.0, 1.0, -2.5)), dtype=DType.f32)

    def expand(self) -> Value | None:
        x = self.pick(2, 3)
        if x is None:
            return None
        lifted = self.add("reshape", x, shape=(1, *x.shape))
        self.values.append(lifted)
        return self.add("expand", lifted, shape=(self.rng.choice((1, 2)), *x.shape))

    def opaque(self) -> Value | None:
        x = self.pick(2, 3, 4)
        if x is None:
            return None
        if self.rng.random() < 0.5:
            type_ = TensorType(DType.f32, (x.shape[0], *x.shape[2:]))
            return self.add("aten.cosine_similarity.default", x, x, types=[type_], x1=Ref(0), x2=Ref(1))
        return self.add("aten.block_diag.default", x, types=[x.type], tensors=(Ref(0),)) if x.type.rank == 2 else None

    def region(self) -> Value | None:
        x = self.pick(2, 3, 4)
        if x is None:
            return None
        flat = self.add("sum", x, axes=tuple(range(x.type.rank)), keepdims=False)
        predicate = self.add("gt", flat, 0)
        branches = [self._branch(name, op, x) for name, op in (("then", "relu"), ("else", "neg"))]
        type_ = TensorType(x.type.dtype, x.shape)
        return self.builder.insert("cond", (predicate, x), {}, name=self.name("cond"), types=[type_], regions=branches).result

    def _branch(self, name: str, op: str, like: Value) -> Graph:
        inner = builder(name)
        for symbol, limits in self.graph.symbols.items():
            inner.symbol(symbol, limits.minimum, limits.maximum)
        x = inner.input("x", TensorType(like.type.dtype, like.shape))
        return inner.outputs(inner.add(op, x).result)
