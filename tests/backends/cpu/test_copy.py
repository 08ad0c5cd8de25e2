"""Copies between layouts, fills, and halos, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy
import pytest
import torch
from numpy.typing import NDArray

from graphopt.backends.cpu.kernels.copy import Copies, Copy, Fill, halo_code
from graphopt.backends.cpu.kernels.pieces import concat, flip, pad, roll, select_scatter, slice_scatter, tile
from graphopt.backends.cpu.storage import Storage, blocked, channels_last, plain
from graphopt.ir.types import DType
from tests.backends.cpu.support import build_kernels, memory_of, value_of

F32 = DType.f32
Array = NDArray[numpy.generic]

_LAYOUTS: dict[str, Callable[[str, DType, tuple[int, ...]], Storage]] = {
    "plain": plain,
    "plain_halo": lambda name, dtype, shape: plain(name, dtype, shape, (2, 3)),
    "blocked": blocked,
    "blocked_halo": lambda name, dtype, shape: blocked(name, dtype, shape, (1, 2)),
    "channels_last": channels_last,
    "channels_last_halo": lambda name, dtype, shape: channels_last(name, dtype, shape, (1, 1)),
}
_SHAPES = [(2, 58, 5, 7), (1, 3, 9, 11)]


def _through(view: Storage | None) -> Storage:
    assert view is not None
    return view


def _numbers(shape: tuple[int, ...], dtype: DType) -> Array:
    count = int(numpy.prod(shape))
    return (numpy.arange(count) % 251 if dtype.bytes == 1 else numpy.arange(count)).reshape(shape).astype(dtype.torch_name)


def _check(cases: list[tuple[Storage, Storage]], isa: str = "avx512") -> None:
    built = build_kernels([Copy(x, y) for x, y in cases], [x for x, _ in cases], [y for _, y in cases], isa=isa)
    values = {x.buffer: _numbers(x.shape, x.dtype) for x, _ in cases}
    memories = {x.buffer: memory_of(values[x.buffer], x) for x, _ in cases}
    first: dict[str, Array] | None = None
    for threads in (1, 2, 3):
        found = built.run(memories, threads, fill=7)
        for x, y in cases:
            assert numpy.array_equal(value_of(found[y.buffer], y), values[x.buffer]), f"{x.text} to {y.text}, {threads} threads"
        first = first or found


@pytest.mark.parametrize("isa", ["avx512", "generic"])
def test_layouts_of_images(isa: str) -> None:
    cases: list[tuple[Storage, Storage]] = []
    for shape in ((2, 17, 1, 1), (1, 64, 8, 16)):
        number = len(cases)
        cases.append((plain(f"x{number}", F32, shape), blocked(f"y{number}", F32, shape)))
        cases.append((blocked(f"x{number + 1}", F32, shape), plain(f"y{number + 1}", F32, shape)))
    for shape in _SHAPES if isa == "avx512" else _SHAPES[:1]:
        for source in _LAYOUTS:
            for target in _LAYOUTS:
                if isa != "avx512" and "halo" in source + target:
                    continue
                number = len(cases)
                cases.append((_LAYOUTS[source](f"x{number}", F32, shape), _LAYOUTS[target](f"y{number}", F32, shape)))
    _check(cases, isa)


def test_permutes_of_every_size_of_element() -> None:
    cases: list[tuple[Storage, Storage]] = []
    for dtype in (F32, DType.f64, DType.i64, DType.i32, DType.i16, DType.u8, DType.boolean):
        for shape, axes in [
            ((2, 5, 3, 8), (0, 2, 1, 3)),
            ((2, 20, 33), (0, 2, 1)),
            ((7, 6), (1, 0)),
            ((1, 2, 3, 4, 5, 6), (5, 3, 1, 0, 2, 4)),
        ]:
            number = len(cases)
            x = plain(f"x{number}", dtype, shape).permute(axes)
            cases.append((x, plain(f"y{number}", dtype, x.shape)))
    for ways, runs in ((2, 58), (2, 5), (3, 40), (4, 16)):  # shuffles of channels
        number = len(cases)
        x = _through(plain(f"x{number}", F32, (2, 3, ways * runs)).reshape((2, 3, ways, runs))).permute((0, 1, 3, 2))
        cases.append((x, plain(f"y{number}", F32, x.shape)))
    x = plain("x_scalar", F32, ())
    cases.append((x, plain("y_scalar", F32, ())))
    _check(cases)


def test_views_of_a_source() -> None:
    x = plain("x", F32, (2, 6, 5))
    reverse = replace(x, strides=(30, -5, 1), offset=25)
    shuffled = _through(_through(x.reshape((2, 2, 3, 5))).permute((0, 2, 1, 3)).select(0, 1))
    row = _through(x.slice(1, 2, 3))
    sources = [
        reverse,
        shuffled,
        _through(row.expand((2, 4, 5))),
        _through(_through(x.slice(2, 1, 5, 2)).select(0, 0)),
        _through(_through(x.slice(2, 3, 4)).expand((2, 6, 40))),
    ]
    targets = [plain(f"y{number}", F32, source.shape) for number, source in enumerate(sources)]
    built = build_kernels([Copy(a, b) for a, b in zip(sources, targets, strict=True)], [x], targets)
    value = _numbers(x.shape, F32)
    found = built.run({"x": memory_of(value, x)}, 2)
    expected = [
        value[:, ::-1],
        value.reshape(2, 2, 3, 5).transpose(0, 2, 1, 3)[1],
        numpy.broadcast_to(value[:, 2:3], (2, 4, 5)),
        value[0, :, 1:5:2],
        numpy.broadcast_to(value[:, :, 3:4], (2, 6, 40)),
    ]
    for target, want in zip(targets, expected, strict=True):
        assert numpy.array_equal(value_of(found[target.buffer], target), want)


def test_parts_of_a_tensor() -> None:
    a, b = blocked("a", F32, (1, 32, 3, 5)), channels_last("b", F32, (1, 20, 3, 5))
    whole = blocked("whole", F32, (1, 60, 3, 5), (1, 1))
    c = _through(whole.slice(1, 48, 60))
    # 20 channels end inside a group, which `slice` can't begin at: the fill starts at the group behind
    step = Copies("concat", ((a, _through(whole.slice(1, 0, 32))), (b, _through(whole.slice(1, 32, 52)))), ())
    built = build_kernels([Fill(c, -1.5), step], [a, b], [whole])
    values = _numbers(a.shape, F32), _numbers(b.shape, F32)
    found = value_of(built.run({"a": memory_of(values[0], a), "b": memory_of(values[1], b)}, 2)["whole"], whole)
    assert numpy.array_equal(found[:, :52], numpy.concatenate(values, axis=1))
    assert (found[:, 52:] == -1.5).all()


def test_long_copies_are_shared_by_workers() -> None:
    cases = [
        (plain("x0", F32, (100_001,)), plain("y0", F32, (100_001,))),
        (plain("x1", DType.i64, (70_000, 2)).permute((1, 0)), plain("y1", DType.i64, (2, 70_000))),
        (plain("x2", F32, (1, 16, 100, 100)), blocked("y2", F32, (1, 16, 100, 100))),
    ]
    _check(cases)


@pytest.mark.parametrize(
    "storage",
    [
        plain("b", F32, (2, 3, 5, 6), (2, 1)),
        plain("b", DType.i64, (2, 3, 4, 5, 6), (1, 1)),
        blocked("b", F32, (2, 40, 4, 5), (1, 2)),
        channels_last("b", F32, (2, 7, 4, 5), (3, 1)),
        plain("b", F32, (2, 3, 9), (0, 4)),
    ],
    ids=str,
)
def test_code_of_halos_names_every_plane(storage: Storage) -> None:
    code = halo_code(storage, "pointer")
    assert "zero_halo<" in code
    assert f"{storage.shape[-2]}, {storage.shape[-1]}, {storage.halo[0]}, {storage.halo[1]}" in code


def test_halos_become_zero() -> None:
    """A buffer between two copies is zeroed around the image; reading the image with its border shows it."""
    inputs: list[Storage] = []
    outputs: list[Storage] = []
    arena: list[Storage] = []
    kernels: list[Copy] = []
    for number, layout in enumerate(("plain_halo", "blocked_halo", "channels_last_halo")):
        for shape in ((2, 5, 3, 4), (1, 32, 2, 2)):
            x = plain(f"x{number}{shape[1]}", F32, shape)
            between = _LAYOUTS[layout](f"b{number}{shape[1]}", F32, shape)
            h, w = between.halo
            bordered = replace(
                between,
                shape=(*shape[:2], shape[2] + 2 * h, shape[3] + 2 * w),
                offset=between.offset - h * between.strides[2] - w * between.strides[3],
                halo=(0, 0),
            )
            y = plain(f"y{number}{shape[1]}", F32, bordered.shape)
            inputs.append(x)
            arena.append(between)
            outputs.append(y)
            kernels += [Copy(x, between), Copy(bordered, y)]
    built = build_kernels(kernels, inputs, outputs, arena=arena)
    values = {x.buffer: _numbers(x.shape, F32) for x in inputs}
    for threads in (1, 2):
        found = built.run({x.buffer: memory_of(values[x.buffer], x) for x in inputs}, threads)
        for x, between, y in zip(inputs, arena, outputs, strict=True):
            h, w = between.halo
            assert numpy.array_equal(value_of(found[y.buffer], y), numpy.pad(values[x.buffer], ((0, 0), (0, 0), (h, h), (w, w)))), (
                between.text
            )


def test_pads_of_every_mode() -> None:
    steps: list[tuple[Copies | None, Storage, Storage]] = []
    wants: list[Array] = []
    shape = (2, 20, 5, 6)
    value = _numbers(shape, F32)
    tensor = torch.from_numpy(value.astype(numpy.float32))
    for layout in ("plain", "blocked", "channels_last_halo"):
        for mode in ("constant", "reflect", "replicate", "circular"):
            number = len(steps)
            pads = ((0, 0), (0, 0), (2, 1), (3, 4))
            x, y = _LAYOUTS[layout](f"x{number}", F32, shape), _LAYOUTS[layout](f"y{number}", F32, (2, 20, 8, 13))
            steps.append((pad(x, y, pads, mode, 2.5), x, y))
            wants.append(torch.nn.functional.pad(tensor, (3, 4, 2, 1), mode=mode, value=2.5 if mode == "constant" else None).numpy())
    x, y = plain("xn", F32, shape), plain("yn", F32, (3, 22, 4, 5))
    steps.append((pad(x, y, ((1, 0), (2, 0), (-1, 0), (1, -2)), "constant", -1), x, y))
    wants.append(torch.nn.functional.pad(tensor, (1, -2, -1, 0, 2, 0, 1, 0), value=-1).numpy())
    _check_pieces(steps, value, wants)


def _check_pieces(steps: list[tuple[Copies | None, Storage, Storage]], value: Array, wants: list[Array]) -> None:
    kernels = [step for step, _, _ in steps if step is not None]
    assert len(kernels) == len(steps)
    built = build_kernels(kernels, [x for _, x, _ in steps], [y for _, _, y in steps])
    for threads in (1, 2):
        found = built.run({x.buffer: memory_of(value, x) for _, x, _ in steps}, threads, fill=9)
        for (step, x, y), want in zip(steps, wants, strict=True):
            assert numpy.array_equal(value_of(found[y.buffer], y), want), f"{step} of {x.text}"


def test_rolls_flips_tiles_and_scatters_of_slices() -> None:
    shape = (2, 20, 5, 6)
    value = _numbers(shape, F32)
    tensor = torch.from_numpy(value.astype(numpy.float32))
    steps: list[tuple[Copies | None, Storage, Storage]] = []
    wants: list[Array] = []

    def case(make: Callable[[Storage, Storage], Copies | None], want: torch.Tensor, layout: str = "plain") -> None:
        number = len(steps)
        x, y = (
            _LAYOUTS[layout](f"x{number}", F32, shape),
            _LAYOUTS[layout if want.ndim == 4 else "plain"](f"y{number}", F32, tuple(want.shape)),
        )
        steps.append((make(x, y), x, y))
        wants.append(want.numpy())

    for layout in ("plain", "blocked_halo", "channels_last"):
        case(lambda x, y: roll(x, y, (2, -1), (2, 3)), tensor.roll((2, -1), (2, 3)), layout)
        case(lambda x, y: flip(x, y, (0, 3)), tensor.flip((0, 3)), layout)
        case(lambda x, y: tile(x, y, (1, 1, 2, 3)), tensor.tile((1, 1, 2, 3)), layout)
    case(lambda x, y: roll(x, y, (7,), (1,)), tensor.roll(7, 1), "channels_last")
    case(lambda x, y: tile(x, y, (2, 1, 3, 1, 1)), tensor.tile((2, 1, 3, 1, 1)))
    case(lambda x, y: concat((x, x), y, 1), torch.cat((tensor, tensor), 1), "channels_last")
    case(
        lambda x, y: slice_scatter(x, _through(x.slice(3, 0, 2)), y, 3, 1, 6, 3),
        tensor.slice_scatter(tensor[..., 0:2], 3, 1, 6, 3),
        "blocked",
    )
    case(lambda x, y: slice_scatter(x, _through(x.slice(2, 0, 2)), y, 2, 3, 5), tensor.slice_scatter(tensor[:, :, 0:2], 2, 3, 5))
    case(lambda x, y: select_scatter(x, _through(x.select(1, 0)), y, 1, -1), tensor.select_scatter(tensor[:, 0], 1, -1))
    _check_pieces(steps, value, wants)


def test_cuts_inside_a_group_of_channels_are_refused() -> None:
    x, y = blocked("x", F32, (1, 20, 2, 2)), blocked("y", F32, (1, 20, 2, 2))
    assert roll(x, y, (1,), (1,)) is None
    assert flip(x, y, (1,)) is None
    assert concat((x, x), blocked("z", F32, (1, 40, 2, 2)), 1) is None
    assert pad(x, blocked("z", F32, (1, 23, 2, 2)), ((0, 0), (3, 0), (0, 0), (0, 0))) is None
