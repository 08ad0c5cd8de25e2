"""`graphopt export`: write a model in a form that others read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli.models import load_subject, parse_dynamic, parse_shapes
from graphopt.cli.options import Dynamic, Model, Passes, Shapes, Weights
from graphopt.cli.output import print_text, step, steps

__all__ = ["ExportFormat", "export"]


class ExportFormat(StrEnum):
    """What `graphopt export` can write."""

    graph = "graph"
    """A graphopt folder: IR text, safetensors, manifest."""
    python = "python"
    """PyTorch source that needs no graphopt, with safetensors."""
    onnx = "onnx"
    """One .onnx file, with external data beside it when it is large."""


def export(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="File (onnx) or folder to write.", show_default=False)],
    format_: Annotated[ExportFormat, typer.Option("--format", "-f", help="What to write.")] = ExportFormat.graph,
    passes: Passes = None,
    shape: Shapes = None,
    dynamic: Dynamic = None,
    weights: Weights = None,
) -> None:
    """Write a model as a graphopt folder, as PyTorch source, or as ONNX."""
    import graphopt

    with steps() as progress:
        with step(progress, f"loading {model}"):
            subject = load_subject(model, weights=weights)
        with step(progress, "capturing"):
            graph = subject.captured(shapes=parse_shapes(shape), dynamic=parse_dynamic(dynamic))
        if passes:
            with step(progress, "running passes"):
                graph = graphopt.optimize(graph, passes).graph
        with step(progress, f"writing {output}"):
            match format_:
                case ExportFormat.graph:
                    graph.save(output)
                case ExportFormat.python:
                    graph.to_python(output)
                case ExportFormat.onnx:
                    from graphopt.backends.onnxruntime import export_onnx

                    export_onnx(graph, output)
    print_text(f"written to {output}")
