"""Type rules on symbolic dimensions: infer with symbols, put sizes in, compare with the rule on sizes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from graphopt import ops
from graphopt.errors import TypeInferenceError
from graphopt.ir.attributes import Attribute
from graphopt.ir.dims import Dim, evaluate_dim, symbol
from graphopt.ir.types import DType, TensorType
from tests.ops.random_calls import DRAW, draw

CALLS = 60

SIZES = {f"s{size}": size for size in range(2, 3000)}
"""One symbol for each size, so that equal sizes stay equal."""

SHAPED = frozenset({"shape", "normalized_shape", "size", "output_size"})
"""Attributes that hold sizes: they become symbolic with the operands."""


def to_symbol(size: Dim) -> Dim:
    """0 and 1 stay: they mean something of their own."""
    return symbol(f"s{size}") if isinstance(size, int) and size > 1 else size


def symbolic(operand: Any) -> Any:
    return operand.with_shape(tuple(to_symbol(dim) for dim in operand.shape)) if isinstance(operand, TensorType) else operand


def symbolic_attributes(op: str, attrs: dict[str, Any]) -> dict[str, Attribute]:
    if op in ops.RECURRENT | {"col2im"}:
        return attrs
    return {name: tuple(to_symbol(dim) for dim in value) if name in SHAPED else value for name, value in attrs.items()}


def evaluated(found: TensorType) -> TensorType:
    return found.with_shape(tuple(evaluate_dim(dim, SIZES) for dim in found.shape))


@pytest.mark.parametrize("op", sorted(DRAW))
def test_symbols_give_the_same_sizes(op: str) -> None:
    compared = 0
    for seed in range(CALLS):
        operands, attrs = draw(op, seed)
        call = ops.Call(op, tuple(operands), attrs)
        try:
            expected = ops.infer_call(call)
        except TypeInferenceError:
            continue
        partly = random.Random(seed).random() < 0.5 and op not in _NEED_EQUAL
        chosen = [symbolic(operand) if not (partly and index) else operand for index, operand in enumerate(operands)]
        abstract = ops.Call(op, tuple(chosen), symbolic_attributes(op, attrs))
        found = ops.infer_call(abstract)
        shown = f"{op}({', '.join(map(str, abstract.operands))}) {abstract.attrs}: {found}, expected {expected}"
        assert tuple(evaluated(result) for result in found) == expected, shown
        compared += 1
        if op not in ops.ADAPTIVE_POOLS:  # their windows have no closed form
            flops, counted = ops.definition(op).flops(call, expected), ops.definition(op).flops(abstract, found)
            assert evaluate_dim(counted, SIZES) == flops, shown
    assert compared >= CALLS // 5


_NEED_EQUAL = (
    ops.BINARY
    | {"where", "matmul", "concat", "index", "index_put", "scaled_dot_product_attention", "einsum", "gather", "scatter", "expand"}
    | {"grid_sample"}
)
"""Ops that broadcast: there a symbol never matches a size other than 1."""


BATCH = symbol("batch")
HEIGHT = symbol("height")


def infer(op: str, *operands: Any, **attrs: Any) -> tuple[TensorType, ...]:
    return ops.infer_call(ops.Call(op, operands, attrs))


def f32(*shape: Dim) -> TensorType:
    return TensorType(DType.f32, shape)


def test_dimensions_print_short() -> None:
    window = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    (conv,) = infer("conv2d", f32(BATCH, 3, HEIGHT, 224), f32(64, 3, 3, 3), None, **window)
    assert conv.text == "f32[batch,64,(height + 1)//2,112]"
    (again,) = infer("conv2d", conv, f32(8, 64, 3, 3), None, **window)
    assert again.text == "f32[batch,8,(height + 3)//4,56]"
    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)}
    assert infer("max_pool2d", f32(BATCH, 3, 2 * HEIGHT, 8), **pool, ceil_mode=False)[0].text == "f32[batch,3,height,4]"
    assert infer("max_pool2d", f32(BATCH, 3, HEIGHT, 8), **pool, ceil_mode=True)[0].text == "f32[batch,3,(height + 1)//2,4]"
    assert infer("concat", f32(BATCH, 2), f32(BATCH, HEIGHT), axis=1)[0].text == "f32[batch,height + 2]"
    assert infer("slice", f32(BATCH, HEIGHT), axis=1, start=1, stop=HEIGHT, step=2)[0].text == "f32[batch,height//2]"
    assert infer("reshape", f32(BATCH, 4, 4), shape=(4 * BATCH, 4))[0].text == "f32[4*batch,4]"
    assert infer("arange", start=0, stop=HEIGHT, step=1, dtype=DType.i64)[0].text == "i64[height]"


@pytest.mark.parametrize("size", range(1, 40))
def test_ceil_mode_with_symbols(size: int) -> None:
    """Every window, stride, padding and dilation up to 4 on an axis of this size, symbol against integer."""
    for kernel in range(1, 5):
        for stride in range(1, 5):
            for padding in range(kernel // 2 + 1):
                for dilation in range(1, 4):
                    attrs = {"kernel": (kernel,), "stride": (stride,), "padding": (padding,), "dilation": (dilation,), "ceil_mode": True}
                    try:
                        (expected,) = infer("max_pool1d", f32(1, 1, size), **attrs)
                    except TypeInferenceError:
                        continue
                    (found,) = infer("max_pool1d", f32(1, 1, HEIGHT), **attrs)
                    assert evaluate_dim(found.shape[-1], {"height": size}) == expected.shape[-1], (size, attrs, found.text)
