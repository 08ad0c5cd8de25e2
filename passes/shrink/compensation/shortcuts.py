"""The other side of a residual addition, whose error a branch can take on as well.

    %b = linear(%h, %w2)           the last layer of a branch
    %s = add(%b, %x)               %x is already off by what earlier cuts did to it

Fitted to its own old output, the layer leaves the error of %x in the sum. So its target is moved by what %x lacks:
y_b + (x_before - x_after). Source: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017,
section 3.3 (the last layer of a residual branch recovers Y1 + Y2 - Y1').
"""

from __future__ import annotations

from graphopt.ir.graph import Node, Value
from graphopt.passes.shrink.products import is_bias

__all__ = ["shortcut_of"]


def shortcut_of(node: Node) -> tuple[Node, int] | None:
    """The addition that alone reads the node's result, behind a bias and dropout at most, and which operand of it the shortcut is."""
    value = node.results[0]
    while True:
        uses = value.uses
        if len(uses) != 1 or uses[0].node.is_return:
            return None
        user = uses[0].node
        if user.op == "dropout" and user.attrs.get("mode") != "train":
            value = user.result
            continue
        if user.op != "add":
            return None
        index = 1 - uses[0].index
        if is_bias(user.operands[index], value):
            value = user.result
            continue
        other = user.operands[index]
        return (user, index) if isinstance(other, Value) and other.shape == value.shape else None
