"""Pool before a monotone activation instead of after it: fewer elements go through the activation.

    %r: f32[1,8,8,8] = relu(%x)
    %y: f32[1,8,4,4] = max_pool2d(%r) {kernel=(2, 2), stride=(2, 2), ...}
    -> %y = relu(max_pool2d(%x))

The maximum of f(x) is f of the maximum for f that never falls: relu, clamp, leaky_relu (slope >= 0),
sigmoid, tanh, hardsigmoid. NaN goes through both orders.

With `keep_fusable` (the default) a relu or clamp right behind a convolution, linear layer or batch norm
stays there, because backends compute it inside of that for nothing.

Numeric class: rounding (the sign of a zero may differ, and vectorised sigmoid and tanh are monotone up
to a unit in the last place). Stage: training-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.ir.graph import Node
from graphopt.ops import CONVOLUTIONS, MATMULS, MAX_POOLS, NORMS, TRANSPOSED_CONVOLUTIONS
from graphopt.passes.remove.common import float_of, is_smaller, producer_of, sole_producer
from graphopt.pipeline.passes import NumericClass, RulePass
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import UNRELATED, NoMatch, Rule

__all__ = ["HoistMaxPools"]

_MONOTONE = ("relu", "clamp", "leaky_relu", "sigmoid", "tanh", "hardsigmoid")
_FUSED = CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS | MATMULS | NORMS | {"add"}


@dataclass(frozen=True, slots=True)
class Site:
    """A pool of the result of an activation."""

    pool: Node
    activation: Node


@dataclass(frozen=True, slots=True)
class ActivationThenPool(Rule[Site]):
    """Swap a monotone activation and the max pool behind it."""

    keep_fusable: bool = True
    ops = MAX_POOLS | frozenset({"adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"})

    def match(self, node: Node) -> Site | NoMatch:
        """The pool shrinks the tensor and is all that reads the activation."""
        activation = sole_producer(node.operands[0], *_MONOTONE)
        if activation is None:
            return UNRELATED
        x = activation.value(0)
        if not x.type.dtype.is_float or x.type.dtype is not node.result.type.dtype:
            return UNRELATED
        if not is_smaller(node.result.type.elements, x.type.elements):
            return NoMatch(f"the pool gives {node.result.type.text} from {x.type.text}, needs fewer elements to save work")
        if activation.op == "leaky_relu":
            slope = activation.attrs["negative_slope"]
            if not isinstance(slope, int | float) or (float_of(slope) or 0.0) < 0:
                return NoMatch(f"negative_slope is {slope}, needs >= 0 to be monotone")
        producer = producer_of(x)
        if self.keep_fusable and producer is not None and producer.op in _FUSED:
            return NoMatch(f"{producer.op} and {activation.op} fuse in most backends; keep_fusable=false moves it all the same")
        return Site(node, activation)

    def rewrite(self, site: Site, rewriter: Rewriter) -> None:
        """Pool, then the activation."""
        x = site.activation.value(0)
        pooled = rewriter.create(site.pool.op, (x,), site.pool.attrs, before=site.pool, name=f"{x.name}.{site.pool.op}")
        active = rewriter.create(
            site.activation.op, (pooled.result,), site.activation.attrs, before=site.pool, source=site.activation.source
        )
        rewriter.replace(site.pool, active.result)
        rewriter.erase_unused(site.activation)


@dataclass(frozen=True)
class HoistMaxPools(RulePass):
    """Move max pools above monotone activations."""

    name = "hoist-max-pools"
    numeric = NumericClass.ROUNDING
    rules = (ActivationThenPool(),)

    keep_fusable: bool = field(
        default=True, metadata={"help": "an activation right behind a layer that computes it for nothing stays there"}
    )

    def active_rules(self) -> Sequence[Rule[Any]]:
        """The rule with this pass's option."""
        return (ActivationThenPool(self.keep_fusable),)
