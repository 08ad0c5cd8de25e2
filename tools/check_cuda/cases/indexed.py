"""Gathers, padding and concatenation."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812  # the usual name

from graphopt.backends.cuda.kernels.gather import Gather, Take
from graphopt.backends.cuda.kernels.layout import Concat, Pad
from tools.check_cuda.case import Case, make_case, reference
from tools.check_cuda.cases.numbers import draw, integers, with_holes

__all__ = ["indexed_cases"]


def indexed_cases() -> Iterator[Case]:
    """All of them."""
    yield from _takes()
    yield from _layouts()


def _takes() -> Iterator[Case]:
    for name, table in (("f32", draw(11, 9)), ("transposed", draw(9, 11).T), ("f16", draw(11, 9, dtype=torch.float16)),
                        ("bool", integers(0, 2, 11, 9, dtype=torch.bool)), ("i64", integers(-9, 9, 11, 9))):  # fmt: skip
        for kind in (torch.int64, torch.int32):
            rows = integers(0, 11, 3, 5, dtype=kind)
            want = reference("embedding", [table, rows], {"padding_idx": None})
            yield make_case("take", f"rows {name} {str(kind).removeprefix('torch.')}", {"x": table, "at": rows}, want,
                lambda s: Take(s["x"], s["at"], s["y"], 0))  # fmt: skip
        columns = integers(0, 9, 4)
        yield make_case("take", f"columns {name}", {"x": table, "at": columns}, reference("index_select", [table, columns], {"axis": 1}),
            lambda s: Take(s["x"], s["at"], s["y"], 1))  # fmt: skip
        index = integers(0, 11, 6, 9)
        yield make_case("gather", name, {"x": table, "at": index}, reference("gather", [table, index], {"axis": 0}),
            lambda s: Gather(s["x"], s["at"], s["y"], 0))  # fmt: skip
    table, none = draw(11, 9), torch.zeros(0, dtype=torch.int64)
    yield make_case("take", "no indices", {"x": table, "at": none}, torch.zeros(0, 9), lambda s: Take(s["x"], s["at"], s["y"], 0))
    for name, shape in (("no rows", (0, 9)), ("no columns", (6, 0))):
        index = torch.zeros(shape, dtype=torch.int64)
        yield make_case("gather", name, {"x": table, "at": index}, torch.zeros(shape), lambda s: Gather(s["x"], s["at"], s["y"], 0))
    holed, rows, index = with_holes(table), integers(0, 11, 3, 5), integers(0, 11, 6, 9)
    yield make_case("take", "with NaN", {"x": holed, "at": rows}, holed[rows], lambda s: Take(s["x"], s["at"], s["y"], 0))
    yield make_case("gather", "with NaN", {"x": holed, "at": index}, holed.gather(0, index), lambda s: Gather(s["x"], s["at"], s["y"], 0))
    outside = torch.tensor([-1, 2, 11, -12])
    want = torch.stack([table[10], table[2], *[torch.full((9,), math.nan)] * 2])
    yield make_case("take", "indices below 0 and outside", {"x": table, "at": outside}, want, lambda s: Take(s["x"], s["at"], s["y"], 0))


def _layouts() -> Iterator[Case]:
    for channels_last in (False, True):
        x, z = draw(2, 5, 7, 6, channels_last=channels_last), draw(2, 3, 7, 6, seed=1)
        layout = "NHWC" if channels_last else "NCHW"
        for pads, value in (
            (((0, 0), (0, 0), (1, 2), (3, 0)), 0.0),
            (((0, 0), (1, 0), (-1, 2), (0, -2)), -1.5),
            (((0, 0),) * 3 + ((1, 1),), -math.inf),
        ):
            want = reference("pad", [x], {"pads": pads, "mode": "constant", "value": value})
            yield make_case("pad", f"{pads} {value} {layout}", {"x": x}, want,
                lambda s, pads=pads, value=value: Pad(s["x"], s["y"], pads, value), channels_last=channels_last)  # fmt: skip
        yield make_case("concat", f"channels {layout}", {"x": x, "z": z}, reference("concat", [x, z, x], {"axis": 1}),
            lambda s: Concat((s["x"], s["z"], s["x"]), s["y"], 1), channels_last=channels_last)  # fmt: skip
    for dtype in (torch.float16, torch.bool, torch.int64):
        x = integers(0, 2, 4, 5).to(dtype)
        want = reference("pad", [x], {"pads": ((1, 0), (0, 2)), "mode": "constant", "value": 1})
        yield make_case("pad", str(dtype).removeprefix("torch."), {"x": x}, want, lambda s: Pad(s["x"], s["y"], ((1, 0), (0, 2)), 1))
        yield make_case("concat", str(dtype).removeprefix("torch."), {"x": x}, reference("concat", [x, x], {"axis": 0}),
            lambda s: Concat((s["x"], s["x"]), s["y"], 0))  # fmt: skip
    empty = torch.zeros(0, 5)
    for name, pads in (("no rows", ((0, 0), (1, 2))), ("no rows, then some", ((1, 2), (0, 1))), ("no columns left", ((1, 0), (-3, -2)))):
        x = draw(4, 5) if pads[1][0] < 0 else empty
        yield make_case("pad", name, {"x": x}, reference("pad", [x], {"pads": pads, "mode": "constant", "value": 2.0}),
            lambda s, pads=pads: Pad(s["x"], s["y"], pads, 2.0))  # fmt: skip
    holed = with_holes(draw(4, 5))
    yield make_case("pad", "with NaN", {"x": holed}, F.pad(holed, (2, 0, 1, 1), value=-1.0),
        lambda s: Pad(s["x"], s["y"], ((1, 1), (2, 0)), -1.0))  # fmt: skip
    x = draw(3, 5)
    yield make_case("concat", "with no rows", {"x": x, "z": empty}, x, lambda s: Concat((s["z"], s["x"]), s["y"], 0))
