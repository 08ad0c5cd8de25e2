"""Training what graphopt made smaller: optimizers that keep zeros, schedules that move them, and recovery.

    recovered = graphopt.train.recover(result, loader, metric=accuracy, epochs=2)

    optimizer = graphopt.train.SparseSGD(result.module.named_parameters(), lr=0.01, momentum=0.9)
    schedule = graphopt.train.GradualPruning(optimizer, ratio=0.8, end=1000)

docs/training.md tells how to use them.
"""

from __future__ import annotations

from graphopt.train.batched import (
    CheckpointPlan,
    accumulate_gradients,
    checkpointed,
    fisher_diagonal,
    measure_training,
    per_sample_gradients,
    plan_checkpoints,
)
from graphopt.train.masks import masks_of
from graphopt.train.optimizers import SparseAdamW, SparseOptimizer, SparseSGD
from graphopt.train.patterns import NM, Block, Unstructured
from graphopt.train.recovery.recover import recover
from graphopt.train.recovery.result import Recovery
from graphopt.train.regrow import SET, RigL
from graphopt.train.schedules import GradualPruning, Proximal, Schedule
from graphopt.train.straight_through import StraightThrough

__all__ = [
    "NM",
    "SET",
    "Block",
    "CheckpointPlan",
    "GradualPruning",
    "Proximal",
    "Recovery",
    "RigL",
    "Schedule",
    "SparseAdamW",
    "SparseOptimizer",
    "SparseSGD",
    "StraightThrough",
    "Unstructured",
    "accumulate_gradients",
    "checkpointed",
    "fisher_diagonal",
    "masks_of",
    "measure_training",
    "per_sample_gradients",
    "plan_checkpoints",
    "recover",
]
