"""Every family of aten ops, in the forms that models use: the graph equals the function, and nothing is opaque."""

# The lambdas of the tables take tensors; a type on each would hide what they do.
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.support.capturing import capture_checked, opaque_ops

Functions = dict[str, Callable[..., Any]]


class Function(nn.Module):
    """A module around a function of tensors."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs)


def check(function: Callable[..., Any], *inputs: torch.Tensor, double: bool = True) -> None:
    graph = capture_checked(Function(function), inputs, double=double)
    assert opaque_ops(graph) == set()


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


UNARY_NAMES = """
relu sigmoid tanh neg abs sign exp exp2 expm1 sin cos tan atan sinh cosh asinh erf erfc floor ceil trunc frac round isnan isinf square
negative absolute fix arctan positive sgn selu log_softmax reciprocal
"""


@pytest.mark.parametrize("name", UNARY_NAMES.split())
def test_unary(name: str) -> None:
    options = {"dim": -1} if name == "log_softmax" else {}
    check(lambda x: getattr(torch, name)(x, **options), numbers(3, 4))


@pytest.mark.parametrize("name", ["log", "log2", "log10", "log1p", "sqrt", "rsqrt", "asin", "acos", "atanh"])
def test_unary_of_positive_numbers(name: str) -> None:
    check(getattr(torch, name), numbers(3, 4).sigmoid())


ACTIVATIONS: Functions = {
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu_": lambda x: F.silu(x * 1, inplace=True),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "mish": F.mish,
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "softplus": lambda x: F.softplus(x, 2.0, 3.0),
    "elu_": lambda x: F.elu(x * 1, 0.7, inplace=True),
    "celu": lambda x: F.celu(x, 0.7),
    "leaky_relu_": lambda x: F.leaky_relu(x * 1, 0.3, inplace=True),
    "hardtanh_": lambda x: F.hardtanh(x * 1, -0.5, 0.4, inplace=True),
    "relu6": F.relu6,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "threshold": lambda x: F.threshold(x, 0.1, 7.0),
    "prelu": lambda x: F.prelu(x, torch.full((4,), 0.2, dtype=x.dtype)),
    "glu": F.glu,
    "softmax": lambda x: F.softmax(x, 1),
    "softmax dtype": lambda x: F.softmax(x, -1, dtype=torch.float64),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp_min": lambda x: x.clamp_min(0.1),
    "clamp tensors": lambda x: x.clamp(min=x * 0, max=x * 0 + 1),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    check(ACTIVATIONS[name], numbers(3, 4))


BINARY: Functions = {
    "add alpha": lambda a, b: torch.add(a, b, alpha=3),
    "add number": lambda a, b: a + 2,
    "sub alpha": lambda a, b: torch.sub(a, b, alpha=0.5),
    "rsub": lambda a, b: 1 - a,
    "rsub tensor": lambda a, b: torch.rsub(a, b, alpha=2),
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (b + 9),
    "div floor": lambda a, b: torch.div(a, b.abs() + 1, rounding_mode="floor"),
    "div trunc": lambda a, b: torch.div(a, 0.3, rounding_mode="trunc"),
    "floor_divide": lambda a, b: a // 0.7,
    "true_divide": lambda a, b: torch.true_divide(a, 3),
    "pow": lambda a, b: a.abs() ** b,
    "pow number": lambda a, b: a**3,
    "number pow": lambda a, b: 2.0**a,
    "maximum": torch.maximum,
    "min other": torch.min,
    "remainder": lambda a, b: a % 0.7,
    "fmod": lambda a, b: torch.fmod(a, 0.7),
    "atan2": torch.atan2,
    "compare": lambda a, b: (a > b, a >= 0, a < b, a <= 0, a == b, a != 0),
    "logic": lambda a, b: ((a > 0) & (b > 0), (a > 0) | (b > 0), (a > 0) ^ (b > 0), ~(a > 0), torch.logical_and(a > 0, b > 0)),
    "in place logic": lambda a, b: (a > 0).logical_not_().logical_or_(b > 0),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "where number": lambda a, b: torch.where(a > 0, a, 1.0),
    "masked_fill": lambda a, b: a.masked_fill(b > 0, float("-inf")),
    "masked_fill tensor": lambda a, b: a.masked_fill(b > 0, torch.tensor(3.0)),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.5),
    "addcdiv": lambda a, b: torch.addcdiv(a, a, b + 9),
    "casts": lambda a, b: a.to(torch.int64) + b.type_as(a) + a.to(torch.float64) + a.half().float(),
    "integers": lambda a, b: (a.long() // 2, a.long() % 3, a.long() << 1, a.long() & 3, a.long() / 2),
    "in place": lambda a, b: (a * 1).add_(b).mul_(2).sub_(b).div_(3).clamp_(-1, 1).sigmoid_(),
}


@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str) -> None:
    check(BINARY[name], numbers(3, 4), numbers(4, seed=1), double=name not in ("casts", "integers"))


SHAPE: Functions = {
    "view": lambda x: x.view(2, -1),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(-1).unsqueeze(0),
    "permute": lambda x: x.permute(0, -1, 1, 2),
    "transpose": lambda x: x.transpose(1, -1).swapaxes(0, 1),
    "movedim": lambda x: x.movedim(1, -1).moveaxis((0, 1), (2, 0)),
    "matrix": lambda x: (x[0, 0].t(), x.mT, x[0, 0].T),
    "expand": lambda x: (x[:1].expand(3, -1, -1, -1), x[:1].expand_as(x)),
    "slices": lambda x: (x[:, 1:-1], x[..., ::2], x[1:100], x[:, -3:], x[:, :0], x.narrow(1, 1, 2)),
    "select": lambda x: (x[0], x[:, -1], x.select(2, 3)),
    "splits": lambda x: (x.chunk(3, 1), x.split(3, 3), x.split([1, 3], 1), x.tensor_split(2, 2), x.tensor_split([1, 2], 3), x.unbind(0)),
    "concat": lambda x: (torch.cat([x, x * 2], 1), torch.cat([torch.zeros(0), x[0, 0, 0]]), torch.stack([x, x], -1), torch.stack([x], 1)),
    "repeat": lambda x: (x.repeat(1, 2, 1, 3), x.repeat(2, 1, 1, 1, 1), x.tile(2, 1), x.repeat_interleave(2, 1), x.repeat_interleave(3)),
    "roll": lambda x: (x.roll((1, -1), (1, 2)), x.roll(3), x.flip(1, 3)),
    "pads": lambda x: (F.pad(x, (1, 2)), F.pad(x, (1, 0, -1, 2), value=3.0), F.pad(x, (1, 1, 0, 2), mode="circular")),
    "image pads": lambda x: (F.pad(x, (1, 2, 0, 1), mode="reflect"), F.pad(x, (1, 2, 0, 1), mode="replicate")),
    "triangles": lambda x: (x.tril(), x.triu(1)),
    "shuffles": lambda x: (F.pixel_shuffle(x, 2), F.pixel_unshuffle(x, 2), F.channel_shuffle(x, 2)),
    "meshgrid": lambda x: (
        torch.meshgrid(x[0, 0, 0], x[0, 0, 1, :2], indexing="ij"),
        torch.meshgrid(x[0, 0, 0], x[0, 1, 0], indexing="xy"),
    ),
    "scatters": lambda x: (x.slice_scatter(x[:, :2] * 2, 1, 1, 3), x.select_scatter(x[0], 0, -1)),
    "diff": lambda x: x.diff(dim=1),
}


@pytest.mark.parametrize("name", SHAPE)
def test_shape(name: str) -> None:
    check(SHAPE[name], numbers(2, 4, 4, 6), double=name != "concat")


CREATE: Functions = {
    "constants": lambda x: (
        x.new_ones(2, 3),
        torch.zeros(3),
        torch.ones_like(x),
        torch.full((2,), 3),
        torch.full_like(x, 0.5),
        x.new_zeros(2),
    ),
    "typed": lambda x: (torch.zeros(3, dtype=torch.bool), torch.full_like(x, 2, dtype=torch.int64), x.new_full((2,), 1)),
    "ranges": lambda x: (torch.arange(5), torch.arange(1, 9, 2), torch.arange(0.0, 1.0, 0.25), torch.linspace(0, 1, 7)),
    "eye": lambda x: (torch.eye(3), torch.eye(2, 4)),
    "fills": lambda x: (torch.empty_like(x).fill_(2.0), x.clone().zero_(), torch.empty(3).copy_(torch.ones(1)), x.clone().fill_(x.sum())),
}


@pytest.mark.parametrize("name", CREATE)
def test_create(name: str) -> None:
    check(CREATE[name], numbers(2, 3), double=False)


GATHER: Functions = {
    "gather": lambda x, i: x.gather(1, i),
    "index_select": lambda x, i: x.index_select(-1, i[0]),
    "index": lambda x, i: (x[i[0]], x[:, i], x[i[0], i[1]], x[None, i[0]]),
    "index_put": lambda x, i: (x.index_put((i[0],), x[0]), x.index_put((i[0], i[1]), torch.ones((), dtype=x.dtype), accumulate=True)),
    "assignment": lambda x, i: x.clone().index_put_((i[0],), x[1]),
    "mask assignment": lambda x, i: x.clone().index_put_((x > 0,), torch.zeros((), dtype=x.dtype)),
    "embedding": lambda x, i: (F.embedding(i, x), F.embedding(i, x, padding_idx=-1)),
    "scatter": lambda x, i: (x.scatter(0, i, x), x.scatter(1, i, 2.0), x.scatter_add(1, i, x), x.scatter(1, i, x, reduce="multiply")),
}


@pytest.mark.parametrize("name", GATHER)
def test_gather(name: str) -> None:
    check(GATHER[name], numbers(4, 4), torch.tensor([[0, 1, 2, 3], [3, 0, 1, 2]]))


REDUCE: Functions = {
    "sums": lambda x: (x.sum(), x.sum(1), x.sum((0, -1), keepdim=True), x.mean(), x.mean((1, 2)), x.prod(), x.prod(1)),
    "sum dtype": lambda x: (x.sum(dtype=torch.float64), (x > 0).sum(), (x > 0).sum(dtype=torch.int32)),
    "extrema": lambda x: (x.amax(1), x.amin((0, 1)), x.max(), x.min(), x.max(1).values, x.min(1, keepdim=True)),
    "logic": lambda x: ((x > 0).any(), (x > 0).all(1), (x > 0).any(0, keepdim=True)),
    "spread": lambda x: (x.var(), x.var(1), x.std(1, unbiased=False), x.var((0, 1), correction=2), torch.var_mean(x, 1)),
    "norms": lambda x: (x.norm(), x.norm(dim=1), torch.linalg.vector_norm(x, 1, dim=1, keepdim=True), F.normalize(x, dim=1)),
    "logsumexp": lambda x: x.logsumexp(1),
    "argmax": lambda x: (x.argmax(), x.argmax(1), x.argmin(-1, keepdim=True)),
    "running": lambda x: (x.cumsum(1), x.cumprod(0), (x > 0).cumsum(0), (x > 0).cumsum(0, dtype=torch.int32)),
    "sorts": lambda x: (x.topk(2), x.topk(2, 1, largest=False), x.sort(1, descending=True), x.argsort(0)),
}


@pytest.mark.parametrize("name", REDUCE)
def test_reduce(name: str) -> None:
    check(REDUCE[name], numbers(3, 4, 5))


MATMUL: Functions = {
    "products": lambda a, b: (a @ b, a.mm(b), a.mv(b[:, 0]), a[0].dot(b[:, 0]), torch.bmm(a[None], b[None]), a.matmul(b[:, 0])),
    "sums of products": lambda a, b: (torch.addmm(a @ b, a, b, beta=0.5, alpha=2), torch.baddbmm(a[None] @ b, a[None], b[None])),
    "ignored summand": lambda a, b: torch.addmm(torch.full_like(a @ b, float("nan")), a, b, beta=0),
    "linear": lambda a, b: (F.linear(a, b.t()), F.linear(a, b.t(), b[0])),
    "einsum": lambda a, b: torch.einsum("ij,jk->ki", a, b),
    "attention": lambda a, b: F.scaled_dot_product_attention(a[None, None], a[None, None], a[None, None], is_causal=True, scale=0.3),
    "masked attention": lambda a, b: F.scaled_dot_product_attention(a[None, None], a[None, None], a[None, None], attn_mask=a @ a.t() > 0),
}


@pytest.mark.parametrize("name", MATMUL)
def test_matmul(name: str) -> None:
    check(MATMUL[name], numbers(3, 4), numbers(4, 5, seed=1))


MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv1d": (nn.Conv1d(4, 6, 3, padding="same", dilation=2), (2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), groups=2, bias=False), (2, 4, 9, 9)),
    "asymmetric same": (nn.Conv2d(4, 6, (2, 3), padding="same"), (1, 4, 5, 5)),
    "valid": (nn.Conv2d(4, 6, 3, padding="valid"), (1, 4, 5, 5)),
    "one image": (nn.Conv2d(4, 6, 3), (4, 5, 5)),
    "conv3d": (nn.Conv3d(2, 3, 3), (1, 2, 4, 4, 4)),
    "reflect": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (1, 4, 5, 5)),
    "conv_transpose2d": (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2), (1, 4, 5, 5)),
    "conv_transpose1d": (nn.ConvTranspose1d(4, 6, 3), (4, 5)),
    "max_pool2d": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (1, 2, 8, 8)),
    "max_pool1d": (nn.MaxPool1d(2), (2, 8)),
    "avg_pool2d": (nn.AvgPool2d(3, 2, 1, count_include_pad=False, divisor_override=5), (1, 2, 8, 8)),
    "avg_pool3d": (nn.AvgPool3d(2), (1, 2, 4, 4, 4)),
    "adaptive": (nn.Sequential(nn.AdaptiveAvgPool2d((3, None)), nn.AdaptiveMaxPool2d(2)), (1, 2, 8, 7)),
    "adaptive 1d": (nn.AdaptiveAvgPool1d(3), (1, 2, 8)),
    "batch_norm": (nn.BatchNorm2d(3, affine=False), (2, 3, 4, 4)),
    "instance_norm": (nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (2, 3, 4, 4)),
    "layer_norm": (nn.LayerNorm([3, 4], bias=False), (2, 3, 4)),
    "group_norm": (nn.GroupNorm(2, 4), (2, 4, 5)),
    "rms_norm": (nn.RMSNorm(4, eps=1e-5), (2, 4)),
    "weight_norm": (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (2, 4)),
    "dropouts": (nn.Sequential(nn.Dropout(0.1, inplace=True), nn.AlphaDropout(0.1), nn.Dropout2d(0.2)), (2, 3, 4, 4)),
    "upsample": (nn.Sequential(nn.Upsample(scale_factor=1.5, mode="bilinear"), nn.Upsample(size=(9, 5))), (1, 2, 6, 6)),
    "upsample corners": (nn.Upsample(scale_factor=(2, 1.5), mode="bicubic", align_corners=True), (1, 2, 6, 6)),
    "upsample 1d and exact": (nn.Sequential(nn.Upsample(scale_factor=2, mode="linear"), nn.Upsample(12, mode="nearest-exact")), (1, 2, 4)),
    "trilinear": (nn.Upsample(scale_factor=2, mode="trilinear", recompute_scale_factor=True), (1, 2, 3, 3, 3)),
    "unfold": (nn.Sequential(nn.Unfold(2, padding=1), nn.Fold(7, 2, dilation=1, padding=0)), (1, 2, 5, 5)),
    "lstm": (nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True), (2, 5, 3)),
    "gru": (nn.GRU(3, 4, bias=False), (5, 2, 3)),
    "rnn": (nn.RNN(3, 4, nonlinearity="relu"), (5, 2, 3)),
    "attention": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
}


@pytest.mark.parametrize("name", MODULES)
def test_module(name: str) -> None:
    module, shape = MODULES[name]
    torch.manual_seed(0)
    graph = capture_checked(module, (numbers(*shape),))
    assert opaque_ops(graph) == set()


def test_grid_sample() -> None:
    for mode in ("bilinear", "nearest", "bicubic"):
        check(
            lambda x, g, mode=mode: F.grid_sample(x, g, mode=mode, padding_mode="border", align_corners=True),
            numbers(1, 2, 4, 4),
            numbers(1, 3, 3, 2).tanh(),
        )
