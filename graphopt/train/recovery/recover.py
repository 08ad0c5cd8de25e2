"""recover(): train a network that was made smaller or sparse for a while, so that it is as good as it was.

    result = graphopt.optimize(model, ["sparsify-magnitude{ratio=0.8}"], example_inputs=(x,))
    recovered = graphopt.train.recover(result, loader, metric=accuracy, epochs=2, checkpoint="recover.safetensors")
    recovered.module, recovered.graph

The original is the teacher; zeros of sparse parameters stay zero. docs/training.md tells more.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import nn

from graphopt.analysis.table import counted, scaled
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.pipeline.context import Metric
from graphopt.train.batched.checkpointing import CheckpointPlan
from graphopt.train.batched.planned import ActivationMemory
from graphopt.train.optimizers import SparseAdamW, SparseOptimizer, SparseSGD, keep_zeros
from graphopt.train.recovery.checkpoint import Checkpoint, fingerprint
from graphopt.train.recovery.data import check_data
from graphopt.train.recovery.device import runtime
from graphopt.train.recovery.layers import reconstruct_layers
from graphopt.train.recovery.layout import MemoryFormat, chosen_layout
from graphopt.train.recovery.loop import Evaluation, Training
from graphopt.train.recovery.losses import Distillation, Loss, Losses
from graphopt.train.recovery.network import Network, graph_of, shared_features

__all__ = ["OptimizerChoice", "Recovery", "recover"]

OptimizerChoice: TypeAlias = 'Literal["sgd", "adamw"] | Callable[[list[tuple[str, nn.Parameter]]], torch.optim.Optimizer]'


@dataclass(frozen=True, slots=True)
class Recovery:
    """What `recover` returns.

    `module` is the trained network in eval mode, called as before; `graph` its graph, None where a module was given.
    `steps` were taken in all, the first `resumed_at` of them by a run that was stopped; the weights are those of step
    `best_step`. `history` has what was measured. `reconstructed` are the layers that were fitted to the teacher.
    `corrected` are annotations of sparsity that the training has made untrue, and what stands in the graph instead.

    `seconds_per_step` is the median of this process, `peak_bytes` what one step allocates at most at once (activations and
    gradients) beyond what was there before. Both are None where no step was measured. `plan` is what was run again in the
    backward pass, for the largest batch, where there was an `activation_memory`.
    """

    module: nn.Module
    graph: Graph | None
    steps: int
    resumed_at: int
    best_step: int
    stopped_early: bool
    history: tuple[Evaluation, ...]
    reconstructed: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()
    seconds_per_step: float | None = None
    peak_bytes: int | None = None
    plan: CheckpointPlan | None = None

    def __str__(self) -> str:
        early = ", stopped early" if self.stopped_early else ""
        head = f"{counted(self.steps, 'step')}{early}, weights of step {self.best_step}"
        return "\n".join([head, *(f"  {line}" for line in (*self.history, *self.corrected, *self._costs()))])

    def _costs(self) -> Iterator[str]:
        if self.seconds_per_step is not None:
            memory = "" if self.peak_bytes is None else f", {scaled(self.peak_bytes, 'B')} of memory at its peak"
            yield f"{self.seconds_per_step:.3g} s per step{memory}"
        if self.plan is not None:
            yield str(self.plan)


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
    _check(epochs, steps, layerwise, checkpoint_every, evaluate_every, patience, metric, micro_batch, lr_schedule, batch_norm_batches)
    _check_memory(activation_memory)
    if batch_norms not in ("train", "frozen"):
        raise UsageError(f"batch_norms is {batch_norms!r}, needs 'train' or 'frozen'")
    frozen = batch_norms == "frozen"
    losses = Losses(distillation, temperature, distillation_weight, feature_weight, label_weight, loss)
    batches = check_data(data)
    student, tutor, taught = _networks(model, teacher, features, layerwise, activation_memory, frozen_norms=frozen)
    if frozen:
        _check_frozen(student)
    if micro_batch is not None:
        _check_micro_batch(student)
    devices = runtime(accelerate=accelerate)
    made = _optimizer(optimizer, student.module, lr, momentum, weight_decay)
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
        training.checkpoint = Checkpoint(checkpoint, _run(training, {**chosen, "layerwise": layerwise}))
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
        statistics.median(training.seconds) if training.seconds else None,
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


def _run(training: Training, options: Mapping[str, object]) -> str:
    """What a checkpoint has to be of: these numbers of student and teacher, and these options.

    The data is not among them: what a loader gives may come from random numbers that are not torch's.
    """
    losses = training.losses
    deciding = {name: getattr(training, name) for name in _DECIDING} | {
        "losses": replace(losses, loss=None),
        "loss": None if losses.loss is None else _name(losses.loss),
        "features": training.student.features,
        "world": training.runtime.world,
    }
    numbers = [(f"student.{name}", tensor) for name, tensor in training.student.module.state_dict().items()]
    if training.teacher is not None:
        numbers += [(f"teacher.{name}", tensor) for name, tensor in training.teacher.module.state_dict().items()]
    return fingerprint(numbers, {**deciding, **options})


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


def _check_memory(memory: object) -> None:
    if memory is None or memory == "least" or (isinstance(memory, int) and not isinstance(memory, bool) and memory >= 1):
        return
    raise UsageError(f"activation_memory is {memory!r}, needs bytes or 'least'", fix="activation_memory=2 << 30")


def _check_frozen(student: Network) -> None:
    norm = student.mixes_rows()
    if norm is not None:
        raise UsageError(
            f"batch_norms is 'frozen', and '{norm}' computes with the statistics of its batch whatever the mode is",
            fix="give the result of optimize or its graph in place of a module that was made of one; a batch norm needs running statistics",
        )


def _check_micro_batch(student: Network) -> None:
    norm = student.mixes_rows()
    if norm is not None:
        raise UsageError(
            f"micro_batch was given, and '{norm}' is a batch norm: it computes with the statistics of all rows that it sees at once",
            fix='batch_norms="frozen", or smaller batches in place of micro_batch, or fold them into their layers first: fold-batch-norm',
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


def _optimizer(choice: OptimizerChoice, module: nn.Module, lr: float | None, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not named:
        raise UsageError("the student has no parameter that could be trained", fix="parameters need requires_grad=True at capture")
    if lr is not None and not lr > 0:
        raise UsageError(f"lr is {lr:g}, needs > 0")
    if not (momentum >= 0 and weight_decay >= 0):
        raise UsageError(f"momentum is {momentum:g} and weight_decay {weight_decay:g}, both need >= 0")
    if choice == "sgd":
        return SparseSGD(
            named, 0.01 if lr is None else lr, momentum=momentum, nesterov=momentum > 0, weight_decay=weight_decay, masks=module
        )
    if choice == "adamw":
        return SparseAdamW(named, 1e-4 if lr is None else lr, weight_decay=weight_decay, masks=module)
    if not callable(choice):
        raise UsageError(f"optimizer is {choice!r}, needs 'sgd', 'adamw' or a function of the named parameters")
    made = choice(named)
    if not isinstance(made, SparseOptimizer):  # one of these has masks of its own, which schedules may move
        keep_zeros(made, module)
    return made


def _check(
    epochs: int | None,
    steps: int | None,
    layerwise: bool,
    checkpoint_every: int,
    evaluate_every: int | None,
    patience: int | None,
    metric: Metric | None,
    micro_batch: int | None,
    lr_schedule: str,
    batch_norm_batches: int,
) -> None:
    if epochs is not None and steps is not None:
        raise UsageError(f"epochs={epochs} and steps={steps} were both given", fix="give one of them")
    least = 0 if layerwise else 1
    for name, number, minimum in (
        ("epochs", epochs, 1),
        ("steps", steps, least),
        ("checkpoint_every", checkpoint_every, 1),
        ("evaluate_every", evaluate_every, 1),
        ("patience", patience, 1),
        ("micro_batch", micro_batch, 1),
        ("batch_norm_batches", batch_norm_batches, 0),
    ):
        if number is not None and number < minimum:
            raise UsageError(f"{name} is {number}, needs at least {minimum}")
    if metric is None and (patience is not None or evaluate_every is not None):
        raise UsageError("patience and evaluate_every were given without a metric, which they wait for", fix="pass metric=function(module)")
    if lr_schedule not in ("cosine", "constant"):
        raise UsageError(f"lr_schedule is '{lr_schedule}', needs 'cosine' or 'constant'")
