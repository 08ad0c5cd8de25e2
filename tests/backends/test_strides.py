"""The arithmetic of strides, beside torch's own views."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphopt.backends.arena import touched
from graphopt.backends.cuda.storage import contiguous
from graphopt.backends.planning.strides import row_major, split, stretches
from graphopt.errors import BackendError
from graphopt.ir.types import DType

SIZES = st.lists(st.integers(1, 4), max_size=4)


@given(st.lists(st.integers(0, 4), max_size=5))
def test_row_major_counts_as_torch_does(shape: list[int]) -> None:
    assert row_major(shape) == torch.empty(shape).stride()


def test_stretches_are_the_smallest_that_hold_the_same_elements() -> None:
    assert stretches((2, 3, 4), (6, 2, 2)) == [(range(2), range(1)), (range(2, 3), range(1, 3))]
    assert stretches((4, 3), (2, 6)) == [(range(2), range(2))]
    assert stretches((), (1, 1)) == [(range(0), range(1)), (range(0), range(1, 2))]


@given(SIZES, st.data())
def test_stretches_hold_equally_many_elements_and_cover_the_new_axes(new: list[int], data: st.DataObject) -> None:
    old = data.draw(st.permutations([size for size in new if size != 1] + [1]))
    found = stretches(old, new)
    assert [axis for _, into in found for axis in into] == list(range(len(new)))
    assert all(prod(old[axis] for axis in axes) == prod(new[axis] for axis in into) for axes, into in found)


@given(SIZES, SIZES, st.data())
def test_axes_split_where_torch_can_view_them(sizes: list[int], shape: list[int], data: st.DataObject) -> None:
    strides = data.draw(st.sampled_from([row_major(sizes), tuple(reversed(row_major(sizes[::-1]))), (1,) * len(sizes)]))
    shape = shape if prod(shape) == prod(sizes) else [prod(sizes)]
    found = split(sizes, strides, shape)
    elements = torch.arange(4**4)
    view = elements.as_strided(sizes, strides)
    if found is not None:
        assert torch.equal(elements.as_strided(shape, found), view.reshape(shape))
    else:
        with pytest.raises(RuntimeError, match="view size is not compatible"):
            view.view(prod(sizes))


def test_a_step_that_reads_what_nothing_wrote_is_named() -> None:
    a, b = contiguous("a", DType.f32, (2,)), contiguous("b", DType.f32, (2,))
    assert touched([((a,), (b,)), ((b,), (b,)), ((a,), ())], {"b"}) == ({"b": 0}, {"a": 2, "b": 1})
    with pytest.raises(BackendError, match=r"step 0 reads b f32\[2\], which no step before it has written"):
        touched([((b,), (a,))], {"a", "b"})
