"""The ways to run one network: each arm loads what `prepare` wrote and gives a function without arguments.

Heavy libraries are imported by the arm that needs them, so that a worker process holds one runtime only.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ARMS", "INFORMATIVE", "LEAST", "OURS", "PEERS", "Ready", "make"]

Arrays = list[np.ndarray[Any, Any]]

OURS = "ours"
PEERS = ("onnxruntime", "openvino", "torch.compile", "eager")
LEAST = ("onnxruntime", "openvino")
"""Peers without which a session is not shown: nearly always one of them is the best."""
INFORMATIVE = ("onnxruntime-int8", "openvino-int8", "openvino-bf16")
"""Arms that do not compute in float32: shown beside the others, never a peer in a ratio."""
ARMS = (OURS, *PEERS, *INFORMATIVE)

_FLOAT = ("dynamo.onnx", "graphopt.onnx")
"""The same network by torch's exporter and by ours after the lossless passes: each runtime gets the one it likes better."""
_INT8 = ("int8-static.onnx", "int8-dynamic.onnx")
_TRIALS = 4


@dataclass(frozen=True, slots=True)
class Ready:
    """A network that is ready: `run` does the work, `outputs` gives its results as arrays, `note` says what was chosen."""

    run: Callable[[], Any]
    outputs: Callable[[], Arrays]
    version: str
    note: str = ""


def make(arm: str, folder: Path, weights: Path, name: str, threads: int) -> Ready:
    """Load a network for an arm.

    Raises:
        ValueError: no such arm.
    """
    match arm:
        case "ours":
            return _ours(folder, threads)
        case "onnxruntime":
            return _best([lambda file=file: _onnxruntime(file, folder, threads) for file in _exports(folder)])
        case "onnxruntime-int8":
            return _best([lambda file=file: _onnxruntime(file, folder, threads) for file in _exports(folder, _INT8)])
        case "openvino" | "openvino-bf16":
            precision = "bf16" if arm.endswith("bf16") else "f32"
            return _best([lambda file=file: _openvino(file, folder, threads, precision) for file in _exports(folder)])
        case "openvino-int8":
            return _best([lambda file=file: _openvino(file, folder, threads, "f32") for file in _exports(folder, _INT8)])
        case "torch.compile" | "eager":
            return _torch(folder, weights, name, threads, compiled=arm == "torch.compile")
        case _:
            raise ValueError(f"no arm is called '{arm}', there are {', '.join(ARMS)}")


def _exports(folder: Path, names: Sequence[str] = _FLOAT) -> list[Path]:
    found = [folder / name for name in names if (folder / name).exists()]
    if not found:
        failures = folder / "failures.json"
        raise FileNotFoundError(f"none of {', '.join(names)} could be made; see {failures}")
    return found


def _best(makers: Sequence[Callable[[], Ready]]) -> Ready:
    """The fastest of several ways to make the same thing; ways that fail are left out unless all do."""
    found: list[tuple[float, Ready]] = []
    errors: list[Exception] = []
    for maker in makers:
        try:
            ready = maker()
            found.append((_quickest(ready.run), ready))
        except Exception as error:  # noqa: BLE001  # a runtime may reject one export and take the other
            errors.append(error)
    if not found:
        raise errors[0]
    return min(found, key=lambda pair: pair[0])[1]


def _quickest(run: Callable[[], Any]) -> float:
    for _ in range(2):
        run()
    times: list[float] = []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def _inputs(folder: Path) -> Arrays:
    with np.load(folder / "inputs.npz") as file:
        return [file[key] for key in sorted(file.files)]


def _ours(folder: Path, threads: int) -> Ready:
    import torch

    import graphopt

    graph = graphopt.load(folder / "graph")
    executable = graphopt.lower(graph, "cpu", threads=threads)  # pyright: ignore[reportArgumentType]
    given = [torch.from_numpy(array) for array in _inputs(folder)]
    return Ready(
        run=lambda: executable.run(given),
        outputs=lambda: [tensor.numpy() for tensor in executable.run(given)],
        version="this checkout",
    )


def _onnxruntime(file: Path, folder: Path, threads: int) -> Ready:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    feed = dict(zip([entry.name for entry in session.get_inputs()], _inputs(folder), strict=True))

    def run() -> Sequence[Any]:
        return session.run(None, feed)

    return Ready(
        run=run,
        outputs=lambda: [np.asarray(array) for array in run()],
        version=onnxruntime.__version__,
        note=file.name,
    )


def _openvino(file: Path, folder: Path, threads: int, precision: str) -> Ready:
    import openvino

    core = openvino.Core()
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(core.read_model(str(file)), "CPU", options)
    if precision == "bf16" and str(compiled.get_property("INFERENCE_PRECISION_HINT")) != "<Type: 'bfloat16'>":
        raise RuntimeError(f"OpenVINO runs in {compiled.get_property('INFERENCE_PRECISION_HINT')} here: the CPU has no bf16")
    request = compiled.create_infer_request()
    arrays = _inputs(folder)
    for index, array in enumerate(arrays):
        request.set_input_tensor(index, openvino.Tensor(array, shared_memory=False))

    def outputs() -> Arrays:
        request.infer()
        return [np.array(request.get_output_tensor(index).data) for index in range(len(compiled.outputs))]

    return Ready(run=request.infer, outputs=outputs, version=openvino.__version__.partition("-")[0], note=file.name)


def _torch(folder: Path, weights: Path, name: str, threads: int, *, compiled: bool) -> Ready:
    import torch

    from tools.bench_cpu import models

    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # it may be set once only
        torch.set_num_interop_threads(1)
    module: Any = models.load(name, weights)
    given = [torch.from_numpy(array) for array in _inputs(folder)]
    note = ""
    if compiled:
        import torch._inductor.config as inductor

        inductor.freezing = True
        module = torch.compile(module)
        note = "inductor, freezing"

    def run() -> Any:
        with torch.inference_mode() if not compiled else torch.no_grad():
            return module(*given)

    def outputs() -> Arrays:
        found = run()
        return [tensor.numpy() for tensor in (found if isinstance(found, tuple) else (found,))]

    run()
    return Ready(run=run, outputs=outputs, version=torch.__version__, note=note)
