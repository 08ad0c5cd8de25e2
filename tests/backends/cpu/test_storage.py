"""Storages and their views against numpy's on the same memory."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.backends.cpu.storage import Storage, blocked, channels_last, plain
from graphopt.errors import BackendError
from graphopt.ir.types import DType
from tests.backends.cpu.support import memory_of, value_of

shapes4 = st.tuples(st.integers(1, 3), st.integers(1, 35), st.integers(1, 4), st.integers(1, 4))


@st.composite
def storages(draw: st.DrawFn) -> Storage:
    """Any layout that the planner makes."""
    shape = draw(shapes4)
    halo = draw(st.sampled_from([(0, 0), (1, 1), (0, 2), (3, 1)]))
    make = draw(st.sampled_from([plain, blocked, channels_last]))
    return make("b0", DType.f32, shape, halo)


def _numbers(shape: tuple[int, ...]) -> numpy.ndarray:
    return numpy.arange(numpy.prod(shape), dtype=numpy.float32).reshape(shape) + 1


@given(storages())
def test_a_value_is_read_back(storage: Storage) -> None:
    array = _numbers(storage.shape)
    memory = memory_of(array, storage)
    assert memory.size == storage.extent
    assert numpy.array_equal(value_of(memory, storage), array)
    assert numpy.count_nonzero(memory) == array.size, "elements overlap"


@given(storages(), st.data())
@settings(max_examples=300)
def test_views_show_what_numpy_shows(storage: Storage, data: st.DataObject) -> None:
    array = _numbers(storage.shape)
    memory = memory_of(array, storage)
    for _ in range(4):
        kind = data.draw(st.sampled_from(["permute", "slice", "select", "expand", "reshape"]))
        seen: Storage | None
        if kind == "permute":
            axes = data.draw(st.permutations(range(storage.rank)))
            seen, shown = storage.permute(axes), array.transpose(axes)
        elif kind == "slice" and storage.rank:
            axis = data.draw(st.integers(0, storage.rank - 1))
            start = data.draw(st.integers(0, storage.shape[axis] - 1))
            stop = data.draw(st.integers(start + 1, storage.shape[axis]))
            step = data.draw(st.integers(1, 3))
            index = [slice(None)] * storage.rank
            index[axis] = slice(start, stop, step)
            seen, shown = storage.slice(axis, start, stop, step), array[tuple(index)]
        elif kind == "select" and storage.rank > 1:
            axis = data.draw(st.integers(0, storage.rank - 1))
            place = data.draw(st.integers(0, storage.shape[axis] - 1))
            seen, shown = storage.select(axis, place), array.take(place, axis)
        elif kind == "expand":
            wanted = tuple(data.draw(st.sampled_from([1, 3])) if size == 1 else size for size in storage.shape)
            seen, shown = storage.expand((2, *wanted)), numpy.broadcast_to(array, (2, *wanted))
        else:
            flat = int(numpy.prod(array.shape))
            first = data.draw(st.sampled_from([n for n in range(1, flat + 1) if flat % n == 0]))
            shape = data.draw(st.sampled_from([(flat,), (first, flat // first), (1, *array.shape, 1), (*array.shape[:-2], -1)]))
            shown = array.reshape(shape)
            seen = storage.reshape(shown.shape)
        if seen is None:
            return
        assert seen.shape == shown.shape
        assert numpy.array_equal(value_of(memory, seen), shown), f"{kind} of {storage} is {seen}"
        storage, array = seen, shown


def test_plain_tensors_can_be_reshaped_at_will() -> None:
    found = plain("b0", DType.f32, (2, 3, 4)).reshape((6, 2, 2))
    assert found is not None
    assert found.strides == (4, 2, 1)


def test_reshape_to_another_number_of_elements_is_an_error() -> None:
    with pytest.raises(BackendError, match=r"can't view \[2, 3\] as \[7\]: the numbers of elements differ"):
        plain("b0", DType.f32, (2, 3)).reshape((7,))


def test_a_blocked_image_can_lose_axes_of_one_pixel() -> None:
    found = blocked("b0", DType.f32, (1, 40, 1, 1)).reshape((1, 40))
    assert found is not None
    assert found.blocked_axis == 1
    assert blocked("b0", DType.f32, (1, 40, 2, 2)).reshape((1, 160)) is None


def test_channels_last_is_plain_tokens() -> None:
    image = channels_last("b0", DType.f32, (1, 48, 7, 7))
    tokens = image.reshape((1, 48, 49))
    assert tokens is not None
    assert tokens.permute((0, 2, 1)).is_plain


def test_text_tells_what_is_not_plain() -> None:
    assert str(blocked("b3", DType.f32, (1, 64, 56, 56), (1, 1))) == "b3+944 f32[1,64,56,56] blocked(1) halo 1x1"
    assert str(plain("b3", DType.i64, (4,))) == "b3 i64[4]"
