"""A per-channel affine map `y = scale * x + shift`, the currency of the folding passes.

A batch norm at inference, a layer scale, `x * 0.5 + 1` are all of this form: one scale and one shift for
all of x, or one for each index of one axis. A `ChannelAffine` holds the states that the numbers come from
and a pure function that computes them, so that nothing is computed before it is needed and everything can
be computed again in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from graphopt.ir.dims import Dim, product
from graphopt.ir.graph import Graph, Node, Operand, Value
from graphopt.passes.remove.common import float_of
from graphopt.rewrite.rule import NoMatch

if TYPE_CHECKING:
    import torch

__all__ = ["ChannelAffine", "affine_of_batch_norm", "affine_of_elementwise", "map_axis", "unusable"]


@dataclass(frozen=True, slots=True)
class ChannelAffine:
    """`y = scale * x + shift` along one axis, or uniformly where `axis` is None.

    `compute(*sources)` gives (scale, shift) in the sources' dtype, each 0-dim or `[length]`. `has_scale` and
    `has_shift` are False where the map is known to have none (scale 1, shift 0), whatever the numbers are.
    """

    sources: tuple[Value, ...]
    compute: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    axis: int | None
    length: int
    has_scale: bool
    has_shift: bool

    def along(self, axis: int, before: int = 1, after: int = 1) -> ChannelAffine:
        """The map on another axis, of which each old channel fills `after` entries in `before` rounds."""
        if self.axis is None:
            return self
        if before == after == 1:
            return replace(self, axis=axis)
        base = self.compute

        def spread(vector: torch.Tensor) -> torch.Tensor:
            return vector.reshape(1, -1, 1).expand(before, -1, after).reshape(-1) if vector.dim() else vector

        def compute(*sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scale, shift = base(*sources)
            return spread(scale), spread(shift)

        return replace(self, compute=compute, axis=axis, length=before * self.length * after)

    def part(self, start: int, stop: int, step: int = 1) -> ChannelAffine:
        """The map of the channels `start:stop:step`."""
        if self.axis is None:
            return self
        base = self.compute

        def compute(*sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scale, shift = base(*sources)
            return (scale[start:stop:step] if scale.dim() else scale), (shift[start:stop:step] if shift.dim() else shift)

        return replace(self, compute=compute, length=len(range(start, stop, step)))

    def within(self, axis: int, size: int, start: int, stop: int) -> ChannelAffine:
        """A uniform map of the entries `start:stop` of an axis as one of the whole axis, which leaves the rest alone."""
        base = self.compute

        def compute(*sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scale, shift = base(*sources)
            scales, shifts = scale.new_ones(size), shift.new_zeros(size)
            scales[start:stop], shifts[start:stop] = scale, shift
            return scales, shifts

        return replace(self, compute=compute, axis=axis, length=size)

    def then(self, outer: ChannelAffine) -> ChannelAffine | None:
        """`outer(self(x))`; None where the two run along different axes."""
        if self.axis is not None and outer.axis is not None and (self.axis, self.length) != (outer.axis, outer.length):
            return None
        count, first, second = len(self.sources), self.compute, outer.compute

        def compute(*sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scale, shift = first(*sources[:count])
            outer_scale, outer_shift = second(*sources[count:])
            return scale * outer_scale, shift * outer_scale + outer_shift

        main = outer if self.axis is None else self
        flags = (self.has_scale or outer.has_scale, self.has_shift or outer.has_shift)
        return ChannelAffine((*self.sources, *outer.sources), compute, main.axis, main.length, *flags)

    def numbers(self, graph: Graph) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(scale, shift) in float64 as the states are now; None in a graph without numbers."""
        states = [graph.state_of(source) for source in self.sources]
        data = [state.data for state in states if state is not None and state.data is not None]
        if len(data) != len(self.sources):
            return None
        scale, shift = self.compute(*(item.precise() for item in data))
        return scale, shift

    def has_zero_shift(self, graph: Graph) -> bool:
        """True when every shift is known to be zero."""
        if not self.has_shift:
            return True
        numbers = self.numbers(graph)
        return numbers is not None and not bool(numbers[1].any())

    def has_positive_scale(self, graph: Graph) -> bool:
        """True when every scale is known to be above zero."""
        if not self.has_scale:
            return True
        numbers = self.numbers(graph)
        return numbers is not None and bool((numbers[0] > 0).all())


def unusable(affine: ChannelAffine, graph: Graph) -> NoMatch | None:
    """Why the numbers of a map can't be folded into weights: one is infinite or NaN."""
    numbers = affine.numbers(graph)
    if numbers is None:
        return None
    for name, vector in zip(("scale", "shift"), numbers, strict=True):
        bad = (~vector.isfinite()).reshape(-1).nonzero()
        if bad.numel():
            channel = int(bad[0])
            return NoMatch(f"the {name} of channel {channel} is {float(vector.reshape(-1)[channel])}, needs a finite number")
    return None


def affine_of_batch_norm(node: Node) -> ChannelAffine | NoMatch:
    """The map that a batch norm is at inference."""
    graph = node.graph
    assert graph is not None, "rules see nodes that are in a graph"
    mode, eps = node.attrs["mode"], node.attrs["eps"]
    if mode not in ("follow", "eval"):
        return NoMatch(f'mode is "{mode}", needs "follow" or "eval": it normalises by the batch')
    weight, bias, mean, variance = node.operands[1:5]
    if mean is None or variance is None:
        return NoMatch("has no running mean and variance, so it normalises by the batch in eval mode too")
    for operand in (weight, bias, mean, variance):
        if operand is not None and graph.state_of(operand) is None:
            return NoMatch(f"{operand!r} is computed at run time, needs a parameter or buffer")
    channels = node.value(0).shape[1]
    if not isinstance(channels, int) or not isinstance(eps, int | float):
        return NoMatch(f"the number of channels is {channels}, needs an integer")
    present = [operand for operand in (weight, bias, mean, variance) if isinstance(operand, Value)]
    has_weight, has_bias = weight is not None, bias is not None

    def compute(*sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rest = list(sources)
        gamma = rest.pop(0) if has_weight else None
        beta = rest.pop(0) if has_bias else None
        running_mean, running_variance = rest
        scale = (running_variance + eps).rsqrt()
        scale = scale if gamma is None else scale * gamma
        shift = -running_mean * scale
        return scale, shift if beta is None else shift + beta

    return ChannelAffine(tuple(present), compute, 1, channels, has_scale=True, has_shift=True)


def affine_of_elementwise(node: Node) -> tuple[Value, ChannelAffine] | None:
    """(x, map) where the node adds to x or multiplies it by a constant that varies along one axis at most."""
    if node.op not in ("add", "sub", "mul", "div") or (node.op == "div" and node.attrs["rounding"] is not None):
        return None
    graph = node.graph
    assert graph is not None, "rules see nodes that are in a graph"
    for position in (0, 1):
        x, constant = node.operands[position], node.operands[1 - position]
        if not isinstance(x, Value) or graph.state_of(x) is not None or (position == 1 and node.op == "div"):
            continue
        result = node.result.type
        if not result.dtype.is_float or (x.type.dtype, x.type.shape) != (result.dtype, result.shape):
            continue
        found = _constant(graph, constant, len(x.shape))
        if found is not None:
            sources, axis, length, read = found
            compute = _elementwise_numbers(node.op, position, read)
            adds = node.op in ("add", "sub")
            scales = not adds or (node.op == "sub" and position == 1)
            return x, ChannelAffine(sources, compute, axis, length, has_scale=scales, has_shift=adds)
    return None


_Read = Callable[[Sequence["torch.Tensor"]], "torch.Tensor"]


def _constant(graph: Graph, constant: Operand, rank: int) -> tuple[tuple[Value, ...], int | None, int, _Read] | None:
    """(sources, axis of x, length, how to read the numbers) of a literal or a state that is a vector at most."""
    number = float_of(constant)
    if number is not None:

        def literal(sources: Sequence[torch.Tensor]) -> torch.Tensor:
            import torch

            return torch.tensor(number, dtype=torch.float64)

        return (), None, 1, literal
    if not isinstance(constant, Value) or graph.state_of(constant) is None or not constant.type.dtype.is_float:
        return None
    shape = constant.type.static_shape
    wide = [axis for axis, size in enumerate(shape) if size != 1]
    if len(wide) > 1 or len(shape) > rank:
        return None
    if not wide:
        return (constant,), None, 1, lambda sources: sources[0].reshape(())
    return (constant,), rank - len(shape) + wide[0], shape[wide[0]], lambda sources: sources[0].reshape(-1)


def _elementwise_numbers(op: str, position: int, read: _Read) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    def compute(*sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vector = read(sources)
        one, zero = vector.new_ones(()), vector.new_zeros(())
        match op:
            case "add":
                return one, vector
            case "sub":
                return (one, -vector) if position == 0 else (-one, vector)
            case "mul":
                return vector, zero
            case _:
                return one / vector, zero

    return compute


def map_axis(source: Sequence[Dim], target: Sequence[Dim], axis: int) -> tuple[int, int, int] | None:
    """Where the entries of one axis go when a tensor is reshaped from `source` to `target`.

    Returns (axis of target, before, after) such that `vector.reshape(1,-1,1).expand(before,-1,after).reshape(-1)`
    is the vector along it, or None where the axis is torn apart.
    """
    for position, size in enumerate(target):
        prefix = product(tuple(target[:position]))
        for start in range(axis, -1, -1):
            if product(tuple(source[:start])) != prefix:
                continue
            for stop in range(axis + 1, len(source) + 1):
                before, after = product(tuple(source[start:axis])), product(tuple(source[axis + 1 : stop]))
                if size == before * source[axis] * after and isinstance(before, int) and isinstance(after, int):
                    return position, before, after
    return None
