"""Files that are timed: sparse graphs, and the dense network for us, ONNX Runtime, OpenVINO and int8.

deployed/resnet/dense/            inputs.npz, graph/, dynamo.onnx, graphopt.onnx
deployed/resnet/int8/             inputs.npz, dynamo.onnx, and int8-static.onnx (int8-dynamic.onnx for transformers)
deployed/resnet/ours-obs-0.8/     inputs.npz, graph/

int8 models are calibrated on the task's calibration data and scored like every other network.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch

import graphopt
from graphopt.backends.onnxruntime import export_onnx
from tools.bench_cpu import quantise
from tools.bench_cpu.prepare import write_whole
from tools.bench_quality.records import Key, Run, packed, resumed, slug
from tools.bench_quality.tasks.base import Task

__all__ = ["INT8", "Served", "deploy_dense", "folder_for", "keep_graph", "run_int8"]

INT8 = "ONNX Runtime int8"


def folder_for(root: Path, task: str, name: str) -> Path:
    """Where the files of a network are."""
    return root / "deployed" / task / name


def keep_graph(task: Task, module: torch.nn.Module, root: Path, arm: str, ratio: float, *, anew: bool = False) -> Path:
    """Save a sparse network for timing: captured at the task's batch, zeros recognised, then the lossless passes.

    One that is there stays, as its speed follows from the pattern, unless it is to be made anew.
    """
    folder = folder_for(root, task.name, f"{slug(arm)}-{ratio:g}")
    if anew:
        shutil.rmtree(folder / "graph", ignore_errors=True)
    if not (folder / "graph").exists():
        _inputs(task, folder)
        _graph(task, module, ["annotate-sparsity", "lossless"]).save(folder / "graph")
    return folder


def _graph(task: Task, module: torch.nn.Module, passes: list[str]) -> graphopt.Graph:
    return graphopt.optimize(module, passes, example_inputs=task.example(task.batch), check="off").graph


def _inputs(task: Task, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {f"input{index}": tensor.numpy() for index, tensor in enumerate(task.example(task.batch))}
    write_whole(folder / "inputs.npz", lambda path: numpy.savez(path, **arrays))


def _dynamo(task: Task, folder: Path) -> None:
    import onnx

    program = torch.onnx.export(task.dense(), task.example(task.batch), dynamo=True, verbose=False)
    assert program is not None, "the dynamo exporter returns a program"
    write_whole(folder / "dynamo.onnx", lambda path: onnx.save(program.model_proto, str(path)))


def deploy_dense(task: Task, root: Path) -> Path:
    """Write the dense network's files, where they are not there."""
    folder = folder_for(root, task.name, "dense")
    if not (folder / "graphopt.onnx").exists():
        _inputs(task, folder)
        _dynamo(task, folder)
        graph = _graph(task, task.dense(), ["lossless"])
        if not (folder / "graph").exists():
            graph.save(folder / "graph")
        write_whole(folder / "graphopt.onnx", lambda path: export_onnx(graph, path))
    return folder


def deploy_int8(task: Task, root: Path) -> Path:
    """Quantise the dense network with ONNX Runtime, where it was not yet; the file.

    Convolutions: static, QDQ, weights per channel. Networks of linear layers alone: dynamic.
    """
    folder = folder_for(root, task.name, "int8")
    found = sorted(folder.glob("int8-*.onnx"))
    if found:
        return found[0]
    _inputs(task, folder)
    _dynamo(task, folder)
    if any(isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d) for layer in task.dense().modules()):
        quantise.static(folder, task.name, task.batch, list(_feeds(task, folder)))
    else:
        quantise.dynamic(folder, task.name, task.batch)
    return next(folder.glob("int8-*.onnx"))


def _feeds(task: Task, folder: Path) -> Iterator[dict[str, Any]]:
    """The calibration data of seed 0 in batches of the deployed size, at most 128 of them."""
    import onnx

    names = [entry.name for entry in onnx.load(folder / "dynamo.onnx", load_external_data=False).graph.input]
    given = [torch.cat(tensors).numpy() for tensors in zip(*(item.inputs for item in task.calibration(0)), strict=True)]
    for start in range(0, min(len(given[0]), 128 * task.batch) - task.batch + 1, task.batch):
        yield {name: array[start : start + task.batch] for name, array in zip(names, given, strict=True)}


class Served(torch.nn.Module):
    """An ONNX file of a fixed batch as a module for any number of rows; the last piece is filled up with its first row."""

    def __init__(self, file: Path, batch: int) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._names = [entry.name for entry in self._session.get_inputs()]
        self._batch = batch

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The first output for all rows."""
        found: list[torch.Tensor] = []
        for start in range(0, len(inputs[0]), self._batch):
            pieces = [tensor[start : start + self._batch] for tensor in inputs]
            rows = len(pieces[0])
            filled = [torch.cat([piece, piece[:1].expand(self._batch - rows, *piece.shape[1:])]).numpy() for piece in pieces]
            output: Any = self._session.run(None, dict(zip(self._names, filled, strict=True)))[0]
            found.append(torch.from_numpy(output)[:rows])
        return torch.cat(found)


def run_int8(task: Task, root: Path) -> Run:
    """Quality of the int8 network; a failure is recorded."""

    def work(run: Run) -> Run:
        file = deploy_int8(task, root)
        return Run(
            run.key,
            settings=file.stem,
            hits={"plain": packed(task.evaluate(Served(file, task.batch), "test"))},
            versions=run.versions,
        )

    return resumed(Key(task.name, INT8, 0.0, 0), root, ("plain",), work)
