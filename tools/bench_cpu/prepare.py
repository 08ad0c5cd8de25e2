"""Writes what the arms read, once per model and batch size.

weights.safetensors     of the model, for any batch                       models/resnet50/
inputs.npz              the inputs                                        models/resnet50/batch1/
reference.npz           outputs in float64
dynamo.onnx             by torch.onnx.export(dynamo=True)
graph/, graphopt.onnx   captured, lossless passes, sparse weights marked
int8-*.onnx             dynamo.onnx quantised by ONNX Runtime, on request
failures.json           steps that did not work, and why
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphopt.ir.graph import Graph, GraphEditor, State, Value
from graphopt.ir.types import Sparsity, SparsityPattern
from tools.bench_cpu import models

__all__ = ["mark_sparse", "prepare", "workload_folder", "write_whole"]


def workload_folder(root: Path, name: str, batch: int) -> Path:
    """Where the files of a model and batch size are; those of the model alone are one level up."""
    return root / "models" / name / f"batch{batch}"


def prepare(root: Path, name: str, batch: int, *, int8: bool = False) -> dict[str, str]:
    """Write what is missing; the steps that failed and why."""
    warnings.filterwarnings("ignore")
    folder = workload_folder(root, name, batch)
    folder.mkdir(parents=True, exist_ok=True)
    steps: list[tuple[str, Callable[[Path, str, int], None]]] = [
        ("inputs.npz", _inputs),
        ("reference.npz", _reference),
        ("dynamo.onnx", _dynamo),
        ("graphopt.onnx", _graph),
    ]
    if int8:
        from tools.bench_cpu.quantise import dynamic, static

        steps += [("int8-static.onnx", static), ("int8-dynamic.onnx", dynamic)]
    report = folder / "failures.json"
    failures: dict[str, str] = json.loads(report.read_text()) if report.exists() else {}
    for file, step in steps:
        if (folder / file).exists() or file in failures:
            continue
        try:
            step(folder, name, batch)
        except Exception as error:  # noqa: BLE001  # an arm without its file is a result, the others go on
            failures[file] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
            report.write_text(json.dumps(failures, indent=1))
    return failures


def _inputs(folder: Path, name: str, batch: int) -> None:
    arrays = {f"input{index}": tensor.numpy() for index, tensor in enumerate(models.inputs(name, batch))}
    write_whole(folder / "inputs.npz", lambda path: np.savez(path, **arrays))  # pyright: ignore[reportArgumentType]


def _reference(folder: Path, name: str, batch: int) -> None:
    module = models.load(name, folder.parent).double()
    given = [tensor.double() if tensor.is_floating_point() else tensor for tensor in models.inputs(name, batch)]
    with torch.inference_mode():
        found = module(*given)
    arrays = {f"output{index}": tensor.numpy() for index, tensor in enumerate(found if isinstance(found, tuple) else (found,))}
    write_whole(folder / "reference.npz", lambda path: np.savez(path, **arrays))  # pyright: ignore[reportArgumentType]


def _dynamo(folder: Path, name: str, batch: int) -> None:
    import onnx

    program = torch.onnx.export(models.load(name, folder.parent), models.inputs(name, batch), dynamo=True, verbose=False)
    assert program is not None, "the dynamo exporter returns a program"
    write_whole(folder / "dynamo.onnx", lambda path: onnx.save(program.model_proto, str(path)))


def _graph(folder: Path, name: str, batch: int) -> None:
    import graphopt
    from graphopt.backends.onnxruntime import export_onnx

    given = models.inputs(name, batch)
    graph = graphopt.optimize(models.load(name, folder.parent), ["lossless"], example_inputs=given).graph
    if models.spec(name).sparsity:
        mark_sparse(graph)
    graph.save(folder / "graph")
    write_whole(folder / "graphopt.onnx", lambda path: export_onnx(graph, path))


def mark_sparse(graph: Graph, least: float = 0.5) -> list[str]:
    """Annotate each weight of two axes or more with at least `least` zeros as unstructured sparse; their names."""
    editor = GraphEditor(graph)
    marked: list[str] = []
    for state in tuple(graph.states.values()):
        if state.data is None or state.type.rank < 2 or not state.type.dtype.is_float:
            continue
        numbers = state.data.tensor()
        ratio = float((numbers == 0).float().mean())
        if ratio < least:
            continue
        sparsity = Sparsity(SparsityPattern.UNSTRUCTURED, int(ratio * 10000) / 10000)
        _exchange(editor, graph, state, Value(graph.fresh_name(state.name), replace(state.type, sparsity=sparsity)))
        marked.append(state.name)
    return marked


def _exchange(editor: GraphEditor, graph: Graph, state: State, value: Value) -> None:
    """Put a state with another value in the place of `state`: the type of a value never changes."""
    editor.add_state(replace(state, value=value, tied=(), digest=None))
    editor.replace_uses(state.value, value)
    editor.remove_state(state.name)


def write_whole(target: Path, write: Callable[[Path], Any]) -> None:
    """Write under another name first: a file that is there is whole."""
    fresh = target.with_name(f"partial.{target.name}")
    write(fresh)
    fresh.rename(target)


def main(arguments: list[str] | None = None) -> int:
    """`python -m tools.bench_cpu.prepare ROOT NAME BATCH [--int8]`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("name")
    parser.add_argument("batch", type=int)
    parser.add_argument("--int8", action="store_true")
    options = parser.parse_args(arguments)
    for file, reason in prepare(options.root, options.name, options.batch, int8=options.int8).items():
        print(f"{file}: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
