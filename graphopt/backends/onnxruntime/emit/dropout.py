"""Dropouts pass their operand on at inference."""

from __future__ import annotations

from graphopt.backends.onnxruntime.context import Context, Emitter, UnsupportedNodeError
from graphopt.ir.graph import Node

__all__ = ["EMITTERS"]


def _dropout(context: Context, node: Node) -> str:
    if node.attrs["mode"] == "train" and node.attrs["p"] != 0:
        raise UnsupportedNodeError("a dropout that draws random numbers at inference too")
    return context.read(node.operands[0])


EMITTERS: dict[str, Emitter] = {"dropout": _dropout, "feature_dropout": _dropout, "alpha_dropout": _dropout}
