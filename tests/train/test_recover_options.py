"""Numbers, functions and data of the caller that can't work, each refused by one error before or where it would do harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional

import graphopt
from graphopt.errors import UsageError
from graphopt.train import recover
from tests.support.recovering import batches, network, sparse


def error(student: object, data: object = None, **options: Any) -> str:
    given: dict[str, Any] = {"accelerate": False, "progress": False, "steps": 3, **options}
    with pytest.raises(UsageError) as caught:
        recover(student, batches() if data is None else data, **given)
    return str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("steps", 2.5, "steps is 2.5, needs a whole number"),
        ("steps", True, "steps is True, needs a whole number"),
        ("micro_batch", "4", "micro_batch is '4', needs a whole number"),
        ("checkpoint_every", None, "checkpoint_every is None, needs a whole number"),
        ("seed", "a", "seed is 'a', needs a whole number"),
        ("seed", None, "seed is None, needs a whole number"),
        ("lr", "0.1", "lr is '0.1', needs > 0"),
        ("lr", float("inf"), "lr is inf, needs > 0"),
        ("momentum", "0.9", "momentum is '0.9' and weight_decay 0, both need >= 0"),
        ("temperature", "2", "temperature is '2' and the weights are (1.0, 1.0, 1.0), needs temperature > 0"),
        ("label_weight", float("nan"), "the weights are (1.0, 1.0, nan), needs temperature > 0 and weights >= 0"),
        ("loss", "cross_entropy", "loss is 'cross_entropy', needs a function of outputs and labels"),
        ("metric", 0.9, "metric is a float, needs a function of a module that returns a number"),
        ("features", "0*", "features is the text '0*', needs a tuple of patterns\n  fix: features=('0*',)"),
    ],
)
def test_options_of_the_wrong_kind_are_named(
    student: graphopt.Graph, teacher: graphopt.Graph, option: str, value: object, says: str
) -> None:
    assert says in error(student, teacher=teacher, **{option: value})


def test_numbers_of_numpy_are_numbers(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    found = recover(student, batches(), teacher=teacher, steps=numpy.int64(2), lr=numpy.float32(0.01), accelerate=False)  # pyright: ignore[reportArgumentType]
    assert found.steps == 2


def raises(*_: object) -> torch.Tensor:
    raise ZeroDivisionError("zero rows")


def per_row(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs, labels, reduction="none")


def number(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    return functional.cross_entropy(outputs, labels).item()


def nothing(*_: object) -> None:
    return None


def detached(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs.detach(), labels)


def never_finite(outputs: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return outputs.sum() * float("nan")


def with_axes(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs, labels)[None]


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (raises, "the loss raised ZeroDivisionError: zero rows\n  fix: it was called with outputs of shapes [[8, 3]] and labels of shape"),
        (per_row, "the loss returned a tensor of shape [8], needs a tensor with one number\n  fix: return the mean over rows"),
        (number, "the loss returned a float, needs a tensor with one number"),
        (nothing, "the loss returned a NoneType, needs a tensor with one number"),
        (detached, "the loss returned a tensor without gradients, so nothing would be learned from it"),
        (never_finite, "the loss is nan at step 0, before anything was trained\n  fix: look at the model's outputs"),
    ],
)
def test_a_loss_that_can_t_be_trained_on_says_why(
    student: graphopt.Graph, teacher: graphopt.Graph, loss: Callable[..., Any], says: str
) -> None:
    pairs = [(x, torch.arange(8) % 3) for x in batches()]
    assert says in error(student, pairs, teacher=teacher, loss=loss)


def test_a_loss_without_labels_is_not_left_out_in_silence(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    assert "loss was given, and a batch has no labels for it" in error(student, teacher=teacher, loss=functional.cross_entropy)


def test_an_own_loss_of_one_number_may_have_axes(student: graphopt.Graph) -> None:
    pairs = [(x, torch.arange(8) % 3) for x in batches()]
    plain = recover(student, pairs, steps=2, loss=functional.cross_entropy, accelerate=False)
    axes = recover(student, pairs, steps=2, loss=with_axes, accelerate=False)
    assert [entry.loss for entry in plain.history] == [entry.loss for entry in axes.history]


def test_a_run_that_diverges_says_what_to_do_about_its_checkpoint(tmp_path: Path, student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    says = "the loss became inf at step 1\n  fix: use a smaller lr, and another checkpoint: this one goes on with its own lr alone"
    options: dict[str, Any] = {"teacher": teacher, "distillation": "mse", "checkpoint": tmp_path / "c.safetensors", "checkpoint_every": 1}
    assert says in error(student, lr=1e30, **options)
    assert "lr was 1e+30, is 0.001" in error(student, lr=0.001, **options)


def adam_of_another(_: object) -> torch.optim.Optimizer:
    return torch.optim.Adam(network().parameters())


def lbfgs(named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    return torch.optim.LBFGS([parameter for _, parameter in named])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (raises, "the function of the optimizer raised ZeroDivisionError: zero rows\n  fix: it gets a list of (name, parameter)"),
        (nothing, "the function of the optimizer returned a NoneType, needs a torch.optim.Optimizer"),
        (adam_of_another, "the Adam that the function of the optimizer returned has parameters that are not those of the student"),
        (lbfgs, "LBFGS evaluates the loss several times in a step (its step needs a closure), which recover does not do"),
        (torch.optim.Adam(network().parameters()), "optimizer is of the type Adam, needs 'sgd', 'adamw' or a function"),
    ],
)
def test_an_optimizer_that_would_train_nothing_says_so(student: graphopt.Graph, teacher: graphopt.Graph, make: Any, says: str) -> None:
    assert says in error(student, teacher=teacher, optimizer=make)


class Endless(torch.utils.data.IterableDataset[torch.Tensor]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from torch.randn(16, 1, 4, 4)


def test_a_loader_that_does_not_know_its_length_wants_steps(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    loader = torch.utils.data.DataLoader(Endless(), batch_size=8)
    assert "the length of training data of the type DataLoader is not known, so epochs can't be planned\n  fix: pass steps" in error(
        student, loader, teacher=teacher, steps=None
    )
    assert recover(student, loader, teacher=teacher, steps=5, accelerate=False).steps == 5
    small = torch.utils.data.DataLoader(Endless(), batch_size=4)
    fixed = graphopt.capture(network(), (torch.randn(16, 1, 4, 4),))
    assert "training data is empty" in error(fixed, small, teacher=teacher)


class NoLength:
    def __len__(self) -> int:
        raise OSError("disk")

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from batches()


def test_a_length_that_fails_says_so(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    assert "len() of training data raised OSError: disk" in error(student, NoLength(), teacher=teacher, steps=None)
    assert recover(student, NoLength(), teacher=teacher, steps=2, accelerate=False).steps == 2


def test_modules_take_arrays_of_numpy_as_graphs_do() -> None:
    found = [
        recover(sparse(), [{"input": x, "labels": labels}], teacher=network(), steps=2, accelerate=False).history[-1].loss
        for x, labels in ((batches(1)[0], torch.arange(8) % 3), (batches(1)[0].numpy(), numpy.arange(8) % 3))
    ]
    assert found[0] == found[1]


def test_a_function_as_teacher_says_what_would_do() -> None:
    original: nn.Module = network()
    says = "the teacher is a function, needs a result of optimize, a graph or a module\n  fix: make it a torch.nn.Module whose forward"
    assert says in error(sparse(), teacher=lambda x: original(x))  # pyright: ignore[reportUnknownLambdaType]
