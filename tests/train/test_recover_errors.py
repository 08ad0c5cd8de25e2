"""What recover() says to data and arguments that make no sense."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import UsageError
from graphopt.train import recover
from tests.support.recovering import batches, network, sparse


def test_bad_data_gives_one_clear_error(student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    def error(data: object, **options: Any) -> str:
        given: dict[str, Any] = {"teacher": teacher, "accelerate": False, **options}
        with pytest.raises(UsageError) as caught:
            recover(student, data, **given)
        return str(caught.value)

    assert error([]).startswith("training data is empty: no batch came out of the list\n  fix: give at least one batch")
    spent = iter(batches(1))
    next(spent)
    assert "a generator can be gone through once" in error(spent, steps=1)
    assert "The length of training data".lower() in error(iter(batches()), epochs=1).lower()
    nan = batches(2)
    nan[1][0, 0, 1, 2] = float("nan")
    assert error(nan).startswith("training batch 1: %input has 1 NaN or infinite values among 128, the first at (0, 0, 1, 2)\n  fix: clean")
    assert error([torch.randn(8, 2, 4, 4)]).startswith("training batch 0: ")
    assert "f64" in error([torch.randn(8, 1, 4, 4, dtype=torch.float64)])
    assert "labels go from 0 to 7, the output has 3 classes\n  fix: number the classes from 0 to 2, and give -100 to" in error(
        [(batches(1)[0], torch.arange(8))]
    )
    assert "labels of shape [2] fit none of the outputs ([8, 3])" in error([(batches(1)[0], torch.ones(2).long())])
    assert "labels has 8 NaN" in error([(batches(1)[0], torch.full((8,), float("nan")))])
    assert "is the dataset TensorDataset, which gives samples" in error(torch.utils.data.TensorDataset(batches(1)[0]))
    assert "training data is a int, needs a DataLoader" in error(3)

    def broken() -> Iterator[torch.Tensor]:
        yield batches(1)[0]
        raise OSError("disk")

    assert error(broken(), steps=5).startswith("training data raised OSError at batch 1: disk")
    fixed = graphopt.capture(network(), (torch.randn(16, 1, 4, 4),))
    with pytest.raises(UsageError, match=r"training data has no batch that fits: fewer rows than the graph was captured with"):
        recover(fixed, batches(), teacher=teacher, accelerate=False)


def test_arguments_that_make_no_sense_say_so(tmp_path: Path, student: graphopt.Graph, teacher: graphopt.Graph) -> None:
    def error(model: object = student, data: object = None, **options: Any) -> str:
        with pytest.raises(UsageError) as caught:
            recover(model, data or batches(), accelerate=False, **options)
        return str(caught.value)

    assert error().startswith(
        "there is nothing to learn from: no teacher, and no labels in the data, or their weights are 0\n  fix: pass teacher=original"
    )
    assert error(3).startswith("the student is a int, needs a result of optimize, a graph or a module")
    assert error(teacher="resnet").startswith("the teacher is a str")
    text = "graph g(%x: f32[1,4]) {\n  param %w: f32[4,4]\n  %y: f32[1,4] = linear(%x, %w, none)\n  return %y\n}\n"
    assert error(graphopt.parse(text)).startswith("the student has no numbers for %w")
    assert "epochs=1 and steps=1 were both given" in error(epochs=1, steps=1)
    assert "steps is 0, needs at least 1" in error(steps=0)
    assert "patience and evaluate_every were given without a metric" in error(patience=1)
    assert "lr_schedule is 'linear', needs 'cosine' or 'constant'" in error(lr_schedule="linear")
    assert "optimizer is 'lion', needs 'sgd', 'adamw'" in error(teacher=teacher, optimizer="lion")
    assert "lr is -1, needs > 0" in error(teacher=teacher, lr=-1.0)
    assert "distillation is 'cosine', needs 'kl'" in error(teacher=teacher, distillation="cosine")
    assert "temperature is 0.0 and the weights are" in error(teacher=teacher, temperature=0.0)
    assert "features='nothing*' is no value that student and teacher have" in error(teacher=teacher, features=("nothing*",))
    assert "features are values of graphs by name" in error(sparse(), teacher=network(), features=("*",))
    assert "layerwise compares layers of two graphs" in error(sparse(), teacher=network(), layerwise=True)
    assert "the student's outputs have the shapes [[8, 3]], the teacher's [[8, 2]]" in error(
        sparse(), teacher=nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    )
    assert "can't be written\n  fix: give a file in a folder that exists" in error(teacher=teacher, checkpoint=tmp_path / "no" / "c.pt")
    assert "activation_memory is 0, needs bytes or 'least'" in error(teacher=teacher, activation_memory=0)
    assert "activation_memory is planned by a graph, and the student is a module" in error(
        sparse(), teacher=network(), activation_memory="least"
    )
    assert "the student has no parameter that could be trained" in error(nn.ReLU(), teacher=network())
    assert "the loss became inf at step 1\n  fix: use a smaller lr" in error(teacher=teacher, lr=1e30, distillation="mse", epochs=5)
    assert "the metric raised ZeroDivisionError" in error(teacher=teacher, metric=lambda _: 1 / 0)  # pyright: ignore[reportUnknownLambdaType]
    assert "the metric returned a str, needs one number" in error(teacher=teacher, metric=lambda _: "good")  # pyright: ignore[reportUnknownLambdaType]
    assert "the metric is nan, needs a finite number" in error(teacher=teacher, metric=lambda _: float("nan"))  # pyright: ignore[reportUnknownLambdaType]
