"""Groups of ops that passes and backends ask for, as sets of names.

if node.op in CONVOLUTIONS: ...
"""

from __future__ import annotations

from graphopt.ops import attention, control, conv, create, dropout, elementwise, gather, image, matmul, norm, pool, recurrent, reduce, shape
from graphopt.ops.registry import family

__all__ = [
    "ADAPTIVE_POOLS",
    "ATTENTIONS",
    "AVERAGE_POOLS",
    "BINARY",
    "COMPARISONS",
    "CONTROL",
    "CONVOLUTIONS",
    "CREATION",
    "DROPOUTS",
    "ELEMENTWISE",
    "GATHERS",
    "IMAGE",
    "MATMULS",
    "MAX_POOLS",
    "MODULES",
    "NORMS",
    "POOLS",
    "RECURRENT",
    "REDUCTIONS",
    "SHAPE",
    "SOFTMAXES",
    "TRANSPOSED_CONVOLUTIONS",
    "UNARY",
]

MODULES = (elementwise, create, shape, gather, reduce, conv, pool, matmul, norm, dropout, attention, image, recurrent, control)
"""The modules that register ops; importing them fills the table."""

UNARY = family("unary") - {"prelu"}
"""Elementwise ops of one tensor; the result has its shape."""
BINARY = family("binary")
"""Elementwise ops of two operands."""
ELEMENTWISE = family("unary", "binary", "select")
"""All ops whose result elements depend on the operands' elements at the same place alone, after broadcasting."""
COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
CREATION = family("create")
SHAPE = family("shape")
GATHERS = family("gather")
REDUCTIONS = frozenset({"sum", "mean", "prod", "amax", "amin", "any", "all", "var", "std", "vector_norm", "logsumexp"})
"""Ops with `axes` and `keepdims`."""
CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
TRANSPOSED_CONVOLUTIONS = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
POOLS = family("pool")
MAX_POOLS = frozenset({"max_pool1d", "max_pool2d", "max_pool3d"})
AVERAGE_POOLS = frozenset({"avg_pool1d", "avg_pool2d", "avg_pool3d"})
ADAPTIVE_POOLS = frozenset(name for name in POOLS if name.startswith("adaptive_"))
MATMULS = family("matmul")
NORMS = frozenset({"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"})
SOFTMAXES = frozenset({"softmax", "log_softmax"})
DROPOUTS = family("dropout")
ATTENTIONS = family("attention")
IMAGE = family("image")
RECURRENT = family("recurrent")
CONTROL = family("control")
