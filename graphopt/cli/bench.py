"""`graphopt bench`: latency of a model on one or several backends, interleaved."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from graphopt.cli.models import load_subject, parse_dynamic, parse_shapes
from graphopt.cli.options import Dynamic, Json, Model, Passes, Shapes, Threads, Weights, thread_options
from graphopt.cli.output import print_json, print_text, step, steps
from graphopt.cli.passing import optimized
from graphopt.errors import UsageError

__all__ = ["bench"]


def bench(
    model: Model,
    passes: Passes = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="Backend; may be repeated. Default onnxruntime and torch.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=3, help="Rounds; each runs every variant once.")] = 20,
    threads: Threads = 0,
    shape: Shapes = None,
    dynamic: Dynamic = None,
    weights: Weights = None,
    json_: Json = False,
) -> None:
    """Measure a model before and after passes: median, spread and ratio, all variants in turn."""
    import graphopt
    from graphopt.report.measure import compare

    targets = target or ["onnxruntime", "torch"]
    if len(set(targets)) != len(targets):
        raise UsageError(f"a target is named twice: {', '.join(targets)}", fix="name each once")
    with steps(quiet=json_) as progress:
        with step(progress, f"loading {model}"):
            subject = load_subject(model, weights=weights)
        with step(progress, "capturing"):
            graph = subject.captured(shapes=parse_shapes(shape), dynamic=parse_dynamic(dynamic))
        with step(progress, "running passes"):
            optimised = optimized(graph.clone(), passes or ["lossless"])
        variants: dict[str, Any] = {}
        for name in targets:
            options = thread_options(threads, name)
            with step(progress, f"lowering to {name}"):
                variants[f"{name}, as captured"] = graphopt.lower(graph, target=name, **options)
                variants[f"{name}, optimised"] = graphopt.lower(optimised, target=name, **options)
        with step(progress, f"measuring {len(variants)} variants, {rounds} rounds"):
            result = compare(variants, graph, rounds=rounds)
    if json_:
        print_json(result.to_json())
    else:
        print_text(str(result))
