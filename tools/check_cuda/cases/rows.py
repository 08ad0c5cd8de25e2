"""Reductions, softmax and norms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch

from graphopt.backends.cuda.chain import Chain, unary
from graphopt.backends.cuda.kernels.chain_code import NO_CHAIN
from graphopt.backends.cuda.kernels.normalize import Normalize
from graphopt.backends.cuda.kernels.reduce import Reduce
from graphopt.backends.cuda.kernels.softmax import Softmax
from graphopt.ir.attributes import Attribute
from tools.check_cuda.case import Case, Storages, make_case, reference
from tools.check_cuda.cases.numbers import draw, integers, with_holes

__all__ = ["row_cases"]

_HALVES = (torch.float16, torch.bfloat16)


def row_cases() -> Iterator[Case]:
    """All of them."""
    yield from _reductions()
    yield from _softmaxes()
    yield from _norms()
    yield from _group_norms()


def _reduce(name: str, op: str, x: torch.Tensor, axes: tuple[int, ...], parameter: float = 0.0, *, keepdims: bool = False) -> Case:
    attrs: dict[str, Attribute] = {"keepdims": keepdims}
    if op in ("argmax", "argmin"):
        attrs["axis"] = axes[0]
    else:
        attrs["axes"] = axes
    attrs |= {"correction": parameter} if op in ("var", "std") else {"ord": parameter} if op == "vector_norm" else {}
    want = reference(op, [x], attrs)
    return make_case("reduce", f"{op} {name}", {"x": x}, want, lambda s: Reduce(op, s["x"], s["y"], axes, parameter))


def _reductions() -> Iterator[Case]:
    x = draw(3, 9, 7, 5)
    ops: Mapping[str, float] = {"sum": 0, "mean": 0, "prod": 0, "amax": 0, "amin": 0, "var": 1, "std": 0, "logsumexp": 0}
    for op, parameter in ops.items():
        yield _reduce("last axes", op, x, (2, 3), parameter)
        yield _reduce("middle axis", op, x, (1,), parameter, keepdims=True)
        yield _reduce("NHWC", op, x.contiguous(memory_format=torch.channels_last), (2, 3), parameter)
        yield _reduce("with NaN", op, with_holes(draw(7, 19)), (1,), parameter)
        yield _reduce("everything", op, draw(5, 3), (0, 1), parameter)
        if op != "prod":
            yield _reduce("long row", op, draw(2, 9001), (1,), parameter)
    for op in ("argmax", "argmin"):
        for name, tensor in (("f32", draw(5, 37)), ("with NaN", with_holes(draw(7, 19))), ("ties", integers(0, 3, 5, 37).float())):
            yield _reduce(name, op, tensor, (1,))
        yield _reduce("i32 middle axis", op, integers(-9, 9, 3, 20, 4, dtype=torch.int32), (1,))
        yield _reduce("long row", op, draw(2, 9001), (1,))
    for op in ("any", "all"):
        yield _reduce("bool", op, integers(0, 4, 9, 5) != (0 if op == "all" else 1), (1,))
    for order in (0.0, 1.0, 2.0, math.inf, -math.inf):
        yield _reduce(f"of order {order}", "vector_norm", x, (1, 3), order)
    for op in ("sum", "prod"):
        yield _reduce("i32", op, integers(-3, 4, 5, 11, dtype=torch.int32), (1,))
        yield _reduce("bool", op, integers(0, 2, 5, 11, dtype=torch.bool), (1,))
    yield _reduce("u8", "amax", integers(0, 255, 5, 11, dtype=torch.uint8), (1,))
    yield _reduce("i64", "amin", integers(-(2**40), 2**40, 5, 11), (0,))
    for op in ("sum", "mean", "prod", "logsumexp"):
        yield _reduce("no elements", op, torch.zeros(3, 0), (1,))
        yield _reduce("no rows", op, torch.zeros(0, 3), (1,))
    for dtype in (*_HALVES, torch.float64):
        for op in ("sum", "mean", "amax"):
            yield _reduce(str(dtype).removeprefix("torch."), op, draw(5, 40, dtype=dtype), (1,))
    fused = draw(4, 33)
    want = fused.double().square().sum(1).sqrt().float()
    yield make_case("reduce", "square + sum + sqrt", {"x": fused}, want,
        lambda s: Reduce("sum", s["x"], s["y"], (1,), before=unary(("square",)), chain=unary(("sqrt",))))  # fmt: skip


def _softmaxes() -> Iterator[Case]:
    def case(name: str, x: torch.Tensor, axis: int, *, is_log: bool = False, channels_last: bool = False) -> Case:
        want = reference("log_softmax" if is_log else "softmax", [x], {"axis": axis})
        return make_case("softmax", name, {"x": x}, want, lambda s: Softmax(s["x"], s["y"], axis, is_log), channels_last=channels_last)

    for is_log in (False, True):
        log = "log " * is_log
        yield case(f"{log}last axis", draw(3, 5, 37) * 5, 2, is_log=is_log)
        yield case(f"{log}middle axis", draw(2, 21, 7, 5) * 5, 1, is_log=is_log)
        yield case(f"{log}NHWC", draw(2, 21, 7, 5, channels_last=True) * 5, 1, is_log=is_log, channels_last=True)
        yield case(f"{log}long row", draw(2, 9001), 1, is_log=is_log)
        yield case(f"{log}with NaN", with_holes(draw(7, 19)), 1, is_log=is_log)
        yield case(f"{log}one column", draw(5, 1), 1, is_log=is_log)
        yield case(f"{log}no rows", torch.zeros(0, 4), 1, is_log=is_log)
    masked = draw(6, 9)
    masked[:, 4:] = -math.inf
    yield case("masked", masked, 1)
    for dtype in (*_HALVES, torch.float64):
        yield case(str(dtype).removeprefix("torch."), draw(5, 40, dtype=dtype), 1)


def _group_norm(name: str, x: torch.Tensor, groups: int, *, channels_last: bool = False, chain: Chain = NO_CHAIN) -> Case:
    """sigmoid(group_norm) with weight and bias, x seen with its groups as an axis, as the planner sees it."""
    n, channels, height, width = x.shape
    weight, bias = draw(channels, dtype=x.dtype, seed=1), draw(channels, dtype=x.dtype, seed=2)
    want = reference("group_norm", [x, weight, bias], {"groups": groups, "eps": 1e-5})

    def make(storages: Storages) -> Normalize:
        wide = (n, groups, channels // groups, height, width)
        seen = {name: storages[name].reshape(wide) for name in ("x", "y")}
        x, y = seen["x"], seen["y"]
        assert x is not None, "one axis is split"
        assert y is not None, "one axis is split"
        columns = [storages[name].reshape((1, groups, channels // groups, 1, 1)) for name in ("weight", "bias")]
        scale, shift = (column.expand(wide) if column is not None else None for column in columns)
        return Normalize("group_norm", x, y, (2, 3, 4), 1e-5, scale, shift, chain=chain)

    tensors = {"x": x, "weight": weight, "bias": bias}
    title = f"group_norm {groups} groups {name}"
    wanted = want.double().sigmoid().to(want.dtype) if chain else want
    return make_case("normalize", title, tensors, wanted, make, channels_last=channels_last)


def _group_norms() -> Iterator[Case]:
    for channels_last in (False, True):
        layout = "NHWC" if channels_last else "NCHW"
        x = draw(2, 12, 5, 7, channels_last=channels_last)
        for groups in (3, 4, 12):
            yield _group_norm(layout, x, groups, channels_last=channels_last)
        yield _group_norm(f"{layout} + sigmoid", x, 4, channels_last=channels_last, chain=unary(("sigmoid",)))
        yield _group_norm(f"{layout} long", draw(1, 6, 40, 51, channels_last=channels_last), 1, channels_last=channels_last)
        holed = with_holes(draw(6, 30)).reshape(3, 4, 3, 5)  # a line for each group
        if channels_last:
            holed = holed.contiguous(memory_format=torch.channels_last)
        yield _group_norm(f"{layout} with NaN", holed, 2, channels_last=channels_last)
    for dtype in (*_HALVES, torch.float64):
        yield _group_norm(str(dtype).removeprefix("torch."), draw(2, 12, 5, 7, dtype=dtype), 4)
    yield _group_norm("no images", torch.zeros(0, 12, 5, 7), 4)


def _norms() -> Iterator[Case]:
    for name, x in (
        ("f32", draw(3, 5, 37)),
        ("large mean", draw(4, 100) + 1000),
        ("long row", draw(2, 9001) + 3),
        ("with NaN", with_holes(draw(7, 19))),
        ("no rows", torch.zeros(0, 4)),
        *((str(dtype).removeprefix("torch."), draw(5, 40, dtype=dtype)) for dtype in (*_HALVES, torch.float64)),
    ):
        size = x.shape[-1]
        weight, bias = draw(size, dtype=x.dtype, seed=1), draw(size, dtype=x.dtype, seed=2)
        axis = x.dim() - 1
        tensors = {"x": x, "weight": weight, "bias": bias}
        attrs: dict[str, Attribute] = {"normalized_shape": (size,), "eps": 1e-5}

        def layer_norm(storages: Storages, axis: int = axis) -> Normalize:
            shape = storages["x"].shape
            weight, bias = (storages[name].expand(shape) for name in ("weight", "bias"))
            return Normalize("layer_norm", storages["x"], storages["y"], (axis,), 1e-5, weight, bias)

        def rms_norm(storages: Storages, axis: int = axis) -> Normalize:
            weight = storages["weight"].expand(storages["x"].shape)
            return Normalize("rms_norm", storages["x"], storages["y"], (axis,), 1e-5, weight, centered=False)

        yield make_case("normalize", f"layer_norm {name}", tensors, reference("layer_norm", [x, weight, bias], attrs), layer_norm)
        yield make_case("normalize", f"rms_norm {name}", tensors, reference("rms_norm", [x, weight], attrs), rms_norm)
    for channels_last in (False, True):
        x = draw(2, 6, 5, 7, channels_last=channels_last)
        want = reference("group_norm", [x, None, None], {"groups": 1, "eps": 1e-5})
        # one group: its channels are an axis of their own in any layout
        yield make_case("normalize", f"group_norm {'NHWC' if channels_last else 'NCHW'}", {"x": x}, want,
            lambda s: Normalize("group_norm", s["x"], s["y"], (1, 2, 3), 1e-5), channels_last=channels_last)  # fmt: skip
    x = draw(4, 33)
    want = reference("layer_norm", [x.double().relu().float(), None, None], {"normalized_shape": (33,), "eps": 1e-5})
    yield make_case("normalize", "relu + layer_norm + sigmoid", {"x": x}, want.double().sigmoid().float(),
        lambda s: Normalize("layer_norm", s["x"], s["y"], (1,), 1e-5, before=unary(("relu",)), chain=unary(("sigmoid",))))  # fmt: skip
