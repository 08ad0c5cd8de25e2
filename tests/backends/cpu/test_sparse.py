"""Sparse kernels against torch in float64: every candidate of every shape, layout and pattern."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import pytest
import torch
from torch.nn import functional

from graphopt.backends.cpu.frame import Frame, image_frame, rows_frame
from graphopt.backends.cpu.kernel import Kernel
from graphopt.backends.cpu.kernels.convolution import Convolution
from graphopt.backends.cpu.kernels.sparse import SparseProduct, flat_frame, join_groups, matrix_of, real_inputs
from graphopt.backends.cpu.kernels.sparse_candidates import make_columns, make_sparse, sparse_candidates, sparse_cost
from graphopt.backends.cpu.kernels.sparse_columns import SparseColumns
from graphopt.backends.cpu.planner.layouts import make_storage
from graphopt.backends.cpu.storage import Storage
from graphopt.ir.types import DType
from tests.backends.cpu.image_cases import ISAS, Cases, add_then_relu, hardswish
from tests.backends.cpu.support import run_kernels

Array = numpy.ndarray


def conv(kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1) -> Convolution:
    same = kernel // 2 * dilation
    return Convolution((kernel, kernel), (stride, stride), (same, same), (dilation, dilation), groups)


def pruned(cases: Cases, density: float, rows: int, *shape: int, columns: int = 1) -> tuple[str, torch.Tensor]:
    """A parameter with zeros in blocks of rows x columns, columns along all but the first axis."""
    name, _ = cases.state(*shape)
    flat = cases.states[name].reshape(shape[0], -1)
    blocks = cases.random.random((-(-flat.shape[0] // rows), -(-flat.shape[1] // columns))) < density
    flat *= numpy.repeat(numpy.repeat(blocks, rows, 0), columns, 1)[: flat.shape[0], : flat.shape[1]]
    return name, torch.from_numpy(cases.states[name]).double()


@dataclass(frozen=True)
class Shape:
    """x [n, channels, size] in a layout, a convolution to so many channels, and a pattern of rows x 1 blocks."""

    n: int
    channels: int
    outputs: int
    size: tuple[int, int]
    convolution: Convolution
    layout: str = "blocked"
    y_layout: str = "blocked"
    rows: int = 1
    density: float = 0.2


SHAPES = [
    Shape(1, 32, 64, (8, 8), conv(1)),
    Shape(2, 17, 33, (9, 7), conv(1)),
    Shape(1, 19, 40, (9, 7), conv(1), "last", "last"),
    Shape(2, 17, 33, (9, 7), conv(1), "plain", "plain"),
    Shape(2, 40, 24, (8, 6), conv(1), "plain", "plain"),
    Shape(1, 58, 17, (1, 1), conv(3), rows=2),
    Shape(1, 58, 17, (1, 1), conv(3), "plain", "plain", rows=2),
    Shape(1, 24, 32, (9, 9), conv(3)),
    Shape(2, 24, 40, (13, 11), conv(3, stride=2), "plain", "plain"),
    Shape(1, 20, 32, (13, 11), conv(3, stride=3), "plain", "blocked"),
    Shape(1, 24, 40, (13, 11), conv(3, stride=2), "last", "plain", rows=2),
    Shape(1, 64, 64, (14, 14), conv(3, dilation=2, groups=2), rows=4),
    Shape(1, 64, 64, (14, 14), conv(3, dilation=2, groups=4), "plain", "blocked", rows=4),
    Shape(1, 48, 48, (6, 5), conv(5, stride=3, groups=2), "blocked", "plain", rows=8),
    Shape(1, 36, 24, (7, 7), conv(3, groups=3), "last", "last"),
    Shape(1, 300, 100, (12, 12), conv(1)),
    Shape(1, 300, 100, (12, 12), conv(1), "plain", "plain"),
    Shape(1, 200, 60, (12, 12), conv(1, stride=2), rows=8),
    Shape(1, 33, 16, (20, 2), Convolution((3, 5), (2, 1), (1, 2), (1, 1))),
    Shape(1, 33, 16, (20, 2), Convolution((3, 5), (2, 1), (1, 2), (1, 1)), "plain", "plain"),
    Shape(2, 48, 72, (11, 15), conv(3), rows=16),
    Shape(1, 600, 40, (9, 16), conv(1), rows=16),
    Shape(1, 96, 96, (1, 9), conv(3, groups=3), "last", "last", rows=16),
    Shape(1, 40, 33, (5, 9), conv(1, stride=2), rows=16),
    Shape(1, 32, 32, (6, 6), conv(1), density=0.0),
    Shape(1, 40, 40, (6, 6), conv(3), density=1.0),
]


def operand(cases: Cases, shape: Shape, halo: bool = True) -> tuple[Storage, torch.Tensor]:
    """x with zeros around it where channels lie side by side; planes have none."""
    array = cases.array(shape.n, shape.channels, *shape.size)
    padding = shape.convolution.padding
    if shape.layout == "plain" and not halo:
        return cases.input(array, "plain")
    whole, _ = cases.input(numpy.pad(array, [(0, 0), (0, 0), *((size, size) for size in padding)]), shape.layout)
    offset = whole.offset + sum(size * stride for size, stride in zip(padding, whole.strides[2:], strict=True))
    inner = Storage(whole.buffer, whole.dtype, array.shape, whole.strides, offset, whole.blocked_axis, whole.block_stride, padding)
    return inner, torch.from_numpy(array).double()


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, c: Convolution) -> torch.Tensor:
    return functional.conv2d(x, weight, bias, c.stride, c.padding, c.dilation, c.groups)


@pytest.mark.parametrize("isa", ISAS)
def test_sparse_convolutions_agree_with_torch(isa: str) -> None:
    cases = Cases()
    for number, shape in enumerate(SHAPES):
        c = shape.convolution
        x, x_numbers = operand(cases, shape, halo=number % 2 == 0)
        weight, w = pruned(cases, shape.density, shape.rows, shape.outputs, shape.channels // c.groups, *c.kernel)
        bias, b = cases.state(shape.outputs) if number % 3 else (None, None)
        expected = reference(x_numbers, w, b, c)
        frame = image_frame()
        if c.is_pointwise and number % 4 and flat_frame(frame).strides(x):
            frame = flat_frame(frame)
        numbers = cases.states[weight]
        y = make_storage(shape.y_layout, "y", DType.f32, tuple(expected.shape))
        for index in range(len(sparse_candidates(x, y, weight, bias, c, frame, numbers))):
            y = cases.output(expected, shape.y_layout)
            cases.add(sparse_candidates(x, y, weight, bias, c, frame, numbers)[index])
            if isa != "avx512":
                break
    cases.check(isa)


def test_tilings_of_any_size() -> None:
    cases = Cases()
    x, x_numbers = cases.input(cases.array(2, 90, 7, 15), "plain")
    turned, _ = cases.input(x_numbers.float().numpy(), "blocked")
    weight, w = pruned(cases, 0.3, 4, 52, 90, 1, 1)
    expected = reference(x_numbers, w, None, conv(1))
    for rows, lists in ((1, 2), (1, 4), (2, 1), (2, 2), (4, 1), (8, 1), (8, 2)):
        for most, tile_bytes in ((1, 1024), (3, 9000), (7, 30000)):
            for source, layout in ((x, "plain"), (turned, "blocked")):
                y = cases.output(expected, layout)
                kernel = make_sparse(
                    source,
                    y,
                    weight,
                    None,
                    conv(1),
                    image_frame(),
                    cases.states[weight],
                    rows,
                    most=most,
                    tile_bytes=tile_bytes,
                    lists=lists,
                )
                cases.add(kernel)
    cases.check("avx512", threads=(1, 3, 7))


def test_tiles_may_have_pixels_of_several_images() -> None:
    """Small images, strides, channels that fill no vector, chains that read other images, any number of workers."""
    cases = Cases()
    for shape in (
        Shape(8, 48, 40, (4, 4), conv(3)),
        Shape(5, 33, 17, (5, 9), conv(3, stride=2), "last", "last", rows=2),
        Shape(3, 64, 64, (7, 7), conv(1), rows=4),
        Shape(4, 32, 32, (2, 17), conv(3, groups=2)),
        Shape(19, 20, 16, (3, 1), conv(3)),
        Shape(6, 40, 33, (1, 11), conv(1)),
    ):
        x, x_numbers = operand(cases, shape)
        c = shape.convolution
        weight, w = pruned(cases, 0.3, shape.rows, shape.outputs, shape.channels // c.groups, *c.kernel)
        bias, b = cases.state(shape.outputs)
        expected = reference(x_numbers, w, b, c)
        other, other_numbers = cases.input(cases.array(*expected.shape), shape.y_layout)
        for rows in (1, shape.rows):
            for chain, wanted in ((None, expected), (add_then_relu(other), (expected + other_numbers).relu())):
                y = cases.output(wanted, shape.y_layout)
                cases.add(make_sparse(x, y, weight, bias, c, image_frame(), cases.states[weight], rows, chain, joined=True))
    cases.check("avx512", threads=(1, 3, 7))
    cases.check("avx2")


def test_images_are_joined_where_they_fill_no_tile() -> None:
    numbers = (numpy.random.default_rng(0).random((64, 32, 1, 1)) < 0.2).astype(numpy.float32)
    for images, size, layout, joined in (
        (8, 4, "blocked", True),
        (2, 7, "blocked", True),
        (1, 7, "blocked", False),
        (8, 16, "blocked", False),
        (8, 4, "plain", False),
        (32, 1, "last", False),
        (32, 1, "blocked", True),
    ):
        x = make_storage(layout, "x", DType.f32, (images, 32, size, size))
        y = make_storage(layout, "y", DType.f32, (images, 64, size, size))
        found = sparse_candidates(x, y, "w", None, conv(1), image_frame(), numbers)
        assert any(isinstance(kernel, SparseProduct) and kernel.tiling.joined for kernel in found) == joined
        assert ("pixels of joined images, chunk 32" in found[0].describe()) == joined
        assert len(found) == len(set(found))


def test_rows_of_features() -> None:
    """Linear layers: tokens with features side by side, and features with tokens side by side."""
    cases = Cases()
    weight, w = pruned(cases, 0.2, 1, 40, 50)
    bias, b = cases.state(40)
    array = cases.array(2, 17, 50)
    expected = functional.linear(torch.from_numpy(array).double(), w, b)
    frame = rows_frame(3)
    tokens, _ = cases.input(array, "plain")
    features, _ = cases.input(numpy.ascontiguousarray(array.transpose(2, 0, 1)), "plain")
    y = cases.output(expected, "plain")
    cases.add(make_sparse(tokens, y, weight, bias, Convolution((1, 1)), frame, cases.states[weight]))
    y = cases.output(expected.permute(2, 0, 1), "plain").permute((1, 2, 0))
    kernel = make_sparse(features.permute((1, 2, 0)), y, weight, bias, Convolution((1, 1)), frame, cases.states[weight])
    assert kernel.x_planes
    assert kernel.y_planes
    cases.kernels.append(kernel)
    cases.names.append("features")
    y = cases.output(expected, "plain")
    cases.add(make_columns(tokens, y, weight, bias, Convolution((1, 1)), frame, cases.states[weight]))
    # not by `cases.check`: the result of the second kernel is a view of an output
    storages = list(cases.inputs)
    found = run_kernels(
        cases.kernels, {storage: cases.inputs[storage] for storage in storages}, list(cases.outputs), cases.states, threads=3
    )
    for values, (wanted, _) in zip(found, cases.outputs.values(), strict=True):
        numpy.testing.assert_allclose(numpy.asarray(values, numpy.float32), wanted.numpy(), atol=2e-6 * float(wanted.abs().max()))


def test_entries_that_do_not_stay_in_the_cache_are_asked_for() -> None:
    """Lines of entries per group of four lists: what the pattern has on average. Results are those of any other layer."""
    cases = Cases()
    weight, w = pruned(cases, 0.2, 1, 260, 256)
    small, _ = pruned(cases, 0.2, 1, 64, 256)
    x, x_numbers = cases.input(cases.array(1, 37, 256), "plain")
    y = cases.output(functional.linear(x_numbers, w), "plain")
    kernel = make_sparse(x, y, weight, None, Convolution((1, 1)), rows_frame(3), cases.states[weight])
    groups = kernel.chunks * 272 // 4
    assert kernel.lines_ahead == -(-24 * kernel.entries // (64 * groups)) > 0
    cases.add(kernel)
    other = make_storage("plain", "other", DType.f32, (1, 37, 64))
    assert make_sparse(x, other, small, None, Convolution((1, 1)), rows_frame(3), cases.states[small]).lines_ahead == 0
    cases.check("avx512", threads=(1, 2, 3))


def test_chains_ride_on_sparse() -> None:
    cases = Cases()
    c = conv(3)
    for layout, outputs in (("blocked", 40), ("last", 33), ("plain", 40)):
        shape = Shape(2, 24, outputs, (9, 17), c, layout, layout)
        x, x_numbers = operand(cases, shape)
        other, other_numbers = cases.input(cases.array(2, outputs, 9, 17), layout)
        for rows, make in ((1, make_sparse), (16, make_columns)):
            if make is make_columns and layout == "plain":
                continue
            weight, w = pruned(cases, 0.2, rows, outputs, 24, 3, 3)
            bias, b = cases.state(outputs)
            plain = reference(x_numbers, w, b, c)
            y = cases.output((plain + other_numbers).relu(), layout)
            cases.add(make(x, y, weight, bias, c, image_frame(), cases.states[weight], chain=add_then_relu(other)))
            y = cases.output(functional.hardswish(plain), layout, tolerance=4e-6)
            cases.add(make(x, y, weight, bias, c, image_frame(), cases.states[weight], chain=hardswish()))
    cases.check("avx512")
    cases.check("avx2")


@pytest.mark.parametrize("layout", ["blocked", "plain"])
def test_special_values_reach_what_has_weights(layout: str) -> None:
    """Where a weight is zero, the result is that of the other weights, or NaN as in torch."""
    cases = Cases()
    array = cases.array(1, 40, 10, 10)
    array[0, 3, 5, 6] = numpy.inf
    array[0, 9, 0, 0] = numpy.nan
    x, _ = cases.input(array, layout)
    weight, w = pruned(cases, 0.3, 1, 48, 40, 1, 1)
    y = cases.output(torch.zeros(1, 48, 10, 10), layout)
    kernel = make_sparse(x, y, weight, None, conv(1), image_frame(), cases.states[weight])
    found = run_kernels([kernel], {x: array}, [y], cases.states)[0]
    dense = reference(torch.from_numpy(array).double(), w, None, conv(1)).numpy()
    clean = numpy.where(numpy.isfinite(array), array, 0)
    skipped = reference(torch.from_numpy(clean).double(), w, None, conv(1)).numpy()
    for channel, row, column in ((3, 5, 6), (9, 0, 0)):
        weights = cases.states[weight][:, channel, 0, 0]
        numpy.testing.assert_array_equal(found[0, weights != 0, row, column], dense[0, weights != 0, row, column])
        others = found[0, weights == 0, row, column]
        near = numpy.abs(others - skipped[0, weights == 0, row, column]) < 1e-5
        assert (near | numpy.isnan(others)).all()
        assert near.sum() > 10
        dense[0, :, row, column] = found[0, :, row, column] = 0
    numpy.testing.assert_allclose(numpy.asarray(found, numpy.float32), dense, atol=1e-5)


def candidates_of(numbers: Array, layout: str = "blocked") -> list[Kernel]:
    x = make_storage(layout, "x", DType.f32, (1, numbers.shape[1], 14, 14))
    y = make_storage(layout, "y", DType.f32, (1, numbers.shape[0], 14, 14))
    return sparse_candidates(x, y, "w", None, conv(1), image_frame(), numbers)


def test_two_of_four_shared_by_outputs_is_a_block_pattern() -> None:
    random = numpy.random.default_rng(0)
    kept = numpy.argsort(random.random((16, 32, 4)), axis=2) < 2
    numbers = (numpy.repeat(kept.reshape(16, 128), 4, axis=0) + 0.0).astype(numpy.float32).reshape(64, 128, 1, 1)
    first = candidates_of(numbers)[0]
    assert isinstance(first, SparseProduct)
    assert first.tiling.rows == 4


def test_planes_are_read_in_place_where_vectors_fit() -> None:
    numbers = numpy.ones((64, 32, 1, 1), dtype=numpy.float32)
    for size, direct in ((28, True), (14, False)):
        x = make_storage("plain", "x", DType.f32, (1, 32, size, size))
        y = make_storage("plain", "y", DType.f32, (1, 64, size, size))
        found = sparse_candidates(x, y, "w", None, conv(1), image_frame(), numbers)
        assert any(isinstance(kernel, SparseProduct) and kernel.tiling.row for kernel in found) is direct


def test_cost_falls_with_density_and_blocks() -> None:
    costs = [sparse_cost(768, 768, 128, fill) for fill in (1.0, 0.5, 0.2, 0.1)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 1 > costs[1]
    assert sparse_cost(768, 768, 128, 0.5, 4) < costs[1]


def test_groups_join_to_whole_vectors() -> None:
    assert join_groups(4, 64, 128) == 4
    assert join_groups(8, 64, 128) == 4
    assert join_groups(3, 36, 36) == 1
    weight = numpy.arange(1, 9, dtype=numpy.float32).reshape(4, 2, 1, 1)
    whole = matrix_of(weight, 2, 1, planes=True)
    numpy.testing.assert_array_equal(whole, [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 5, 6], [0, 0, 7, 8]])


def test_padding_channels_are_no_inputs() -> None:
    assert real_inputs(3, 2, planes=True).all()
    lanes = real_inputs(18, 2, planes=False)
    assert lanes.sum() == 36
    assert lanes[:34].all()
    assert lanes[48:50].all()


def test_plan_text() -> None:
    numbers = numpy.zeros((64, 64, 1, 1), dtype=numpy.float32)
    numbers[::2] = 1
    x = make_storage("plain", "x", DType.f32, (1, 64, 56, 56))
    y = make_storage("plain", "y", DType.f32, (1, 64, 56, 56))
    kernel = make_sparse(x, y, "w", None, conv(1), image_frame(), numbers)
    assert kernel.describe() == "conv 1x1 64->64 @56x56 50% filled, planes to planes, rows 1x4, 64 pixels, chunk 64"
    assert kernel.flops == 2 * 64 * 64 * 56 * 56
    blocked = make_storage("blocked", "x", DType.f32, (1, 64, 56, 56))
    columns = make_columns(blocked, blocked.moved("y"), "w", None, conv(1), Frame((0,), 1, (), (2, 3)), numbers)
    assert isinstance(columns, SparseColumns)
    assert columns.describe() == "conv 1x1 64->64 @1x3136 50% filled, tile 1x14, chunk 64, block 16"
