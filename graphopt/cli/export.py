"""`graphopt export`: write a model in a form that others read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli.models import load_subject, parse_dynamic, parse_shapes
from graphopt.cli.options import THREADED, DTypeOption, Dynamic, Model, Passes, Shapes, Threads, Weights, check_dtype, thread_options
from graphopt.cli.output import print_text, step, steps
from graphopt.cli.passing import optimized
from graphopt.errors import UsageError

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph

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
    format_: Annotated[
        ExportFormat | None, typer.Option("--format", "-f", help="What to write, graph unless there is a target.", show_default=False)
    ] = None,
    passes: Passes = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Write the executable of this backend: cpu, cuda, onnxruntime or torch.")
    ] = None,
    standalone: Annotated[
        bool, typer.Option("--standalone", help="With --target cpu: C++, weights and CMakeLists.txt, to compile and run without Python.")
    ] = False,
    isa: Annotated[
        list[str] | None, typer.Option("--isa", help="With --target cpu: avx512, avx2, generic; may be repeated with --standalone (all).")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="With --standalone: what stands before the names of the C interface.")] = "model",
    dtype: DTypeOption = None,
    measure: Annotated[bool, typer.Option(help="With --target cpu or cuda: time the kernels of each layer on this machine.")] = True,
    threads: Threads = 0,
    shape: Shapes = None,
    dynamic: Dynamic = None,
    weights: Weights = None,
) -> None:
    """Write a model as a graphopt folder, PyTorch source, ONNX, an executable, or C++ that needs no Python."""
    import graphopt

    _check(format_, target, standalone, isa)
    _check_settings(target, threads, measure, standalone, name)
    check_dtype(dtype, target)
    with steps() as progress:
        with step(progress, f"loading {model}"):
            subject = load_subject(model, weights=weights)
        with step(progress, "capturing"):
            graph = subject.captured(shapes=parse_shapes(shape), dynamic=parse_dynamic(dynamic))
        if passes:
            with step(progress, "running passes"):
                graph = optimized(graph, passes)
        with step(progress, f"writing {output}"):
            if standalone:
                _write_standalone(graph, output, name, isa, {"threads": threads, "measure": measure})
            elif target is not None:
                options = thread_options(threads, target)
                if target == "cpu":
                    options |= {"measure": measure, "isa": isa[0] if isa else "native"}
                if target == "cuda":
                    options |= {"measure": measure, "dtype": dtype or "float32"}
                graphopt.lower(graph, target=target, **options).save(output)
            else:
                _write(graph, output, format_ or ExportFormat.graph)
    print_text(f"written to {output}")


def _check(format_: ExportFormat | None, target: str | None, standalone: bool, isa: list[str] | None) -> None:
    if format_ is not None and target is not None:
        raise UsageError(f"--format {format_} and --target {target} are two different things to write", fix="give one of them")
    if standalone and target != "cpu":
        raise UsageError("--standalone is C++ of the target cpu", fix="add --target cpu")
    if isa and target != "cpu":
        raise UsageError("--isa is an option of the target cpu", fix="add --target cpu")
    if isa and len(isa) > 1 and not standalone:
        raise UsageError(f"an executable is built for one instruction set, got {', '.join(isa)}", fix="give one --isa, or --standalone")


def _check_settings(target: str | None, threads: int, measure: bool, standalone: bool, name: str) -> None:
    if threads and target not in THREADED:
        raise UsageError(
            "--threads is an option of the targets cpu and onnxruntime, whose executables keep it",
            fix="leave it out; torch takes its threads from the process that runs the model, and a GPU has none to set",
        )
    if not measure and target not in ("cpu", "cuda"):
        raise UsageError("--no-measure is an option of the targets cpu and cuda, which choose kernels by their time", fix="leave it out")
    if name != "model" and not standalone:
        raise UsageError("--name is an option of --standalone", fix="add --target cpu --standalone, or leave --name out")


def _write(graph: Graph, output: Path, format_: ExportFormat) -> None:
    match format_:
        case ExportFormat.graph:
            graph.save(output)
        case ExportFormat.python:
            graph.to_python(output)
        case ExportFormat.onnx:
            from graphopt.backends.onnxruntime import export_onnx

            export_onnx(graph, output)


def _write_standalone(graph: Graph, output: Path, name: str, isa: list[str] | None, options: dict[str, Any]) -> None:
    from graphopt.backends.cpu.isa import ISAS
    from graphopt.backends.cpu.options import CpuOptions
    from graphopt.backends.cpu.standalone import export_standalone

    export_standalone(graph, output, name=name, isas=isa or ISAS, options=CpuOptions.parse(options))
