"""Handlers that translate aten ops into canonical ops, one file per family. Importing this fills the table."""

from __future__ import annotations

from graphopt.capture.context import HANDLERS
from graphopt.capture.tables import (
    attention,
    conv,
    create,
    elementwise,
    gather,
    image,
    matmul,
    norm,
    pool,
    rearrange,
    recurrent,
    reduce,
    shape,
    split,
)

__all__ = [
    "HANDLERS",
    "attention",
    "conv",
    "create",
    "elementwise",
    "gather",
    "image",
    "matmul",
    "norm",
    "pool",
    "rearrange",
    "recurrent",
    "reduce",
    "shape",
    "split",
]
