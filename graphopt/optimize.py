"""optimize(): capture a model, run passes over it, and hand back everything that came out.

nn.Module -> Graph -> passes, each checked -> Graph -> module, report, and on request an executable
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graphopt.backends.calling import flatten_call
from graphopt.errors import GraphoptError, GraphoptWarning, UsageError
from graphopt.ir.graph import Graph
from graphopt.pipeline.budget import Budget
from graphopt.pipeline.calibration import DEFAULT_SAMPLES, calibration_from
from graphopt.pipeline.checker import CheckLevel
from graphopt.pipeline.context import Context, Metric
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.passes import NumericClass, Stage
from graphopt.pipeline.promises import check_order
from graphopt.pipeline.quality import check_context
from graphopt.pipeline.records import PipelineResult
from graphopt.pipeline.registry import Item, plan, resolve
from graphopt.report import Report
from graphopt.report.shrinks import save_shrinks
from graphopt.rewrite.cut import CutRecord
from graphopt.train.recovery.progress import callback

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from graphopt.backends.base import Executable
    from graphopt.capture.dynamic import Dynamic
    from graphopt.capture.examples import Examples

__all__ = ["Result", "optimize"]


class Result:
    """What `optimize` returns.

    - `graph`: the optimised graph; `original`: the graph as captured.
    - `module`: the optimised graph as a trainable `torch.nn.Module`, built when first asked for.
    - `report`: what each pass did, declined and why, times, measured errors, cost before and after.
    - `shrinks`: the cuts that passes made, and blocks and layers that they took out, in order; `save_shrinks` writes them,
      `replay-shrink` and `graphopt.rewrite.cut` make them again elsewhere.
    - `executable`: the graph lowered to `target`, None without one.
    """

    def __init__(self, original: Graph, pipeline: PipelineResult, report: Report, executable: Executable | None) -> None:
        self.original = original
        self.graph = pipeline.graph
        self.pipeline = pipeline
        self.report = report
        self.executable = executable

    @cached_property
    def module(self) -> torch.nn.Module:
        """The optimised model; it shares the parameters that no pass replaced with the original."""
        return self.graph.to_module()

    @property
    def shrinks(self) -> tuple[CutRecord, ...]:
        """Which positions of which parameters, and which parts of the graph, were taken out."""
        return self.pipeline.shrinks

    def save_shrinks(self, path: str | os.PathLike[str]) -> None:
        """Write the cuts, and the blocks and layers that were taken out, to a file for `replay-shrink`.

        What other lossy passes changed is not in it: that is a `GraphoptWarning`, with their names.

        Raises:
            UsageError: there is nothing to write.
        """
        missing = save_shrinks(self.pipeline, path)
        if missing:
            warnings.warn(missing, GraphoptWarning, stacklevel=2)

    def __repr__(self) -> str:
        return f"<Result of {self.graph.name}: {self.original.node_count} -> {self.graph.node_count} nodes>"


def optimize(
    model: torch.nn.Module | ExportedProgram | Graph,
    passes: Item = ("lossless",),
    *,
    example_inputs: Examples = None,
    kwargs: Mapping[str, object] | None = None,
    dynamic: Dynamic = None,
    name: str | None = None,
    check: CheckLevel = "default",
    strict: bool = False,
    keep_trainable: bool = False,
    probes: int = 1,
    seed: int = 0,
    keep_texts: bool = False,
    target: str | None = None,
    target_options: Mapping[str, Any] | None = None,
    measure: bool = False,
    calibration: object = None,
    calibration_samples: int = DEFAULT_SAMPLES,
    metric: Metric | None = None,
    budget: Budget | None = None,
    progress: Callable[[str, float], None] | bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Result:
    """Optimise a model; the model itself and its parameters stay as they are.

    `model` is an `nn.Module` (an `fx.GraphModule` too), an `ExportedProgram` or a `Graph`; `example_inputs`,
    `kwargs`, `dynamic` and `name` are those of `graphopt.capture`. `passes` are names, pipeline texts, pass
    objects and presets; a list inside the list repeats until nothing fires.

    `check` "default" compares the region that each pass rewrote and the whole graph at the end, "full" the
    whole graph after each pass, "off" nothing; on `probes` sets of inputs made from `seed`, the first one with
    the shapes of `example_inputs`. A pass that breaks its promise is rolled back and named in the report, or
    raised with `strict`. `keep_trainable` refuses passes that are for deployment only.

    `target` also lowers the result to a backend, with `target_options`; `measure` then (or on the backend
    "torch") times the graph before and after, in interleaved rounds.

    Lossy passes look at three more things. `calibration` is data: a `DataLoader`, a list or generator of batches, or
    one batch, as `graphopt.pipeline.calibration` reads them, until there are `calibration_samples` samples. `metric` is the
    quality of a module, higher is better; it is evaluated on the model as given and after each lossy pass. With a
    `budget`, a pass that costs more of it is tried with less strength, as a smaller `ratio`, and rolled back when none
    holds; the report has every figure.

    `checkpoint` is a folder in which passes that work layer by layer keep each layer that is finished. The same call again after
    a kill reads these, and ends with the bits that it would have had. `progress` shows a bar on standard error, or is a
    function that is called with (what is done, fraction from 0 to 1).

    Raises:
        CaptureError: the model can't be captured.
        PassError: a pass is unknown, its options do not fit, or with `strict` it failed.
        BackendError: the graph can't be lowered to `target`.
        UsageError: arguments that make no sense together, calibration data that does not fit the model, or a metric
            that gives no number for it.
    """
    context = Context(metric=metric, budget=budget, seed=seed, checkpoint=None if checkpoint is None else _folder(checkpoint))
    check_context(context)
    if target_options and target is None and not measure:
        raise UsageError("target_options are those of a target, and there is none", fix="name it: optimize(..., target='onnxruntime')")
    stage = Stage.TRAINING_SAFE if keep_trainable else None
    steps = plan(passes)
    check_order(resolve(steps), stage=stage)  # before the model is captured, which may take a while
    if isinstance(model, Graph):
        if kwargs or dynamic is not None or name is not None:
            raise UsageError("a Graph is captured already: kwargs, dynamic and name have nothing to act on", fix="optimize(graph, passes)")
        graph = model
    else:
        from graphopt.capture import capture

        graph = capture(model, example_inputs, kwargs=kwargs, dynamic=dynamic, name=name)
    if calibration is not None:
        context = replace(context, calibration=calibration_from(graph, calibration, limit=calibration_samples, seed=seed))
    with callback(progress, "optimize") as update:
        manager = PassManager(
            steps,
            check=check,
            probe_inputs=_probe_inputs(graph, model, example_inputs, kwargs, seed),
            probes=probes,
            seed=seed,
            strict=strict,
            stage=stage,
            keep_texts=keep_texts,
            context=replace(context, progress=update),
        )
        pipeline = manager.run(graph)
    for record in pipeline.failures:
        if record.numeric is NumericClass.LOSSY:  # asked for on purpose, and the model is not what the caller expects
            warnings.warn(f"{record.spec} {record.status}: {record.exception or record.broken}", GraphoptWarning, stacklevel=2)
    report = Report(pipeline, graph)
    executable = _lower(pipeline.graph, target, target_options) if target is not None else None
    if measure:
        from graphopt.report.measure import compare

        before = _lower(graph, target or "torch", target_options)
        report.latency = compare({"before": before, "after": executable or _lower(pipeline.graph, "torch", target_options)}, graph)
    return Result(graph, pipeline, report, executable)


def _folder(given: str | os.PathLike[str]) -> Path:
    folder = Path(given)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"checkpoint {folder} can't be made: {error.strerror}", fix="give a folder, in one that exists: checkpoint='checkpoints'"
        ) from error
    return folder


def _lower(graph: Graph, target: str, options: Mapping[str, Any] | None) -> Executable:
    from graphopt.backends.base import lower

    return lower(graph, target, **dict(options or {}))


def _probe_inputs(
    graph: Graph, model: object, examples: Examples, kwargs: Mapping[str, object] | None, seed: int
) -> Sequence[torch.Tensor] | None:
    """Example inputs as flat probe inputs, or None where there are none of tensors.

    Integers are kept: they may index something. A float input of equal numbers, as `torch.zeros` makes, would
    hide most mistakes, so random numbers take its place.
    """
    if examples is None:
        return None
    flat = _flat(graph, examples, kwargs)
    if flat is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    found: list[torch.Tensor] = []
    for tensor, value in zip(flat, graph.inputs, strict=True):
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta or tensor.dtype != getattr(torch, value.type.dtype.torch_name):
            return None
        tensor = tensor.detach()
        if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
            tensor = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
        found.append(tensor)
    return found


def _flat(
    graph: Graph, examples: torch.Tensor | Sequence[object] | Mapping[str, object], kwargs: Mapping[str, object] | None
) -> list[object] | None:
    """Examples in the order of the graph's inputs; None where they do not fit them."""
    if isinstance(examples, Mapping):
        given = {**examples, **(kwargs or {})}
        found = [given.get(value.name) for value in graph.inputs]
        return None if any(example is None for example in found) else found
    args = (examples,) if isinstance(examples, torch.Tensor) else tuple(examples)
    try:
        return list(flatten_call(graph, args, dict(kwargs or {})))
    except GraphoptError:
        return None
