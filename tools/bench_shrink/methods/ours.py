"""Our passes, each as a pipeline text with the level filled in."""

from __future__ import annotations

from dataclasses import dataclass

import graphopt
from tools.bench_quality.tasks.base import Task
from tools.bench_shrink.methods.arm import Arm, Shrunk

__all__ = ["OURS", "SCREEN", "Pipeline"]

_IMPORTANCE = ("l1", "l2", "bn-scale", "taylor", "hessian", "activation", "geometric-median", "random")
_RANKING = ("local", "global", "isomorphic")


@dataclass(frozen=True)
class Pipeline(Arm):
    """A pipeline text with `{level}` and `{width}`, the multiple that widths are kept at."""

    name: str
    text: str
    by: str = "ratio"
    draws: bool = True

    def shrink(self, task: Task, level: float, seed: int) -> Shrunk:
        """Run it on the dense network, with calibration data of this seed."""
        example = task.example(2)
        text = self.text.replace("{level}", f"{level:g}").replace("{width}", str(task.width))
        data = [(item.inputs if item.target is None else (*item.inputs, item.target)) for item in task.calibration(seed)]
        result = graphopt.optimize(
            task.dense(),
            [text],
            example_inputs=example,
            dynamic=tuple({0: "batch"} for _ in example),
            calibration=data,
            calibration_samples=512,
            check="off",
            strict=True,
            seed=seed,
        )
        return Shrunk(result.module.eval(), text, tuple(note for record in result.pipeline.records for note in record.notes))


def _channels(importance: str, ranking: str, compensation: str) -> str:
    options = f'ratio={{level}}, importance="{importance}", ranking="{ranking}", multiple_of={{width}}'
    return f"shrink-channels{{{options}" + (f', compensation="{compensation}"}}' if compensation != "none" else "}")


OURS: tuple[Arm, ...] = (
    Pipeline(
        "ours: latency budget",
        'shrink-to-budget{latency={level}, target="onnxruntime", importance="taylor", multiple_of={width}, compensation="least-squares"}',
        by="latency",
    ),
    Pipeline("ours: taylor, isomorphic, least squares", _channels("taylor", "isomorphic", "least-squares")),
    Pipeline("ours: l2, local, least squares", _channels("l2", "local", "least-squares")),
    Pipeline("ours: l2, local, not mended", _channels("l2", "local", "none"), draws=False),
    Pipeline("plain magnitude", _channels("l1", "local", "none"), draws=False),
)

SCREEN: tuple[Arm, ...] = tuple(
    Pipeline(f"{importance}, {ranking}, {compensation}", _channels(importance, ranking, compensation))
    for importance in _IMPORTANCE
    for ranking in _RANKING
    for compensation in ("none", "least-squares")
)
