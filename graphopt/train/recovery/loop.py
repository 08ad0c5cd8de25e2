"""The loop of a recovery: steps, measurements, early stop, checkpoints.

Everything random comes from (seed, epoch, batch), so a run that goes on from a checkpoint needs no generator's state:
it passes over the batches that are done and computes the rest as it would have.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.utils.data.distributed import DistributedSampler

from graphopt.errors import UsageError
from graphopt.pipeline.context import Metric
from graphopt.train.batched.measure import watched_memory
from graphopt.train.recovery.batch_norm import reestimate_batch_norm
from graphopt.train.recovery.checkpoint import Checkpoint, discard_unfinished
from graphopt.train.recovery.data import TrainingBatch, items, length_of, read_batch
from graphopt.train.recovery.device import Runtime
from graphopt.train.recovery.gradients import Gradients
from graphopt.train.recovery.layout import Layout, knows_no_strides, laid_out
from graphopt.train.recovery.losses import Losses
from graphopt.train.recovery.metric import measured
from graphopt.train.recovery.network import Network
from graphopt.train.recovery.progress import ProgressBar

__all__ = ["Evaluation", "Training", "seeds", "step_seed"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A measurement: the mean training loss since the one before (None where no step was taken), and the metric."""

    step: int
    loss: float | None
    metric: float | None
    note: str = ""

    def __str__(self) -> str:
        loss = "" if self.loss is None else f"  loss {self.loss:.4g}"
        metric = "" if self.metric is None else f"  metric {self.metric:.6g}"
        return f"step {self.step}{loss}{metric}{f'  {self.note}' if self.note else ''}"


def seeds(*key: int) -> Iterator[int]:
    """Seeds that follow from numbers alone, one after the other."""
    for index in itertools.count():
        yield _seed(*key, index)


def step_seed(seed: int, epoch: int, index: int, rank: int) -> int:
    """The seed of a process for its step: other than those of `seeds` and of other ranks. (hash(-1) is hash(-2), so it is -2 from where on
    ranks count down.)"""
    return _seed(seed, epoch, index, -2 - rank)


def _seed(*key: int) -> int:
    return hash(key) & (2**63 - 1)


@dataclass(slots=True, kw_only=True)
class Training:
    """One run; see `recover` for what the options mean."""

    student: Network
    teacher: Network | None
    losses: Losses
    data: Iterable[object]
    optimizer: torch.optim.Optimizer
    runtime: Runtime
    metric: Metric | None
    steps: int | None
    epochs: int | None
    cosine: bool
    micro_batch: int | None
    evaluate_every: int | None
    patience: int | None
    checkpoint_every: int
    batch_norm_batches: int
    seed: int
    progress: bool | None
    measure_memory: bool | None = None
    layout: Layout | None = None
    """Of the weights of 2D convolutions; None leaves them where they are."""
    checkpoint: Checkpoint | None = None

    step: int = 0
    epoch: int = 0
    index: int = 0
    """Items of the epoch's data that are done."""
    best_step: int = 0
    stopped_early: bool = False
    finished: bool = False
    layers_done: int = 0
    reconstructed: list[str] = field(default_factory=list[str])
    history: list[Evaluation] = field(default_factory=list[Evaluation])
    seconds: list[float] = field(default_factory=list[float])
    """Of the steps that this process has taken, but for the one whose memory was measured."""
    peak_bytes: int | None = None
    _memory_measured: bool = False
    _best: dict[str, torch.Tensor] | None = None
    _best_metric: float = -math.inf
    _stale: int = 0
    _loss_sum: float = 0.0
    _loss_count: int = 0
    _rates: list[float] = field(default_factory=list[float])

    def run(self) -> None:
        """Train to the end, from where `resume` put it."""
        self._rates = [float(group["lr"]) for group in self.optimizer.param_groups] if not self._rates else self._rates
        total = self._total()
        devices = [self.runtime.device] if self.runtime.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), ProgressBar(total, self.progress, "recover") as bar:
            if self.finished:
                return
            self._move()
            with self._laid_out():
                network, optimizer = self.runtime.prepare(self.student.module, self.optimizer)
                if self.metric is not None and not self.history:
                    self._evaluate()
                while not self._is_over(total):
                    self._run_epoch(network, optimizer, total, bar)
                self._finish()
                self.save()

    def _move(self) -> None:
        """Everything onto the device."""
        if self.teacher is not None:
            self.teacher.module.to(self.runtime.device).eval().requires_grad_(False)
        self.student.module.to(self.runtime.device)
        for values in self.optimizer.state.values():
            for name, value in values.items():
                if isinstance(value, torch.Tensor) and value.dim():
                    values[name] = value.to(self.runtime.device)

    @contextlib.contextmanager
    def _laid_out(self) -> Generator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(laid_out(self.student, self.layout, self.optimizer))
            if self.teacher is not None and knows_no_strides(self.teacher):
                stack.enter_context(laid_out(self.teacher, self.layout))
            yield

    def _total(self) -> int:
        if self.steps is not None:
            return self.steps
        length = length_of(self.data)
        if length is None:
            raise UsageError(
                f"the length of training data of the type {type(self.data).__name__} is not known, so epochs can't be planned",
                fix="pass steps=1000 in place of epochs",
            )
        return max(1, length // self._share()) * (self.epochs or 1)

    def _share(self) -> int:
        """How many processes share the items: all, unless the loader's own sampler has divided them."""
        sampler = getattr(self.data, "sampler", None)
        return 1 if isinstance(sampler, DistributedSampler) else self.runtime.world

    def _is_over(self, total: int) -> bool:
        if self.stopped_early:
            return True
        return self.step >= total if self.steps is not None else self.epoch >= (self.epochs or 1)

    def _run_epoch(self, network: torch.nn.Module, optimizer: Any, total: int, bar: ProgressBar) -> None:
        share, group, used = self._share(), list[list[TrainingBatch]](), 0
        for index, item in enumerate(items(self.data, seeds(self.seed, self.epoch))):
            if index < self.index:
                used += 1
                continue
            pieces = read_batch(self.student.graph, item, index)
            if pieces:
                group.append(pieces)
            if len(group) < share or not pieces:
                continue
            used += 1
            torch.manual_seed(step_seed(self.seed, self.epoch, index, self.runtime.rank))
            self._measured_step(network, optimizer, group[self.runtime.rank if share > 1 else 0], total)
            group.clear()
            self.step += 1
            self.index = index + 1
            self._after_step(total, bar)
            if self.stopped_early or (self.steps is not None and self.step >= total):
                return
        if not used:
            raise self._nothing()
        self.epoch, self.index = self.epoch + 1, 0
        if self.metric is not None and self.evaluate_every is None:
            self._evaluate()

    def _nothing(self) -> UsageError:
        if length_of(self.data):
            return UsageError(
                "training data has no batch that fits: fewer rows than the graph was captured with, or fewer batches than processes",
                fix="use larger batches, or capture with a symbolic size: dynamic={'x': {0: 'batch'}}",
            )
        spent = isinstance(self.data, Iterator)
        return UsageError(
            f"training data came to its end after {self.step} of {self.steps} steps"
            if spent and self.step
            else f"training data is empty: no batch came out of the {type(self.data).__name__}",
            fix="a generator can be gone through once, and this one is at its end; give a list or a DataLoader"
            if spent
            else "give at least one batch",
        )

    def _measured_step(self, network: torch.nn.Module, optimizer: Any, batches: list[TrainingBatch], total: int) -> None:
        """A step and its time; of the second one the memory in place of that, as the first one makes what the optimizer remembers."""
        wanted = self.runtime.device.type == "cuda" if self.measure_memory is None else self.measure_memory
        if wanted and len(self.seconds) == 1 and not self._memory_measured:
            self._memory_measured = True
            optimizer.zero_grad()
            with watched_memory(self.runtime.device) as memory:
                self._step(network, optimizer, batches, total)
            self.peak_bytes = memory.peak_bytes
            return
        begin = time.perf_counter()
        self._step(network, optimizer, batches, total)
        self.seconds.append(time.perf_counter() - begin)

    def _step(self, network: torch.nn.Module, optimizer: Any, batches: list[TrainingBatch], total: int) -> None:
        if self.cosine:
            factor = 0.5 * (1 + math.cos(math.pi * min(self.step / max(total, 1), 1.0)))
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * factor
        self.student.train()
        optimizer.zero_grad()
        summed = self.runtime.mean(self._gradients().add(network, batches))
        if not math.isfinite(summed):
            raise self._diverged(summed)
        optimizer.step()
        self._loss_sum, self._loss_count = self._loss_sum + summed, self._loss_count + 1

    def _gradients(self) -> Gradients:
        return Gradients(self.student, self.teacher, self.losses, self.runtime, self.micro_batch)

    def _diverged(self, loss: float) -> UsageError:
        if not self.step:
            return UsageError(
                f"the loss is {loss} at step 0, before anything was trained", fix="look at the model's outputs for the first batch"
            )
        other = ", and another checkpoint: this one goes on with its own lr alone" if self.checkpoint else ""
        return UsageError(f"the loss became {loss} at step {self.step}", fix=f"use a smaller lr{other}")

    def _after_step(self, total: int, bar: ProgressBar) -> None:
        if self.evaluate_every is not None and self.step % self.evaluate_every == 0:
            self._evaluate()
        if self.step % self.checkpoint_every == 0:
            self.save()
        metric = f", metric {self.history[-1].metric:.4g}" if self.history and self.history[-1].metric is not None else ""
        bar.update(min(self.step, total), f"loss {self._loss_sum / self._loss_count:.4g}{metric}" if self._loss_count else metric)

    def _evaluate(self, note: str = "") -> float:
        loss = self._loss_sum / self._loss_count if self._loss_count else None
        self._loss_sum, self._loss_count = 0.0, 0
        self.runtime.align(self.student.module)
        value = self._measure()
        self.history.append(Evaluation(self.step, loss, value, note))
        if value is None:
            return -math.inf
        if value > self._best_metric or self._best is None:
            self._best_metric, self.best_step, self._stale = value, self.step, 0
            self._best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _tensors(self.student)}
        elif not note:
            self._stale += 1
            self.stopped_early = self.patience is not None and self._stale >= self.patience
        return value

    def _measure(self) -> float | None:
        """The metric, as the first process has measured it: all have to take the same turn."""
        return None if self.metric is None else self.runtime.first(measured(self.metric, self.student))

    def _finish(self) -> None:
        if self.metric is None:
            self._evaluate()
            self.best_step = self.step
        elif self.history[-1].step != self.step:
            self._evaluate()
        if self._best is not None:
            _restore(self.student, self._best)
        before = {name: tensor.detach().clone() for name, tensor in _tensors(self.student)}
        if self.batch_norm_batches and reestimate_batch_norm(self.student, self._statistics_batches()) and self.metric is not None:
            value = self._measure()
            assert value is not None, "there is a metric"
            kept = value >= self._best_metric
            note = "batch norms estimated again" if kept else "batch norms estimated again, not kept"
            self.history.append(Evaluation(self.step, None, value, note))
            if not kept:
                _restore(self.student, before)
        self.student.module.eval()
        self.finished = True

    def _statistics_batches(self) -> Iterator[TrainingBatch]:
        count = 0
        for index, item in enumerate(items(self.data, seeds(self.seed, -1))):
            for batch in read_batch(self.student.graph, item, index):
                if count >= self.batch_norm_batches:
                    return
                count += 1
                yield batch.to(self.runtime.device)

    def save(self) -> None:
        """Write the checkpoint, where there is one; the first process does."""
        if self.checkpoint is None or self.runtime.rank:
            return
        self.checkpoint.save(
            {
                "module": {name: tensor.detach() for name, tensor in _tensors(self.student)},
                "optimizer": self.optimizer.state_dict(),
                "rates": self._rates,
                "place": [self.step, self.epoch, self.index, self.best_step, self._stale, self._loss_count, self.layers_done],
                "flags": [self.stopped_early, self.finished],
                "numbers": [self._best_metric, self._loss_sum],
                "best": self._best,
                "layout": self.layout,
                "planned": {} if self.student.planned is None else self.student.planned.sizes,
                "reconstructed": self.reconstructed,
                "history": [asdict(evaluation) for evaluation in self.history],
            }
        )

    def resume(self) -> int:
        """Go on from the checkpoint where there is one; the number of steps that are done."""
        found = None
        if self.checkpoint is not None:
            discard_unfinished(self.checkpoint.path.parent, self.checkpoint.path.name)
            found = self.checkpoint.load()
            self._agree(self.checkpoint, found)
        if found is None:
            return 0
        _restore(self.student, found["module"])
        self.optimizer.load_state_dict(found["optimizer"])
        self._rates = found["rates"]
        self.step, self.epoch, self.index, self.best_step, self._stale, self._loss_count, self.layers_done = found["place"]
        self.stopped_early, self.finished = found["flags"]
        self._best_metric, self._loss_sum = found["numbers"]
        self._best = found["best"]
        self.reconstructed = found["reconstructed"]
        self.layout = found.get("layout")  # another one gives other bits, so it stays as it was begun
        if self.student.planned is not None and (found.get("planned") or self.step):
            self.student.planned.prepare(found.get("planned", {}))  # the same plan adds gradients in the same order
        self.history = [Evaluation(**entry) for entry in found["history"]]
        return self.step

    def _agree(self, checkpoint: Checkpoint, found: dict[str, Any] | None) -> None:
        """All processes have to go on from the same place, and the first one must not write before all have read.

        Raises:
            UsageError: a process has another checkpoint than the first, or none.
        """
        mine = -1.0 if found is None else float(sum(found["place"]))
        same = self.runtime.first(mine) == mine
        if self.runtime.mean(float(same)) < 1:
            raise UsageError(
                f"checkpoint {checkpoint.path} is not the same in all processes",
                fix="give a file in a folder that all machines see",
            )


def _tensors(network: Network) -> list[tuple[str, torch.Tensor]]:
    return [*network.module.named_parameters(), *network.module.named_buffers()]


@torch.no_grad()
def _restore(network: Network, saved: dict[str, torch.Tensor]) -> None:
    for name, tensor in _tensors(network):
        tensor.copy_(saved[name])
