"""Pooling windows without overlap.

    %y: f32[1,64,28,28] = max_pool2d(%x) {kernel=(3, 3), padding=(1, 1), stride=(2, 2), ...}     %x: f32[1,64,56,56]
    -> %y = max_pool2d(%x) {kernel=(2, 2), padding=(0, 0), stride=(2, 2), ...}

The window shrinks along each axis to its stride, or as near to it as leaves the size of the result: every element is
still looked at, by one window instead of two. The stem of a ResNet then reads 4 numbers per output and not 9, and
backends need no halo. Averages are over the smaller window; a `divisor_override` shrinks with it where it stays whole.

Pools with stride 1 smooth and don't sample; they are left alone unless `unit_stride` says otherwise, and then go.
`tolerance` keeps a pool whose result would change by more, as the squared difference over the squared result on
calibration data, and is what a quality budget weakens: without it the pass is kept or rolled back as a whole.

What changes no number is done by other passes: windows larger than the image by `remove-idle-pool-borders`, one-element
windows by `remove-unit-pools`, adaptive pools with equal windows by `form-fixed-pools`, an average behind a pointwise
convolution by `hoist-average-pools`.

Numeric class: lossy. Stage: training-safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from graphopt.backends.reference.interpreter import Interpreter
from graphopt.errors import PassError
from graphopt.ir.attributes import Attribute
from graphopt.ir.graph import Graph, GraphEditor, Node
from graphopt.ops import AVERAGE_POOLS, MAX_POOLS
from graphopt.passes.remove.common import ints_of, is_integer, tuple_of
from graphopt.passes.remove.window_crops import Axis, Crop, axes_of, cropped_attrs, window_fits
from graphopt.passes.shrink.layers import check_patterns, excluded
from graphopt.passes.shrink.statistics.stream import Stream
from graphopt.pipeline.context import Context
from graphopt.pipeline.passes import ContextPass, NumericClass, Outcome, weakened
from graphopt.rewrite.rewriter import Rewriter

__all__ = ["ShrinkPools"]

_POOLS = MAX_POOLS | AVERAGE_POOLS


@dataclass(frozen=True)
class ShrinkPools(ContextPass):
    """Shrink pooling windows to their stride."""

    name = "shrink-pools"
    numeric = NumericClass.LOSSY

    unit_stride: bool = field(default=False, metadata={"help": "take out pools with stride 1 too"})
    tolerance: float | None = field(
        default=None, metadata={"minimum": 0.0, "help": "largest relative squared change of a pool's result on calibration data"}
    )
    only: tuple[str, ...] = field(default=(), metadata={"help": "patterns of node names to work on"})
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "patterns of node names to leave alone"})

    def weaker(self, strength: float) -> ShrinkPools | None:
        """The pass with a smaller tolerance; without one nothing says how strong it is, and data to measure that on may lack."""
        return None if self.tolerance is None else replace(self, tolerance=weakened(self.tolerance, strength))

    def apply_with(self, rewriter: Rewriter, context: Context) -> Outcome:
        """Shrink each pool as far as it goes.

        Raises:
            PassError: `tolerance` without calibration data.
            PassOptionError: a pattern means no pool.
        """
        graph = rewriter.graph
        if self.tolerance is not None and context.calibration is None:
            raise PassError(
                "shrink-pools with a tolerance needs calibration data", fix="pass calibration=loader to optimize, or leave tolerance out"
            )
        pools = [node for node in graph.nodes if node.op in _POOLS]
        check_patterns((node.name for node in pools), only=self.only, exclude=self.exclude)
        stream = Stream.of(graph, context.calibration) if self.tolerance is not None and context.calibration is not None else None
        skipped: list[tuple[str, str]] = []
        notes: list[str] = []
        for node in list(graph.nodes) if stream is not None else pools:
            if stream is not None and node.op not in _POOLS:
                stream.step(node)
                continue
            attrs = excluded(node.name, self.only, self.exclude) or self._smaller(node)
            change = self._change(node, attrs, stream) if not isinstance(attrs, str) else None
            if change is not None and self.tolerance is not None and change > self.tolerance:
                attrs = f"its result would change by {change:.3g}, at most {self.tolerance:.3g} is allowed"
            if isinstance(attrs, str):
                skipped.append((node.name, attrs))
                if stream is not None:
                    stream.step(node)
                continue
            notes.append(_note(node, attrs, change))
            self._build(rewriter, node, attrs, stream)
        return Outcome(len(notes), tuple(skipped), (*notes, *(stream.notes if stream is not None else ())))

    def _smaller(self, node: Node) -> dict[str, Attribute] | str:
        """Attributes of the smaller pool, or why it stays."""
        if not all(is_integer(item) for name in ("kernel", "stride", "padding") for item in tuple_of(node.attrs[name])):
            return "the window has a symbolic size, needs integers"
        kernel, stride = ints_of(node.attrs["kernel"]), ints_of(node.attrs["stride"])
        if all(step == 1 for step in stride) and not self.unit_stride:
            return "stride is 1, so the pool smooths; unit_stride=true takes it out"
        axes = axes_of(node, kernel)
        if all(axis.kernel <= axis.stride for axis in axes):
            return f"windows of {kernel} do not overlap with stride {stride}"
        crops = tuple(self._crop(node, axes, number) for number in range(len(axes)))
        attrs = _cropped(node, axes, crops)
        if isinstance(attrs, str):
            return attrs
        if not any(crop.taps for crop in crops) or not window_fits(node, attrs):
            padding = ints_of(node.attrs["padding"])
            return f"no window smaller than {kernel} with stride {stride} and padding {padding} gives a result of the same size"
        return attrs

    def _crop(self, node: Node, axes: tuple[Axis, ...], number: int) -> Crop:
        """The largest crop along one axis that leaves windows at least as long as the stride and the size as it is."""
        axis, best = axes[number], Crop(0, 0)
        if axis.stride == 1 and not self.unit_stride:
            return best
        for crop in axis.crops(smallest=min(axis.stride, axis.kernel)):
            if (crop.taps, -abs(crop.low - crop.high)) <= (best.taps, -abs(best.low - best.high)):
                continue  # of equal windows the one in the middle
            attrs = _cropped(node, axes, tuple(crop if i == number else Crop(0, 0) for i in range(len(axes))), divide=False)
            if not isinstance(attrs, str) and window_fits(node, attrs):
                best = crop
        return best

    def _change(self, node: Node, attrs: Mapping[str, Attribute], stream: Stream | None) -> float | None:
        if stream is None:
            return None
        difference = total = 0.0
        for batch in range(len(stream)):
            x, (old,) = stream.operand(batch, node.value(0)), stream.compute(batch, node)
            difference += float((_pooled(node, attrs, x).double() - old.double()).square().sum())
            total += float(old.double().square().sum())
        return difference / total if total > 0 else difference

    def _build(self, rewriter: Rewriter, node: Node, attrs: dict[str, Attribute], stream: Stream | None) -> None:
        numbers = {name: ints_of(attrs[name]) for name in ("kernel", "stride", "padding")}
        scale = attrs.get("divisor_override")
        if all(set(numbers[name]) == {1} for name in ("kernel", "stride")) and set(numbers["padding"]) == {0} and scale in (None, 1):
            rewriter.replace(node, node.value(0))
            return
        made = rewriter.create(node.op, node.operands, attrs, before=node, source=node.source)
        rewriter.replace(node, made.result)
        if stream is not None:
            stream.step(made)


def _cropped(node: Node, axes: tuple[Axis, ...], crops: tuple[Crop, ...], *, divide: bool = True) -> dict[str, Attribute] | str:
    """Attributes after the crops; why not where a divisor does not stay whole."""
    attrs = cropped_attrs(node, axes, crops)
    attrs["kernel"] = tuple(axis.kernel - crop.taps for axis, crop in zip(axes, crops, strict=True))
    divisor = attrs.get("divisor_override")
    if divisor is None or not divide:
        return attrs
    if not isinstance(divisor, int):
        return f"divisor_override is {divisor}, needs an integer"
    for axis, crop in zip(axes, crops, strict=True):
        divisor *= axis.kernel - crop.taps
    old = 1
    for axis in axes:
        old *= axis.kernel
    if divisor % old:
        return f"divisor_override {node.attrs['divisor_override']} for {old} elements has no whole counterpart for {attrs['kernel']}"
    attrs["divisor_override"] = divisor // old
    return attrs


def _pooled(node: Node, attrs: Mapping[str, Attribute], x: torch.Tensor) -> torch.Tensor:
    """The result of a pool that is not in the graph."""
    scratch = Graph("scratch")
    editor = GraphEditor(scratch)
    given = editor.add_input("x", node.value(0).type)
    pool = editor.insert(node.op, (given,), attrs, [("y", node.result.type)])
    return Interpreter(scratch).evaluate(pool, [x], {})[0]


def _note(node: Node, attrs: Mapping[str, Attribute], change: float | None) -> str:
    old, new = ("x".join(map(str, ints_of(found["kernel"]))) for found in (node.attrs, attrs))
    return f"{node.name}: {old} -> {new}" + (f", changes its result by {change:.3g}" if change is not None else "")
