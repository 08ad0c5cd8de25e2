"""Our passes, each as a pipeline text with the ratio filled in, and `graphopt.train.recover`."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

import graphopt
from graphopt import train
from graphopt.ir.graph import Graph
from tools.bench_quality.finetuning import Lesson
from tools.bench_quality.tasks.base import Task
from tools.bench_sparsity.methods.arm import RATIOS, Arm, Sparse
from tools.bench_sparsity.subject import Subject

__all__ = ["OURS", "SHRUNK_RATIOS", "Pipeline", "recovered"]

SHRUNK_RATIOS = (0.6, 0.45, 0.3)
"""Parts of the time of the dense network in our CPU backend, for a batch of calibration data on one thread."""


def _pair(lesson: Lesson) -> tuple[torch.Tensor, ...]:
    """Inputs and one target for `recover`: the dense network's outputs, with the label in a last column where there is one."""
    item, wanted = lesson.item, lesson.wanted
    return (*item.inputs, wanted if item.target is None else torch.cat([wanted, item.target[:, None].to(wanted.dtype)], 1))


def recovered(task: Task, graph: Graph, given: list[Lesson], seed: int, rate: float) -> train.Recovery:
    """`recover` with the loss, batches, steps and rate that every method gets."""

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        width = output.shape[1]
        return task.loss(output, target[:, :width], target[:, width].long() if target.shape[1] > width else None)

    return train.recover(
        graph,
        [_pair(lesson) for lesson in given],
        loss=loss,
        steps=len(given),
        optimizer="adamw",
        lr=rate,
        weight_decay=1e-4,
        batch_norms="train" if task.schedule.trains_norms else "frozen",
        progress=False,
        seed=seed,
        accelerate=False,
    )


@dataclass
class Passed(Sparse):
    """What came out of a pipeline."""

    graph: Graph
    module: torch.nn.Module
    settings: str
    notes: tuple[str, ...] = ()
    recovery: int = 1

    def finished(self) -> torch.nn.Module:
        """The graph's module."""
        return self.module.eval()

    def train(self, subject: Subject, seed: int, rate: float) -> None:
        """Recover."""
        found = recovered(subject.task, self.graph, subject.lessons(seed, self.recovery), seed, rate)
        assert found.graph is not None, "a graph was given"
        self.graph, self.module = found.graph, found.module

    def kept(self) -> tuple[Graph, torch.nn.Module]:
        """Graph and module, which training leaves as they are."""
        return self.graph, self.module

    def put_back(self, kept: tuple[Graph, torch.nn.Module]) -> None:
        """The same graph and module."""
        self.graph, self.module = kept


@dataclass(frozen=True)
class Pipeline(Arm):
    """A pipeline text with `{ratio}`, and `{width}` for the multiple that widths are kept at; passes by semicolons."""

    name: str
    text: str
    draws: bool = False
    timed: bool = False
    ratios: tuple[float, ...] = field(default=RATIOS)
    shrinks: bool = False
    recovery: int = 1

    def sparsify(self, subject: Subject, ratio: float, seed: int) -> Sparse:
        """Run it, with calibration data of this seed."""
        text = self.text.replace("{ratio}", f"{ratio:g}").replace("{width}", str(subject.task.width))
        result = graphopt.optimize(
            subject.graph,
            text.split("; "),
            calibration=subject.calibration(seed) if self.draws else None,
            calibration_samples=512,
            check="off",
            strict=True,
            seed=seed,
        )
        notes = tuple(note for record in result.pipeline.records for note in record.notes)
        return Passed(result.graph, result.module, text, notes[:1], self.recovery)


_SHRINK = 'shrink-to-budget{latency={ratio}, target="cpu", importance="taylor", multiple_of={width}, compensation="least-squares"}'


def _shrunk(name: str, *after: str) -> Pipeline:
    """A network for use: smaller first, trained for longer than methods that are compared with each other."""
    return Pipeline(name, "; ".join((_SHRINK, *after)), draws=True, timed=True, ratios=SHRUNK_RATIOS, shrinks=True, recovery=5)


OURS: tuple[Arm, ...] = (
    Pipeline("ours: obs", "sparsify-obs{ratio={ratio}}", draws=True, timed=True),
    Pipeline("ours: obs, global", 'sparsify-obs{scope="global", ratio={ratio}}', draws=True),
    Pipeline("ours: obs, 4x1", 'sparsify-obs{pattern="4x1", ratio={ratio}}', draws=True, timed=True),
    Pipeline("ours: wanda", "sparsify-wanda{ratio={ratio}}", draws=True),
    Pipeline("ours: magnitude", "sparsify-magnitude{ratio={ratio}}"),
    Pipeline("ours: magnitude, global", 'sparsify-magnitude{scope="global", ratio={ratio}}'),
    Pipeline("ours: magnitude, ERK", 'sparsify-magnitude{scope="erk", ratio={ratio}}'),
    Pipeline("ours: magnitude, by sensitivity", 'sparsify-magnitude{ratios="sensitivity", ratio={ratio}}', draws=True),
    Pipeline("ours: taylor", 'sparsify-magnitude{importance="taylor", ratio={ratio}}', draws=True),
    Pipeline("ours: movement", 'sparsify-magnitude{importance="movement", ratio={ratio}}', draws=True),
    Pipeline("ours: random", "sparsify-random{ratio={ratio}}", draws=True),
    Pipeline("ours: obs, 2:4", 'sparsify-obs{pattern="2:4", ratio={ratio}}', draws=True, ratios=(0.5,)),
    Pipeline("ours: block 4x1", "sparsify-block{block=(4, 1), ratio={ratio}}"),
    Pipeline("ours: 2:4", "sparsify-n-m{n=2, m=4}", timed=True, ratios=(0.5,)),
    _shrunk("ours: shrunk"),
    _shrunk("ours: shrunk, obs 80 %", "sparsify-obs{ratio=0.8}"),
)
