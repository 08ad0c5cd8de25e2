"""recover(): what is learned and what is kept; more stands in the files whose names begin like this one's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.train import masks_of, recover
from tests.support.recovering import ROWS, batches, bits, distance, network, sparse


def test_the_outputs_come_back_and_zeros_stay(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    before = bits(student.to_module()), bits(teacher.to_module())
    found = recover(student, batches(), teacher=teacher, distillation="mse", epochs=10, lr=0.05, accelerate=False)
    assert distance(found.module, network()) < 0.5 * distance(sparse(), network())
    assert torch.equal(masks_of(found.module)["5.weight"], masks_of(student)["5.weight"])
    assert (bits(student.to_module()), bits(teacher.to_module())) == before  # what was given is as it was
    assert found.graph is not None
    assert bits(found.graph.to_module()) == bits(found.module)
    assert found.steps == 40
    assert str(found).startswith("40 steps, weights of step 40\n  step 40  loss ")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_module_is_trained_like_its_graph(optimizer: Any, student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    options: dict[str, Any] = {"steps": 6, "optimizer": optimizer, "accelerate": False, "weight_decay": 0.01}
    as_graph = recover(student, batches(labels=True), teacher=teacher, **options)
    as_module = recover(sparse(), batches(labels=True), teacher=network(), **options)
    assert as_module.graph is None
    for first, second in zip(as_graph.module.state_dict().values(), as_module.module.state_dict().values(), strict=True):
        assert torch.allclose(first, second, atol=1e-5)


def test_the_original_of_a_result_is_the_teacher() -> None:
    result = graphopt.optimize(network(), ["lossless-training"], example_inputs=(torch.randn(ROWS, 1, 4, 4),))
    found = recover(result, batches(), steps=1, accelerate=False)
    assert found.history[-1].loss is not None


def test_the_same_seed_gives_the_same_bits_and_leaves_the_generator(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.cat(batches())), batch_size=ROWS, shuffle=True)
    torch.manual_seed(5)
    expected = torch.random.get_rng_state()
    first, second, other = (recover(student, loader, teacher=teacher, epochs=2, seed=seed, accelerate=False) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert bits(first.module) == bits(second.module)
    assert bits(first.module) != bits(other.module)


def test_a_graph_of_fixed_rows_takes_larger_batches() -> None:
    graph = graphopt.capture(network(), (torch.randn(4, 1, 4, 4),))
    found = recover(graph, [*batches(2), torch.randn(3, 1, 4, 4)], teacher=network(1), epochs=1, accelerate=False)
    assert found.steps == 2


def test_the_best_weights_are_kept_and_it_stops_early(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    scores = iter([0.5, 0.7, 0.9, 0.6, 0.8, 0.1, 0.1])
    seen: list[list[bytes]] = []

    def metric(module: nn.Module) -> float:
        assert not module.training
        seen.append(bits(module))
        return next(scores)

    found = recover(student, batches(), teacher=teacher, steps=40, metric=metric, evaluate_every=2, patience=2, accelerate=False)
    assert found.stopped_early
    assert (found.steps, found.best_step) == (8, 4)
    assert [entry.metric for entry in found.history] == [0.5, 0.7, 0.9, 0.6, 0.8, 0.1]
    assert found.history[-1].note == "batch norms estimated again, not kept"
    assert bits(found.module) == seen[2]


def test_it_is_never_worse_than_at_the_start(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    found = recover(
        student, batches(), teacher=teacher, epochs=1, lr=5.0, metric=lambda module: -distance(module, network()), accelerate=False
    )
    assert distance(found.module, network()) <= distance(sparse(), network())


def test_layers_are_reconstructed_without_labels(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    found = recover(student, batches(12), teacher=teacher, layerwise=True, steps=0, batch_norm_batches=0, accelerate=False)
    assert found.reconstructed == ("5",)  # the convolution is the teacher's already
    assert torch.equal(masks_of(found.module)["5.weight"], masks_of(student)["5.weight"])
    assert distance(found.module, network()) < 0.5 * distance(sparse(), network())
