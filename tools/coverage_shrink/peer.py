"""One model through Torch-Pruning: as its documentation says, and where that fails with an error, with the recipe."""

from __future__ import annotations

import contextlib
import math
import signal
import time
import warnings
from collections.abc import Generator
from typing import Any

import torch

from tools import zoo
from tools.coverage_shrink.ours import SizeError
from tools.coverage_shrink.recipe import flat, heads_of, kept_whole, mend_sizes, unfuse

__all__ = ["LIMIT", "OverTime", "examine", "within"]

LIMIT = 60.0
"""Seconds of CPU time for each of the two attempts, without building the model."""


class OverTime(BaseException):
    """The CPU time is used up. No `Exception`, so that nobody's clean-up takes it for one of its own."""


@contextlib.contextmanager
def within(seconds: float) -> Generator[None]:
    """Raise OverTime in here once this process has used so much CPU time."""

    def stop(number: int, frame: object) -> None:
        del number, frame
        raise OverTime

    old = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, old)


def examine(name: str) -> dict[str, Any]:
    """`naive` and `recipe` are "ok", or say at which stage it failed and why; `ratio` is the part of the parameters left."""
    warnings.filterwarnings("ignore")
    record: dict[str, Any] = {"name": name}
    began = time.process_time()
    for attempt in ("naive", "recipe"):
        progress: dict[str, Any] = {"stage": "building the model"}
        try:
            model = zoo.build(name)
            with within(LIMIT):
                record["ratio"] = _prune(model, progress, recipe=attempt == "recipe")
            record[attempt] = "ok"
            break
        except OverTime:
            record[attempt] = f"{progress['stage']}: more than {LIMIT:.0f} s"
            break
        except Exception as error:  # noqa: BLE001  # the point of the tool is to list whatever goes wrong
            record[attempt] = f"{progress['stage']}: {type(error).__name__}: {' '.join(str(error).split())}"[:300]
    record["seconds"] = round(time.process_time() - began, 2)
    return record


def _prune(model: zoo.ZooModel, progress: dict[str, Any], *, recipe: bool) -> float:
    """Halve everything, run; the part of the parameters that is left."""
    import torch_pruning

    module = model.module
    progress["stage"] = "dense run"
    with torch.no_grad():
        wanted = flat(module(*model.args, **model.kwargs))
    heads: dict[torch.nn.Module, int] = {}
    if recipe:
        unfuse(module)
        heads = heads_of(module)
    ignored = kept_whole(module, model.args, model.kwargs)
    before = sum(p.numel() for p in module.parameters())
    progress["stage"] = "building the dependency graph"
    make: Any = torch_pruning.pruner.MagnitudePruner  # its annotations are narrower than what it takes
    pruner = make(
        module,
        example_inputs=model.kwargs if model.kwargs and not model.args else model.args,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=ignored,
        num_heads=heads,
        round_to=8 if recipe else None,
        output_transform=_differentiable,
    )
    progress["stage"] = "pruning"
    pruner.step()
    if recipe:
        mend_sizes(module, heads)
    progress["stage"] = "running the pruned model"
    with torch.no_grad():
        found = flat(module(*model.args, **model.kwargs))
    for one, other in zip(wanted, found, strict=True):
        if one.shape != other.shape:
            raise SizeError(f"an output is {tuple(other.shape)}, was {tuple(one.shape)}")
        if bool(torch.isfinite(one).all()) and not bool(torch.isfinite(other).all()):
            raise SizeError("an output is not finite")
    after = sum(p.numel() for p in module.parameters())
    if after >= before:
        raise SizeError(f"{after} parameters of {before} are left")
    return after / max(before, math.ulp(1.0))


def _differentiable(outputs: Any) -> list[torch.Tensor]:
    return [tensor for tensor in flat(outputs) if tensor.grad_fn is not None]
