"""Pools and depthwise convolutions; a depthwise convolution may also be a library call."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.cuda.kernel import Unsupported
from graphopt.backends.cuda.kernels.depthwise import Depthwise
from graphopt.backends.cuda.kernels.pool import AdaptivePool, Pool
from graphopt.backends.cuda.kernels.reduce import Reduce
from graphopt.backends.cuda.planner.builder import Builder, Maker
from graphopt.backends.cuda.planner.choice import Way
from graphopt.backends.cuda.planner.makers.dense import convolution
from graphopt.backends.planning.groups import Group
from graphopt.ir.graph import Value

__all__ = ["MAKERS"]


def _pool(builder: Builder, group: Group) -> Sequence[Way]:
    node = group.anchor
    sizes = {name: builder.shapes.dims(node.attrs[name]) for name in ("kernel", "stride", "padding", "dilation") if name in node.attrs}
    x = builder.storage(node.value(0))
    if x.rank != len(sizes["kernel"]) + 2:
        raise Unsupported(f"{node.op} without a batch has no kernel")
    kind = "max" if node.op.startswith("max") else "avg"
    ones = (1,) * len(sizes["kernel"])
    divisor = node.attrs.get("divisor_override")
    y = builder.target(group)
    work = Pool(
        kind,
        x,
        y,
        sizes["kernel"],
        sizes["stride"],
        sizes["padding"],
        sizes.get("dilation", ones),
        bool(node.attrs.get("count_include_pad", True)),
        None if divisor is None else builder.shapes.dim(divisor),
        builder.chain(group),
    )
    return [Way((work,), y, "pool")]


def _adaptive(builder: Builder, group: Group) -> Sequence[Way]:
    node = group.anchor
    shape = builder.shapes.of(node.value(0))
    if len(shape) != (3 if node.op.endswith("1d") else 4):
        raise Unsupported(f"{node.op} without a batch has no kernel")
    y = builder.target(group)
    if "avg" in node.op and set(y.shape[2:]) == {1}:  # a mean, which takes what makes the map in front
        axes, chain = tuple(range(2, len(shape))), builder.chain(group)
        mean = builder.before(node.value(0), lambda x, before: Reduce("mean", x, y, axes, 0.0, before, chain))
        return [Way((mean,), y, "reduce")]
    x = builder.storage(node.value(0))
    work = AdaptivePool("max" if "max" in node.op else "avg", x, y, builder.chain(group))
    return [Way((work,), y, "adaptive pool")]


def _convolution(builder: Builder, group: Group) -> Sequence[Way]:
    node = group.anchor
    x, weight = builder.shapes.of(node.value(0)), builder.shapes.of(node.value(1))
    is_depthwise = len(x) == len(weight) and 1 < builder.shapes.dim(node.attrs["groups"]) == x[1] == weight[0]
    others = convolution(builder, group)
    if not is_depthwise:
        return others
    bias = node.operands[2] if len(node.operands) > 2 else None
    y = builder.target(group)
    sizes = [builder.shapes.dims(node.attrs[name]) for name in ("stride", "padding", "dilation")]
    try:
        work = Depthwise(
            builder.storage(node.value(0)),
            builder.parameter(node.value(1)) if builder.graph.state_of(node.value(1)) is not None else builder.storage(node.value(1)),
            builder.storage(bias) if isinstance(bias, Value) else None,
            y,
            *sizes,
            chain=builder.chain(group),
        )
    except Unsupported:
        return others
    return [Way((work,), y, "depthwise"), *others]


MAKERS: dict[str, Maker] = {
    **dict.fromkeys(("max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d"), _pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d"), _adaptive),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
}
