"""Parts of recover() by themselves: losses by hand, seeds, data that ends too early."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import nn
from torch.nn import functional

from graphopt.errors import UsageError
from graphopt.train import recover
from graphopt.train.recovery.loop import seeds, step_seed
from graphopt.train.recovery.losses import Distillation, Losses


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_distillation_is_what_the_formula_says() -> None:
    mine, theirs = random(6, 4), random(6, 4, seed=1)
    wanted = (theirs / 3).softmax(1)
    expected = 9 * (wanted * (wanted.log() - (mine / 3).log_softmax(1))).sum(1).mean()
    assert float(Losses(temperature=3.0).total([mine], [], ([theirs], []), None)) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("distillation", ["kl", "mse"])
def test_losses_of_half_precision_are_those_of_their_numbers_in_float32(distillation: Distillation, dtype: torch.dtype) -> None:
    theirs = random(64, 10).to(dtype)
    mine = (theirs.double() + 0.02 * random(64, 10, seed=1)).to(dtype)
    labels = torch.arange(64) % 10
    losses = Losses(distillation, label_weight=0.5)
    found, wide = (losses.total([a], [a], ([b], [b]), labels) for a, b in ((mine, theirs), (mine.double(), theirs.double())))
    assert float(found) == pytest.approx(float(wide), rel=1e-5)


@pytest.mark.parametrize("positions", [5, 7])
def test_classes_of_language_models_are_on_the_last_axis_also_where_there_are_as_many_positions(positions: int) -> None:
    output, labels = random(2, positions, 5), torch.arange(2 * positions).reshape(2, positions) % 5
    expected = functional.cross_entropy(output.flatten(0, 1), labels.flatten())
    assert float(Losses().total([output], [], None, labels)) == pytest.approx(float(expected), rel=1e-12)


def test_classes_on_axis_1_of_three_axes_are_found_by_the_labels() -> None:
    output, labels = random(2, 5, 7), torch.arange(14).reshape(2, 7) % 5
    expected = functional.cross_entropy(output, labels)
    assert float(Losses().total([output], [], None, labels)) == pytest.approx(float(expected), rel=1e-12)


def test_no_two_processes_or_batches_draw_the_same() -> None:
    found = [step_seed(0, epoch, index, rank) for epoch in range(3) for index in range(3) for rank in range(4)]
    found += [seed for epoch in (-1, 0, 1) for seed in islice(seeds(0, epoch), 5)]
    assert len(set(found)) == len(found)


def test_data_that_ends_before_the_last_step_says_when() -> None:
    pairs = [(torch.ones(4, 3), torch.zeros(4, 2))] * 2
    with pytest.raises(UsageError, match=r"training data came to its end after 2 of 5 steps\n  fix: a generator can be gone through once"):
        recover(nn.Linear(3, 2), iter(pairs), steps=5, accelerate=False)


def test_weights_of_zero_and_negative_options_say_so() -> None:
    pairs = [(torch.ones(4, 3), torch.zeros(4, 2))]
    with pytest.raises(UsageError, match="no teacher, and no labels in the data, or their weights are 0"):
        recover(nn.Linear(3, 2), pairs, label_weight=0.0, accelerate=False)
    with pytest.raises(UsageError, match="momentum is -1 and weight_decay 0, both need >= 0"):
        recover(nn.Linear(3, 2), pairs, momentum=-1.0, accelerate=False)
