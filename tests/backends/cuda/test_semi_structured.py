"""Weights with two of four: packed for sparse tensor cores, and back."""

from __future__ import annotations

import pytest
import torch

from graphopt.backends.cuda.device import has_device
from graphopt.backends.cuda.library import linear_2_4
from graphopt.backends.cuda.semi_structured import is_two_of_four, multiplies_2_4, pack, unpack


def two_of_four(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Random weights of which two in four, or fewer, stay."""
    weight = torch.randn(rows, columns // 4, 4)
    weight.scatter_(-1, torch.rand_like(weight).argsort(-1)[..., :2], 0.0)
    weight[torch.rand(rows, columns // 4) < 0.3] = 0.0
    return weight.reshape(rows, columns).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_packed_is_found_again(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = two_of_four(64, 192, dtype)
    assert is_two_of_four(weight)
    parts = pack(weight)
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in parts.items()} == {
        "values": (dtype, (64, 96)),
        "metadata": (torch.int16, (64, 12)),
    }
    assert torch.equal(unpack(**parts), weight)


def test_three_of_four_are_noticed() -> None:
    weight = torch.zeros(32, 64)
    weight[5, 8:11] = 1.0
    assert not is_two_of_four(weight)


@pytest.mark.parametrize("bias", [True, False])
def test_the_product_is_the_dense_one(bias: bool) -> None:
    torch.manual_seed(1)
    weight, x = two_of_four(32, 64, torch.float16), torch.randn(2, 5, 64).half()
    vector = torch.randn(32).half() if bias else None
    parts = pack(weight)
    assert torch.equal(linear_2_4(x, parts["values"], parts["metadata"], vector), torch.nn.functional.linear(x, weight, vector))


@pytest.mark.cuda
@pytest.mark.skipif(not has_device() or not multiplies_2_4("cuda"), reason="needs a GPU of compute capability 8.x")
@pytest.mark.parametrize("rows", [1, 7, 16, 130])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sparse_tensor_cores_compute_it(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    weight, x, bias = two_of_four(96, 128, dtype), torch.randn(rows, 128).to(dtype), torch.randn(96).to(dtype)
    parts = {name: tensor.cuda() for name, tensor in pack(weight).items()}
    for vector in (bias, None):
        made = linear_2_4(x.cuda(), parts["values"], parts["metadata"], None if vector is None else vector.cuda()).cpu()
        wanted = torch.nn.functional.linear(x.double(), weight.double(), None if vector is None else vector.double())
        assert made.shape == wanted.shape
        assert float((made.double() - wanted).abs().max()) < 0.02 * float(wanted.abs().max())
