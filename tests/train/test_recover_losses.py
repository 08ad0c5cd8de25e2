"""What recover() learns from: outputs, features and labels, of whole batches and in pieces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import UsageError
from graphopt.train import recover
from tests.support.recovering import batches, bits, network, sparse


def test_features_by_name(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    options: dict[str, Any] = {"teacher": teacher, "steps": 3, "accelerate": False, "batch_norm_batches": 0}
    plain = recover(student, batches(), **options)
    with_features = recover(student, batches(), features=("1*",), **options)
    assert plain.history[-1].loss != with_features.history[-1].loss
    only = recover(student, batches(), features=("*",), distillation_weight=0.0, **options)
    assert only.history[-1].loss is not None


class Labelled(nn.Module):
    """A token classifier: one prediction for each of four positions."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return self.second(self.first(input).tanh())


@pytest.mark.parametrize("own_loss", [False, True])
@pytest.mark.parametrize("distillation", ["kl", "mse"])
def test_micro_batches_have_the_gradients_of_the_whole(distillation: Any, own_loss: bool) -> None:
    """Features of very different sizes, and rows with few labels or none, so that equal weights of pieces would be wrong."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 4, 4, generator=generator, dtype=torch.float64) * torch.logspace(-2, 1, 7, dtype=torch.float64)[:, None, None]
    labels = torch.randint(0, 3, (7, 4), generator=generator)
    labels[torch.rand(7, 4, generator=generator) < 0.5] = -100
    labels[:3] = -100
    both = [graphopt.capture(Labelled(seed).double().eval(), (x,), dynamic={"input": {0: "batch"}}) for seed in (0, 1)]

    def loss(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((outputs.sum((1, 2)) - target.clamp(min=0).sum(1)) ** 2).mean()

    options: dict[str, Any] = {"teacher": both[1], "steps": 2, "features": ("first", "tanh*"), "distillation": distillation}
    options |= {"optimizer": lambda named: torch.optim.SGD([p for _, p in named], lr=0.5), "accelerate": False}  # pyright: ignore[reportUnknownLambdaType, reportUnknownVariableType]
    options |= {"loss": loss} if own_loss else {}
    whole = recover(both[0], [(x, labels)], **options)
    for rows in (1, 3, 7):
        pieces = recover(both[0], [(x, labels)], micro_batch=rows, **options)
        for name, weight in whole.module.named_parameters():
            assert torch.allclose(pieces.module.get_parameter(name), weight, rtol=1e-12, atol=1e-14), (rows, name)
        assert pieces.history[-1].loss == pytest.approx(whole.history[-1].loss, rel=1e-12)


def test_a_batch_without_any_label_teaches_nothing() -> None:
    module = Labelled(0)
    nothing = torch.full((2, 4), -100)
    found = recover(module, [(torch.randn(2, 4, 4), nothing)], steps=1, accelerate=False)
    assert bits(found.module) == bits(module)


def test_micro_batches_of_what_mixes_rows_are_refused(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    for model, name in ((student, "batch_norm|1"), (sparse(), "1"), (student.to_module(), "1")):
        with pytest.raises(UsageError, match=rf"micro_batch was given, and '({name})' is a batch norm: .*\n  fix: batch_norms=\"frozen\""):
            recover(model, batches(), teacher=network(), micro_batch=4, accelerate=False)

    class Frozen(nn.Sequential):
        """Leaves its batch norm in eval mode, as fine-tuning often does."""

        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self[1].eval()
            return self

    recover(Frozen(*sparse()), batches(), teacher=network(), micro_batch=4, batch_norm_batches=0, steps=1, accelerate=False)
    fixed = graphopt.capture(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval(), (torch.randn(8, 1, 4, 4),))
    with pytest.raises(UsageError, match=r"micro_batch is 4, and the graph was captured for batches of 8 rows alone\n  fix: capture with"):
        recover(fixed, batches(), teacher=network(), micro_batch=4, accelerate=False)
