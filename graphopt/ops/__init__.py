"""The op table: what each canonical op takes, gives and costs. Importing this package fills it; it needs no torch.

>>> from graphopt import ops
>>> ops.definition("conv2d").attributes
('stride', 'padding', 'dilation', 'groups')
"""

from __future__ import annotations

from graphopt.ir.builder import Builder
from graphopt.ir.graph import Graph
from graphopt.ops.families import (
    ADAPTIVE_POOLS,
    ATTENTIONS,
    AVERAGE_POOLS,
    BINARY,
    COMPARISONS,
    CONTROL,
    CONVOLUTIONS,
    CREATION,
    DROPOUTS,
    ELEMENTWISE,
    GATHERS,
    IMAGE,
    MATMULS,
    MAX_POOLS,
    NORMS,
    POOLS,
    RECURRENT,
    REDUCTIONS,
    SHAPE,
    SOFTMAXES,
    TRANSPOSED_CONVOLUTIONS,
    UNARY,
)
from graphopt.ops.promotion import promote
from graphopt.ops.registry import (
    Call,
    Effect,
    OpDef,
    call_of,
    check_signature,
    definition,
    definitions,
    family,
    infer_call,
    infer_types,
    is_canonical,
    make_call,
    register,
)
from graphopt.ops.verify import verify

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
    "NORMS",
    "POOLS",
    "RECURRENT",
    "REDUCTIONS",
    "SHAPE",
    "SOFTMAXES",
    "TRANSPOSED_CONVOLUTIONS",
    "UNARY",
    "Call",
    "Effect",
    "OpDef",
    "builder",
    "call_of",
    "check_signature",
    "definition",
    "definitions",
    "family",
    "infer_call",
    "infer_types",
    "is_canonical",
    "make_call",
    "promote",
    "register",
    "verify",
]


def builder(name: str = "graph") -> Builder:
    """A builder for a new graph that infers the types of canonical ops."""
    return Builder(Graph(name), infer_types)
