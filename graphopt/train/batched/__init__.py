"""Gradients of many samples in bounded memory.

accumulate_gradients      a large batch in pieces, with the large batch's gradients
per_sample_gradients      the gradient of each sample, many at once; fisher_diagonal their mean squares
checkpointed              activations computed twice and not kept, where a plan made from the graph says so
"""

from __future__ import annotations

from graphopt.train.batched.accumulate import accumulate_gradients
from graphopt.train.batched.checkpointing import CheckpointPlan, checkpointed, plan_checkpoints
from graphopt.train.batched.measure import TrainingCost, measure_training
from graphopt.train.batched.per_sample import fisher_diagonal, per_sample_gradients

__all__ = [
    "CheckpointPlan",
    "TrainingCost",
    "accumulate_gradients",
    "checkpointed",
    "fisher_diagonal",
    "measure_training",
    "per_sample_gradients",
    "plan_checkpoints",
]
