"""`graphopt optimize`: capture a model, run passes, optionally lower, measure and save."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli.functions import call_function, load_function
from graphopt.cli.models import load_subject, parse_dynamic, parse_shapes
from graphopt.cli.options import Dynamic, Json, Model, Passes, Shapes, Threads, Weights, thread_options
from graphopt.cli.output import print_json, print_text, step, steps
from graphopt.cli.passing import require_lossy
from graphopt.errors import UsageError
from graphopt.pipeline.calibration import DEFAULT_SAMPLES

__all__ = ["Check", "optimize"]


class Check(StrEnum):
    """How much of the numbers is checked."""

    default = "default"
    """The region that each pass rewrote, and the whole graph at the end."""
    full = "full"
    """The whole graph after each pass."""
    off = "off"
    """Nothing."""


def optimize(
    model: Model,
    passes: Passes = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Also lower to this backend: onnxruntime, cpu, cuda, torch or reference.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to save the graph (or the executable) in.")] = None,
    save_shrink: Annotated[
        Path | None,
        typer.Option(
            "--save-shrink",
            help="File to write cuts and removed blocks to; 'replay-shrink{path=\"FILE\"}' repeats them on another checkpoint.",
        ),
    ] = None,
    check: Annotated[Check, typer.Option("--check", help="Numeric checks: rewritten regions, whole graphs, or none.")] = Check.default,
    strict: Annotated[bool, typer.Option("--strict", help="Fail when a pass breaks its promise, instead of rolling it back.")] = False,
    bench: Annotated[bool, typer.Option("--bench", help="Measure latency before and after, interleaved.")] = False,
    rounds: Annotated[int, typer.Option("--rounds", min=3, help="Rounds of the measurement.")] = 20,
    threads: Threads = 0,
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration",
            help="FILE.py:FUNCTION (or module:FUNCTION) that returns data for lossy passes: a DataLoader, a list of batches, or one batch.",
        ),
    ] = None,
    calibration_samples: Annotated[
        int, typer.Option("--calibration-samples", min=1, help="Samples that are read of the calibration data.")
    ] = DEFAULT_SAMPLES,
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="FILE.py:FUNCTION (or module:FUNCTION) of a module that returns its quality, higher is better."),
    ] = None,
    metric_drop: Annotated[
        float | None,
        typer.Option("--metric-drop", help="How far the metric may fall, in its own unit; lossy passes that cost more are weakened."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="Folder for the layers that long passes have finished; the same command goes on from there."),
    ] = None,
    shape: Shapes = None,
    dynamic: Dynamic = None,
    weights: Weights = None,
    json_: Json = False,
) -> None:
    """Optimise a model and print what every pass did, declined and why."""
    import graphopt
    from graphopt.report.measure import compare
    from graphopt.report.shrinks import save_shrinks, saved_text

    if metric_drop is not None and metric is None:
        raise UsageError("--metric-drop needs a metric to hold it against", fix="add --metric FILE.py:FUNCTION")
    budget = graphopt.Budget(metric_drop=metric_drop) if metric_drop is not None else None
    with steps(quiet=json_) as progress:
        with step(progress, f"loading {model}"):
            subject = load_subject(model, weights=weights)
        quality = load_function(metric, "--metric") if metric is not None else None
        data = call_function(calibration, "--calibration") if calibration is not None else None
        with step(progress, "capturing"):
            graph = subject.captured(shapes=parse_shapes(shape), dynamic=parse_dynamic(dynamic))
        with step(progress, "running passes") as update:
            result = graphopt.optimize(
                graph,
                passes or ["lossless"],
                check=check.value,
                strict=strict,
                calibration=data,
                calibration_samples=calibration_samples,
                metric=quality,
                budget=budget,
                progress=update,
                checkpoint=checkpoint,
            )
        executable = None
        if target is not None:
            with step(progress, f"lowering to {target}"):
                executable = graphopt.lower(result.graph, target=target, **thread_options(threads, target))
        if bench:
            chosen = target or "onnxruntime"
            options = thread_options(threads, chosen)
            with step(progress, f"measuring on {chosen}"):
                original = graphopt.lower(result.original, target=chosen, **options)
                optimised = executable or graphopt.lower(result.graph, target=chosen, **options)
                result.report.latency = compare({"before": original, "after": optimised}, result.original, rounds=rounds)
        if output is not None:
            with step(progress, f"saving {output}"):
                (executable or result.graph).save(output)
        missing = save_shrinks(result.pipeline, save_shrink) if save_shrink is not None and result.shrinks else ""
    if json_:
        print_json({"model": model, **result.report.to_json()})
    else:
        print_text(str(result.report))
        if executable is not None:
            for line in executable.report:
                print_text(str(line))
        if output is not None:
            print_text(f"saved to {output}")
        if save_shrink is not None and result.shrinks:
            print_text(f"{saved_text(result.pipeline)} saved to {save_shrink}")
        if missing:
            print_text(f"note: {missing}")
    saved = f"; what was saved to {output} is without it" if output is not None else ""
    require_lossy(result, data="give data with --calibration FILE.py:FUNCTION", consequence=saved)
    if save_shrink is not None and not result.shrinks:  # behind the report, which says why
        save_shrinks(result.pipeline, save_shrink)
