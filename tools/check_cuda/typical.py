"""Kernels at the sizes of real networks, whose use of registers and shared memory is worth knowing. They are compiled, never run."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.backends.cuda.chain import Chain, Constant, FromOperand, FromOperation, Operation, TheValue, unary
from graphopt.backends.cuda.kernel import Work
from graphopt.backends.cuda.kernels.block_sparse import BlockSparse
from graphopt.backends.cuda.kernels.depthwise import Depthwise
from graphopt.backends.cuda.kernels.elementwise import Elementwise
from graphopt.backends.cuda.kernels.gather import Gather, Take
from graphopt.backends.cuda.kernels.gemm import Gemm
from graphopt.backends.cuda.kernels.layout import Concat, Pad
from graphopt.backends.cuda.kernels.normalize import Normalize
from graphopt.backends.cuda.kernels.pool import AdaptivePool, Pool
from graphopt.backends.cuda.kernels.reduce import Reduce
from graphopt.backends.cuda.kernels.softmax import Softmax
from graphopt.backends.cuda.storage import Storage, channels_last, contiguous
from graphopt.ir.types import DType

__all__ = ["typical_kernels"]

_IMAGE = (32, 64, 56, 56)
_TOKENS = (4096, 768)


def typical_kernels() -> Iterator[tuple[str, str, Work]]:
    """(family, name, kernel); names are those of the network and the dtype."""
    for dtype in (DType.f32, DType.f16):
        for family, name, kernel in _of(dtype):
            yield family, f"{name} {dtype.text}", kernel
    f32 = DType.f32
    for name, op, result in (("argmax of logits", "argmax", DType.i64), ("variance", "var", f32), ("any", "any", DType.boolean)):
        yield "reduce", name, Reduce(op, contiguous("x", f32, (32, 1000)), contiguous("y", result, (32,)), (1,))
    a, weight, y = (contiguous(name, f32, shape) for name, shape in (("a", _TOKENS), ("w", (3072, 768)), ("y", (4096, 3072))))
    yield "gemm", "BERT MLP tf32", Gemm(a, weight.permute((1, 0)), y, precision="tf32")
    half = DType.bf16
    a, weight, y = (contiguous(name, half, shape) for name, shape in (("a", _TOKENS), ("w", (3072, 768)), ("y", (4096, 3072))))
    yield "gemm", "BERT MLP bf16", Gemm(a, weight.permute((1, 0)), y)


def _bias(dtype: DType, shape: tuple[int, ...], axis: int) -> Storage:
    """A vector along one axis."""
    return Storage("bias", dtype, shape, tuple(int(other == axis) for other in range(len(shape))))


def _of(dtype: DType) -> Iterator[tuple[str, str, Work]]:
    image, tokens = contiguous("x", dtype, _IMAGE), contiguous("x", dtype, _TOKENS)
    residual = Chain((Operation("add", (TheValue(), FromOperand(0))), Operation("relu", (FromOperation(0),))), (image.moved("z"),))
    yield "elementwise", "residual + relu", Elementwise(image, image.moved("y"), residual)
    yield "elementwise", "silu", Elementwise(image, image.moved("y"), unary(("silu",)))
    yield "elementwise", "NCHW to NHWC", Elementwise(image, channels_last("y", dtype, _IMAGE))
    yield "reduce", "mean of pixels NHWC", Reduce("mean", channels_last("x", dtype, _IMAGE), contiguous("y", dtype, (32, 64)), (2, 3))
    yield "reduce", "sum of rows", Reduce("sum", tokens, contiguous("y", dtype, (4096,)), (1,))
    yield "softmax", "BERT attention", Softmax(contiguous("x", dtype, (384, 128, 128)), contiguous("y", dtype, (384, 128, 128)), 2)
    yield "softmax", "vocabulary", Softmax(contiguous("x", dtype, (128, 30522)), contiguous("y", dtype, (128, 30522)), 1, True)
    scores = contiguous("x", dtype, (32, 12, 128, 128))
    mask = Storage("mask", dtype, scores.shape, (128, 0, 0, 1))
    masked = Chain((Operation("mul", (TheValue(), Constant(0.125))), Operation("add", (FromOperation(0), FromOperand(0)))), (mask,))
    yield "softmax", "scaled and masked attention", Softmax(scores, scores.moved("y"), 3, before=masked)
    scale = _bias(dtype, _TOKENS, 1)
    yield "normalize", "layer_norm BERT", Normalize("layer_norm", tokens, tokens.moved("y"), (1,), 1e-12, scale, scale.moved("shift"))
    groups = (32, 32, 2, 56, 56)
    seen = contiguous("x", dtype, groups)
    yield "normalize", "group_norm", Normalize("group_norm", seen, seen.moved("y"), (2, 3, 4), 1e-5)
    image_groups = channels_last("x", dtype, _IMAGE).reshape(groups)
    assert image_groups is not None, "one axis is split"
    affine = Storage("scale", dtype, groups, (0, 2, 1, 0, 0))
    yield (
        "normalize",
        "group_norm NHWC + silu",
        Normalize(
            "group_norm", image_groups, image_groups.moved("y"), (2, 3, 4), 1e-5, affine, affine.moved("shift"), chain=unary(("silu",))
        ),
    )
    stem = (32, 64, 112, 112)
    for name, make in (("NCHW", contiguous), ("NHWC", channels_last)):
        yield "pool", f"ResNet stem {name}", Pool("max", make("x", dtype, stem), make("y", dtype, _IMAGE), (3, 3), (2, 2), (1, 1))
        x, y = make("x", dtype, _IMAGE), make("y", dtype, _IMAGE)
        weight, ones = contiguous("w", dtype, (64, 1, 3, 3)), (1, 1)
        yield "depthwise", f"3x3 {name}", Depthwise(x, weight, contiguous("b", dtype, (64,)), y, ones, ones, ones, unary(("relu",)))
    yield "pool", "adaptive to 7x7", AdaptivePool("avg", image, contiguous("y", dtype, (32, 64, 7, 7)))
    table = contiguous("x", dtype, (30522, 768))
    yield "take", "BERT embedding", Take(table, contiguous("i", DType.i64, (32, 128)), contiguous("y", dtype, (32, 128, 768)), 0)
    index = contiguous("i", DType.i64, _TOKENS)
    yield "gather", "along tokens", Gather(tokens, index, tokens.moved("y"), 0)
    yield "pad", "border of 1", Pad(image, contiguous("y", dtype, (32, 64, 58, 58)), ((0, 0), (0, 0), (1, 1), (1, 1)))
    yield "concat", "DenseNet", Concat((image, image.moved("z")), contiguous("y", dtype, (32, 128, 56, 56)), 1)
    weight, y = contiguous("w", dtype, (3072, 768)), contiguous("y", dtype, (4096, 3072))
    gelu = Chain((Operation("gelu", (TheValue(),), attrs=(("approximate", "none"),)),))
    yield "gemm", "BERT MLP", Gemm(tokens, weight.permute((1, 0)), y, _bias(dtype, y.shape, 1), chain=gelu)
    gate = Chain((Operation("silu", (TheValue(),)), Operation("mul", (FromOperation(0), FromOperand(0)))), (tokens.moved("z"),))
    yield "gemm", "gated MLP", Gemm(tokens, weight.permute((1, 0)), y, before=gate)
    for block, entries, width in (((32, 32), 460, 32), ((16, 1), 29491, 1)):
        height = block[0]
        values, columns = contiguous("v", dtype, (entries, width, height)), contiguous("c", DType.i32, (entries,))
        rows = contiguous("r", DType.i32, (3072 // height + 1,))
        yield "block sparse", f"BERT MLP {block[0]}x{block[1]} 80%", BlockSparse(tokens, values, columns, rows, y, block)
