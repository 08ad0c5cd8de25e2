"""One file per family of ops: from a group to a step, and why an op can't be native."""

from graphopt.backends.cpu.planner.makers import (
    attention,
    blocks,
    convolution,
    elementwise,
    gather,
    images,
    matmul,
    moves,
    norms,
    pool,
    reduce,
    views,
)
from graphopt.backends.cpu.planner.makers.table import BLOCKS, MAKERS, Maker, refuse

__all__ = [
    "BLOCKS",
    "MAKERS",
    "Maker",
    "attention",
    "blocks",
    "convolution",
    "elementwise",
    "gather",
    "images",
    "matmul",
    "moves",
    "norms",
    "pool",
    "reduce",
    "refuse",
    "views",
]
