"""Pools and depthwise convolutions."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from graphopt.backends.cuda.chain import unary
from graphopt.backends.cuda.kernels.depthwise import Depthwise
from graphopt.backends.cuda.kernels.pool import AdaptivePool, Pool
from graphopt.ir.attributes import Attribute
from tools.check_cuda.case import Case, make_case, reference
from tools.check_cuda.cases.numbers import draw, with_holes

__all__ = ["image_cases"]


def image_cases() -> Iterator[Case]:
    """All of them, NCHW and NHWC."""
    for channels_last in (False, True):
        yield from _pools(channels_last)
        yield from _depthwise(channels_last)
    yield from _holes()
    yield from _others()


def _title(name: str, channels_last: bool) -> str:
    return f"{name} {'NHWC' if channels_last else 'NCHW'}"


def _pools(channels_last: bool) -> Iterator[Case]:
    x = draw(2, 5, 7, 6, channels_last=channels_last)
    windows: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool], ...] = (
        ((3, 3), (2, 2), (1, 1), False),
        ((3, 2), (2, 1), (1, 1), True),
        ((2, 2), (2, 2), (0, 0), True),
        ((7, 6), (1, 1), (0, 0), False),
    )
    for kernel, stride, padding, ceil_mode in windows:
        title = _title(f"{kernel[0]}x{kernel[1]}{' ceil' * ceil_mode}", channels_last)
        shape: dict[str, Attribute] = {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
        want = reference("max_pool2d", [x], {**shape, "dilation": (1, 1)})
        yield make_case("pool", f"max {title}", {"x": x}, want,
            lambda s, k=kernel, t=stride, p=padding: Pool("max", s["x"], s["y"], k, t, p), channels_last=channels_last)  # fmt: skip
        for count in (True, False):
            want = reference("avg_pool2d", [x], {**shape, "count_include_pad": count, "divisor_override": None})
            yield make_case("pool", f"avg {title}{'' if count else ' without padding'}", {"x": x}, want,
                lambda s, k=kernel, t=stride, p=padding, c=count: Pool("avg", s["x"], s["y"], k, t, p, count_include_pad=c),
                channels_last=channels_last)  # fmt: skip
    for size in ((3, 3), (7, 2), (1, 1), (9, 8)):
        for op in ("avg", "max"):
            want = reference(f"adaptive_{op}_pool2d", [x], {"output_size": size})
            yield make_case("pool", _title(f"adaptive {op} to {size[0]}x{size[1]}", channels_last), {"x": x}, want,
                lambda s, op=op: AdaptivePool(op, s["x"], s["y"]), channels_last=channels_last)  # fmt: skip


def _depthwise(channels_last: bool) -> Iterator[Case]:
    x, weight, bias = draw(2, 5, 9, 7, channels_last=channels_last), draw(5, 1, 3, 3, seed=1), draw(5, seed=2)
    for stride, padding, dilation in (((1, 1), (1, 1), (1, 1)), ((2, 1), (0, 1), (1, 2)), ((3, 3), (2, 2), (2, 2))):
        attrs: dict[str, Attribute] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": 5}
        name = f"3x3 stride {stride[0]}x{stride[1]} dilation {dilation[0]}x{dilation[1]}"
        want = reference("conv2d", [x, weight, bias], attrs)
        yield make_case("depthwise", _title(name, channels_last), {"x": x, "weight": weight, "bias": bias}, want.double().relu().float(),
            lambda s, t=stride, p=padding, d=dilation: Depthwise(s["x"], s["weight"], s["bias"], s["y"], t, p, d, unary(("relu",))),
            channels_last=channels_last)  # fmt: skip
    for dtype in (torch.float16, torch.bfloat16):
        half, taps = x.to(dtype), weight.to(dtype)
        want = reference("conv2d", [half, taps, None], {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 5})
        yield make_case("depthwise", _title(str(dtype).removeprefix("torch."), channels_last), {"x": half, "weight": taps}, want,
            lambda s: Depthwise(s["x"], s["weight"], None, s["y"], (1, 1), (1, 1), (1, 1)), channels_last=channels_last)  # fmt: skip


def _holes() -> Iterator[Case]:
    """NaN and infinities in means, adaptive pools and depthwise convolutions, and no images at all."""
    window: dict[str, Attribute] = {
        "kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "ceil_mode": False, "count_include_pad": True, "divisor_override": None
    }  # fmt: skip
    taps = draw(3, 1, 3, 3, seed=1)
    convolution: dict[str, Attribute] = {"stride": (2, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 3}
    for name, x in (("with NaN", with_holes(draw(2, 3, 7, 6))), ("no images", torch.zeros(0, 3, 7, 6))):
        yield make_case("pool", f"avg {name}", {"x": x}, reference("avg_pool2d", [x], window),
            lambda s: Pool("avg", s["x"], s["y"], (3, 3), (2, 2), (1, 1)))  # fmt: skip
        for op in ("avg", "max"):
            for size in ((3, 2), (1, 1)):
                want = reference(f"adaptive_{op}_pool2d", [x], {"output_size": size})
                yield make_case("pool", f"adaptive {op} to {size[0]}x{size[1]} {name}", {"x": x}, want,
                    lambda s, op=op: AdaptivePool(op, s["x"], s["y"]))  # fmt: skip
        yield make_case("depthwise", name, {"x": x, "weight": taps}, reference("conv2d", [x, taps, None], convolution),
            lambda s: Depthwise(s["x"], s["weight"], None, s["y"], (2, 1), (1, 1), (1, 1)))  # fmt: skip


def _others() -> Iterator[Case]:
    """One dimension, NaN, 16 bits, other divisors, dilation, no images."""
    plain: dict[str, Attribute] = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "ceil_mode": False}
    holed = with_holes(draw(2, 3, 7, 6))
    want = reference("max_pool2d", [holed], {**plain, "dilation": (1, 1)})
    yield make_case("pool", "max with NaN", {"x": holed}, want, lambda s: Pool("max", s["x"], s["y"], (3, 3), (2, 2), (1, 1)))
    x = draw(2, 5, 7, 6)
    want = reference("max_pool2d", [x], {**plain, "dilation": (2, 1)})
    yield make_case("pool", "max dilated", {"x": x}, want, lambda s: Pool("max", s["x"], s["y"], (3, 3), (2, 2), (1, 1), (2, 1)))
    want = reference("avg_pool2d", [x], {**plain, "count_include_pad": True, "divisor_override": 5})
    yield make_case("pool", "avg divided by 5", {"x": x}, want, lambda s: Pool("avg", s["x"], s["y"], (3, 3), (2, 2), (1, 1), divisor=5))
    none = torch.zeros(0, 3, 7, 6)
    want = reference("max_pool2d", [none], {**plain, "dilation": (1, 1)})
    yield make_case("pool", "max no images", {"x": none}, want, lambda s: Pool("max", s["x"], s["y"], (3, 3), (2, 2), (1, 1)))
    for dtype in (torch.float16, torch.bfloat16):
        half = x.to(dtype)
        want = reference("avg_pool2d", [half], {**plain, "count_include_pad": True, "divisor_override": None})
        yield make_case("pool", f"avg {str(dtype).removeprefix('torch.')}", {"x": half}, want,
            lambda s: Pool("avg", s["x"], s["y"], (3, 3), (2, 2), (1, 1)))  # fmt: skip
    line = draw(2, 5, 11)
    want = reference("max_pool1d", [line], {"kernel": (3,), "stride": (2,), "padding": (1,), "dilation": (1,), "ceil_mode": False})
    yield make_case("pool", "max in one dimension", {"x": line}, want, lambda s: Pool("max", s["x"], s["y"], (3,), (2,), (1,)))
    want = reference("adaptive_avg_pool1d", [line], {"output_size": (4,)})
    yield make_case("pool", "adaptive avg in one dimension", {"x": line}, want, lambda s: AdaptivePool("avg", s["x"], s["y"]))
    taps = draw(5, 1, 3, seed=1)
    want = reference("conv1d", [line, taps, None], {"stride": (2,), "padding": (1,), "dilation": (1,), "groups": 5})
    yield make_case("depthwise", "in one dimension", {"x": line, "weight": taps}, want,
        lambda s: Depthwise(s["x"], s["weight"], None, s["y"], (2,), (1,), (1,)))  # fmt: skip
