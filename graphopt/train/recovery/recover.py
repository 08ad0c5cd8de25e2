"""recover(): train a network that was made smaller or sparse for a while, so that it is as good as it was.

    result = graphopt.optimize(model, ["sparsify-magnitude{ratio=0.8}"], example_inputs=(x,))
    recovered = graphopt.train.recover(result, loader, metric=accuracy, epochs=2, checkpoint="recover.safetensors")
    recovered.module, recovered.graph

The original is the teacher; zeros of sparse parameters stay zero. docs/training.md tells more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from statistics import median
from typing import Literal

from torch import nn

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.pipeline.context import Metric
from graphopt.train.batched.planned import ActivationMemory
from graphopt.train.recovery.checkpoint import Checkpoint, fingerprint
from graphopt.train.recovery.data import check_data
from graphopt.train.recovery.device import runtime
from graphopt.train.recovery.layers import reconstruct_layers
from graphopt.train.recovery.layout import MemoryFormat, chosen_layout
from graphopt.train.recovery.loop import Training
from graphopt.train.recovery.losses import Distillation, Loss, Losses
from graphopt.train.recovery.network import Network, graph_of, shared_features
from graphopt.train.recovery.optimizer import OptimizerChoice, chosen_optimizer
from graphopt.train.recovery.options import (
    check_choices,
    check_counts,
    check_frozen,
    check_length,
    check_memory,
    check_metric,
    check_micro_batch,
)
from graphopt.train.recovery.result import Recovery

__all__ = ["recover"]

_DECIDING = ("steps", "epochs", "cosine", "micro_batch", "evaluate_every", "patience", "seed")
"""Options of `Training` that have to be equal for a run to go on from its checkpoint."""


def recover(
    model: object,
    data: object,
    *,
    teacher: object = None,
    loss: Loss | None = None,
    distillation: Distillation = "kl",
    temperature: float = 2.0,
    features: Sequence[str] = (),
    distillation_weight: float = 1.0,
    feature_weight: float = 1.0,
    label_weight: float = 1.0,
    metric: Metric | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    optimizer: OptimizerChoice = "sgd",
    lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    lr_schedule: Literal["cosine", "constant"] = "cosine",
    micro_batch: int | None = None,
    activation_memory: ActivationMemory = None,
    memory_format: MemoryFormat = "auto",
    layerwise: bool = False,
    batch_norms: Literal["train", "frozen"] = "train",
    batch_norm_batches: int = 100,
    evaluate_every: int | None = None,
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
    progress: bool | None = None,
    measure_memory: bool | None = None,
    seed: int = 0,
    accelerate: bool | None = None,
) -> Recovery:
    """Train a copy of `model`, which is a result of `optimize`, a graph or a module; what was given stays as it is.

    `data` is a loader or list of batches, gone through `epochs` times (1 by default) or for `steps`; batches may have
    labels. The `teacher` is by default the original of a result. What is learned: the teacher's outputs (`distillation`
    "kl" of classes at a `temperature`, or "mse"), the teacher's `features` (name patterns of values that both graphs
    have in one shape), and labels (`loss(outputs, labels)`, or cross-entropy and squared error); each has a weight.

    `optimizer` is "sgd" or "adamw", the ones of this package that keep zeros, with `lr` (0.01 and 0.0001 by default),
    `momentum` and `weight_decay`; or a function of the named parameters that returns any of torch's, after whose steps
    zeros are written again (a `SparseOptimizer` follows its own masks). `lr` falls to zero as a cosine over the run.
    Batches are worked on in pieces of `micro_batch` rows, which changes memory and not the gradients (dropout draws other
    numbers, and a `loss` of your own has to be a mean over rows); with batch norms there is no such thing. With
    `activation_memory`, bytes or "least", parts of the graph are run again in the backward pass in place of keeping their
    activations, with the same gradients (`plan_checkpoints`); the bytes are for a batch, or piece, of the largest size.
    `memory_format` says how weights of 2D convolutions lie meanwhile: "auto" is channels last for float32 graphs with grouped
    ones on CPUs, which train faster so; afterwards they lie as before. `layerwise` first fits each layer to the teacher's by
    least squares, which needs no labels; then `steps=0` is allowed.

    `metric` (of a module, higher is better) is measured at the start, every `evaluate_every` steps (an epoch by default)
    and at the end. The best weights are kept, and training stops after `patience` measurements without better ones. At
    the end batch norms get the statistics of up to `batch_norm_batches` batches, unless the metric is worse for it. With
    `batch_norms="frozen"` they keep those that they have and use them throughout: for batches that are too small, or of
    another kind than what the network was trained on.

    With `checkpoint`, a file, the state is written every `checkpoint_every` steps. The same call again goes on from
    there and computes what it would have without the interruption, to the bit; a finished one returns at once.

    The time of steps is always measured. The memory of one is with `measure_memory`: None does it on CUDA, where it costs nothing,
    true also on the CPU, by torch's profiler.

    It runs through `accelerate` where that is installed (`accelerate launch` for several processes), and alone on one
    device otherwise. `seed` decides everything that is random: torch's generator is seeded for each batch, and put back.

    Raises:
        UsageError: arguments that make no sense together; data that is empty, does not fit, or has NaN; a loss that is
            not finite.
        ArtifactError: the checkpoint is damaged.
    """
    check_length(epochs, steps)
    check_counts(0 if layerwise else 1, steps=steps)
    check_counts(1, epochs=epochs, checkpoint_every=checkpoint_every, evaluate_every=evaluate_every, patience=patience)
    check_counts(1, micro_batch=micro_batch)
    check_counts(0, batch_norm_batches=batch_norm_batches)
    check_counts(None, seed=seed)
    check_choices(lr_schedule, batch_norms, features)
    check_metric(metric, patience, evaluate_every)
    check_memory(activation_memory)
    frozen = batch_norms == "frozen"
    losses = Losses(distillation, temperature, distillation_weight, feature_weight, label_weight, loss)
    batches = check_data(data)
    student, tutor, taught = _networks(model, teacher, features, layerwise, activation_memory, frozen_norms=frozen)
    if frozen:
        check_frozen(student)
    if micro_batch is not None:
        check_micro_batch(student)
    devices = runtime(accelerate=accelerate)
    made = chosen_optimizer(optimizer, student.module, lr, momentum, weight_decay)
    training = Training(
        student=student,
        teacher=tutor,
        losses=losses,
        data=batches,
        optimizer=made,
        runtime=devices,
        metric=metric,
        steps=steps,
        epochs=1 if steps is None and epochs is None else epochs,
        cosine=lr_schedule == "cosine",
        micro_batch=micro_batch,
        evaluate_every=evaluate_every,
        patience=patience,
        checkpoint_every=checkpoint_every,
        batch_norm_batches=0 if frozen else batch_norm_batches,
        seed=seed,
        progress=progress,
        measure_memory=measure_memory,
        layout=chosen_layout(memory_format, student, made, devices.device),
    )
    if checkpoint is not None:
        chosen = {
            "optimizer": _name(optimizer),
            "lr": float(made.param_groups[0]["lr"]),
            "momentum": momentum,
            "weight_decay": weight_decay,
        }
        chosen |= {} if activation_memory is None else {"activation_memory": activation_memory}
        chosen |= {"batch_norms": batch_norms} if frozen else {}
        chosen |= {} if memory_format == "auto" else {"memory_format": memory_format}
        training.checkpoint = _checkpoint(checkpoint, training, {**chosen, "layerwise": layerwise})
    resumed_at = training.resume()
    if layerwise and not training.history and isinstance(taught, Graph):
        _reconstruct(training, taught)
    training.run()
    graph = student.publish_graph()
    corrected = student.correct_annotations()
    return Recovery(
        student.publish(),
        graph,
        training.step,
        resumed_at,
        training.best_step,
        training.stopped_early,
        tuple(training.history),
        tuple(training.reconstructed),
        corrected,
        median(training.seconds) if training.seconds else None,
        training.peak_bytes,
        None if student.planned is None else student.planned.plan,
    )


def _networks(
    model: object, teacher: object, features: Sequence[str], layerwise: bool, activation_memory: ActivationMemory, *, frozen_norms: bool
) -> tuple[Network, Network | None, Graph | nn.Module | None]:
    """The student, and the teacher as a network and as it was given, where there is one."""
    source = graph_of(model, "student")
    given = teacher if teacher is not None else _original(model)
    taught = None if given is None else graph_of(given, "teacher")
    names = _feature_names(source, taught, features)
    if layerwise and not (isinstance(source, Graph) and isinstance(taught, Graph)):
        raise UsageError("layerwise compares layers of two graphs", fix="give a result of optimize, or graphs as model and teacher")
    if activation_memory is not None and not isinstance(source, Graph):
        raise UsageError(
            "activation_memory is planned by a graph, and the student is a module",
            fix="give a result of optimize, or graphopt.capture(model, ...)",
        )
    tutor = None if taught is None else Network(taught, names, copied=isinstance(taught, nn.Module))
    return Network(source, names, activation_memory=activation_memory, frozen_norms=frozen_norms), tutor, taught


def _checkpoint(path: str | os.PathLike[str], training: Training, options: Mapping[str, object]) -> Checkpoint:
    """The file of a run that is known by the numbers of student and teacher, and by these options.

    The data is not among them: what a loader gives may come from random numbers that are not torch's.
    """
    losses = training.losses
    deciding = {name: getattr(training, name) for name in _DECIDING}
    deciding |= {field.name: getattr(losses, field.name) for field in fields(losses)}
    deciding |= {
        "loss": None if losses.loss is None else _name(losses.loss),
        "features": training.student.features,
        "world": training.runtime.world,
        **options,
    }
    numbers = [(f"student.{name}", tensor) for name, tensor in training.student.module.state_dict().items()]
    if training.teacher is not None:
        numbers += [(f"teacher.{name}", tensor) for name, tensor in training.teacher.module.state_dict().items()]
    return Checkpoint(path, fingerprint(numbers, deciding), deciding)


def _name(choice: object) -> str:
    """A text or a function by name: the same in the next process."""
    return choice if isinstance(choice, str) else getattr(choice, "__qualname__", type(choice).__name__)


def _reconstruct(training: Training, taught: Graph) -> None:
    """Fit the layers that are left, with a checkpoint after each."""

    def done(count: int, changed: str | None) -> None:
        training.layers_done = count
        training.reconstructed += [changed] if changed is not None else []
        training.save()

    reconstruct_layers(
        training.student, taught, training.data, seed=training.seed, start=training.layers_done, done=done, progress=training.progress
    )


def _original(model: object) -> Graph | None:
    found = getattr(model, "original", None) if not isinstance(model, nn.Module | Graph) else None
    return found if isinstance(found, Graph) else None


def _feature_names(student: Graph | nn.Module, teacher: Graph | nn.Module | None, patterns: Sequence[str]) -> tuple[str, ...]:
    if not patterns:
        return ()
    if not isinstance(student, Graph) or not isinstance(teacher, Graph):
        raise UsageError(
            "features are values of graphs by name, and student or teacher is none", fix="give graphs: graphopt.capture(model, ...)"
        )
    return shared_features(student, teacher, patterns)
