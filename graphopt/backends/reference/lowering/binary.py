"""Element-wise ops of two tensors, and `where`. Python operators promote literals as the IR says."""

from __future__ import annotations

from graphopt.backends.reference.emitter import Emitter, Lowering, Site
from graphopt.backends.reference.lowering.literals import tensor_operand, tensor_operands
from graphopt.ir.dims import Expression

__all__ = ["LOWERINGS"]

_OPERATORS = ("add", "sub", "mul", "eq", "ne", "lt", "le", "gt", "ge")
_TENSORS_ONLY = ("maximum", "minimum", "fmod", "atan2", "logical_and", "logical_or", "logical_xor")
_SCALAR_OR_TENSOR = (
    "pow",
    "remainder",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "bitwise_left_shift",
    "bitwise_right_shift",
)


def _operator(name: str) -> Lowering:
    def lower(emit: Emitter, site: Site) -> object:
        left = tensor_operand(emit, site, 0) if site.is_literal(0) and site.is_literal(1) else site[0]
        return emit.call(f"operator.{name}", left, site[1])

    return lower


def _tensors(name: str) -> Lowering:
    return lambda emit, site: emit.call(f"torch.{name}", *tensor_operands(emit, site))


def _scalar_or_tensor(name: str) -> Lowering:
    def lower(emit: Emitter, site: Site) -> object:
        left = tensor_operand(emit, site, 0) if site.is_literal(0) and site.is_literal(1) else site[0]
        return emit.call(f"torch.{name}", left, site[1])

    return lower


def _div(emit: Emitter, site: Site) -> object:
    # `1.0 / x` in Python is x.reciprocal() * 1.0, which rounds twice; the op divides.
    left = tensor_operand(emit, site, 0, 1)
    if site["rounding"] is None:
        return emit.call("operator.truediv", left, site[1])
    return emit.call("torch.div", left, site[1], rounding_mode=site["rounding"])


def _where(emit: Emitter, site: Site) -> object:
    branches = list(site.operands[1:3])
    for index, other in ((1, 2), (2, 1)):
        if isinstance(site.node.operands[index], Expression):
            branches[index - 1] = tensor_operand(emit, site, index, other)
    return emit.call("torch.where", tensor_operand(emit, site, 0), *branches)


LOWERINGS: dict[str, Lowering] = {
    **{name: _operator(name) for name in _OPERATORS},
    **{name: _tensors(name) for name in _TENSORS_ONLY},
    **{name: _scalar_or_tensor(name) for name in _SCALAR_OR_TENSOR},
    "div": _div,
    "where": _where,
}
