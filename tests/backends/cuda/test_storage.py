"""Strided views: what they say of a tensor is what torch says."""

from __future__ import annotations

import pytest
import torch

from graphopt.backends.cuda.storage import Storage, channels_last, contiguous
from graphopt.backends.planning.strides import row_major
from graphopt.errors import BackendError
from graphopt.ir.types import DType
from tests.backends.cuda.running import storage_of


def same(storage: Storage | None, tensor: torch.Tensor) -> bool:
    """True when both name the same elements (strides of axes of size 1 say nothing)."""
    assert storage is not None
    strides = zip(storage.shape, storage.strides, tensor.stride(), strict=True)
    return (
        storage.shape == tuple(tensor.shape)
        and all(size == 1 or have == want for size, have, want in strides)
        and (tensor.numel() == 0 or storage.offset == tensor.storage_offset())
    )


def test_views_are_those_of_torch() -> None:
    x = torch.zeros(4, 6, 5, 8).to(memory_format=torch.channels_last)
    storage = storage_of("x", x)
    assert same(storage.permute((0, 2, 3, 1)), x.permute(0, 2, 3, 1))
    assert same(storage.slice(1, 1, 6, 2), x[:, 1:6:2])
    assert same(storage.select(2, 3), x[:, :, 3])
    assert same(storage.permute((0, 2, 3, 1)).reshape((4, 40, 6)), x.permute(0, 2, 3, 1).view(4, 40, 6))
    assert same(storage.slice(0, 2, 3).expand((4, 6, 5, 8)), x[2:3].expand(4, 6, 5, 8))
    assert storage.reshape((24, 40)) is None
    assert storage.is_channels_last
    assert storage.is_dense
    assert not storage.is_contiguous


@pytest.mark.parametrize("shape", [(0, 3), (1, 1, 1), (), (5,)])
def test_small_shapes(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    storage = contiguous("x", DType.f32, shape)
    assert same(storage, x)
    assert storage.is_contiguous
    assert storage.extent == x.numel()
    assert storage.strides == row_major(shape)


def test_text() -> None:
    assert channels_last("b3", DType.f16, (1, 64, 56, 56)).text == "b3 f16[1,64,56,56] channels last"
    assert contiguous("b3", DType.f32, (4, 6)).slice(1, 2, 4).text == "b3+2 f32[4,2] strides(6,1)"


def test_errors_name_both_shapes() -> None:
    storage = contiguous("b1", DType.f32, (4, 6))
    with pytest.raises(BackendError, match=r"b1 f32\[4,6\] does not broadcast to \[5, 6\]"):
        storage.expand((5, 6))
    with pytest.raises(BackendError, match=r"can't view \[4, 6\] as \[5, 5\]: the numbers of elements differ"):
        storage.reshape((5, 5))
