"""One model through the whole tool, step by step; every step's outcome goes into a flat record."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tools import zoo

__all__ = ["examine", "relative_error"]

Record = dict[str, Any]


def relative_error(got: Any, expected: Any) -> float:
    """Largest difference over all tensors of two equal structures, relative to the largest reference value.

    NaN where the structures differ or a NaN stands on one side only.
    """
    left, right = _tensors(got), _tensors(expected)
    if len(left) != len(right):
        return float("nan")
    worst = 0.0
    for a, b in zip(left, right, strict=True):
        if a.shape != b.shape:
            return float("nan")
        if a.size == 0:
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        if not np.array_equal(np.isnan(x), np.isnan(y)):
            return float("nan")
        finite = np.isfinite(y) & np.isfinite(x)
        if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
            return float("nan")
        if finite.any():
            worst = max(worst, float(np.abs(x - y)[finite].max() / max(np.abs(y[finite]).max(), 1e-30)))
    return worst


def _tensors(value: Any) -> list[np.ndarray[Any, Any]]:
    found: list[np.ndarray[Any, Any]] = []
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, torch.Tensor):
            found.append(current.detach().float().numpy() if current.dtype == torch.bfloat16 else current.detach().numpy())
        elif isinstance(current, np.ndarray):
            found.append(current)
        elif isinstance(current, dict):
            pending.extend(current.values())
        elif isinstance(current, tuple | list):
            pending.extend(current)
    return found


def examine(name: str, *, peer: bool = False) -> Record:
    """Build, capture, round trip, optimise, lower and compare one model of the zoo.

    A step that fails ends the record with `failed` (the step) and `reason` (one line).
    """
    warnings.filterwarnings("ignore")
    record: Record = {"name": name}
    state: dict[str, Any] = {}
    steps: list[tuple[str, Callable[[Record, dict[str, Any]], None]]] = [
        ("build", _build),
        ("export", _export),
        ("capture", _capture),
        ("round trip", _round_trip),
        ("matches eager", _matches_eager),
        ("lossless", _lossless),
        ("onnxruntime", _onnxruntime),
    ]
    if peer:
        steps.append(("torch.onnx", _peer))
    start = time.perf_counter()
    for step, action in steps:
        began = time.perf_counter()
        try:
            action(record, state)
            record.setdefault(step, "ok")
        except Exception as error:  # noqa: BLE001  # the point of the tool is to list whatever goes wrong
            record[step] = "failed"
            record.setdefault("failed", step)
            record.setdefault("reason", f"{type(error).__name__}: {' '.join(str(error).split())}"[:400])
            record.setdefault("traceback", traceback.format_exc()[-3000:])
            if step in ("build", "capture", "export"):
                break
        finally:
            record[f"{step} seconds"] = round(time.perf_counter() - began, 3)
    record["seconds"] = round(time.perf_counter() - start, 2)
    return record


def _build(record: Record, state: dict[str, Any]) -> None:
    model = zoo.build(record["name"])
    with torch.no_grad():
        state["expected"] = model.module(*model.args, **model.kwargs)
    state["model"] = model
    record["parameters"] = sum(p.numel() for p in model.module.parameters())


def _export(record: Record, state: dict[str, Any]) -> None:
    """torch.export alone: what it can't export we need not capture, and its time is our yardstick."""
    model = state["model"]
    torch.export.export(model.module, model.args, model.kwargs, strict=False)


def _capture(record: Record, state: dict[str, Any]) -> None:
    import graphopt
    from graphopt import ops

    model = state["model"]
    graph = graphopt.capture(model.module, model.args, kwargs=model.kwargs)
    ops.verify(graph)
    state["graph"] = graph
    record["nodes"] = graph.node_count
    record["opaque"] = sorted({node.op for node in graph.nodes if not ops.is_canonical(node.op)})


def _round_trip(record: Record, state: dict[str, Any]) -> None:
    from graphopt.ir.parser import parse
    from graphopt.ir.printer import show

    for sources in (False, True):
        text = show(state["graph"], sources=sources)
        again = parse(text)
        if show(again, sources=sources) != text or again != state["graph"]:
            raise AssertionError("the text does not parse back to the same graph")


def _flat(state: dict[str, Any]) -> list[torch.Tensor]:
    """The model's inputs as the flat list that the graph takes."""
    from torch.utils import _pytree as pytree

    model = state["model"]
    return [leaf for leaf in pytree.tree_leaves((model.args, model.kwargs)) if isinstance(leaf, torch.Tensor)]


def _run(graph: Any, state: dict[str, Any], *, precise: bool) -> tuple[Any, ...]:
    from graphopt.backends.reference.interpreter import Interpreter

    return Interpreter(graph, precise=precise).run(*_flat(state))


def _matches_eager(record: Record, state: dict[str, Any]) -> None:
    module = state["graph"].to_module()
    model = state["model"]
    with torch.no_grad():
        got = module(*model.args, **model.kwargs)
    error = relative_error(got, state["expected"])
    record["module error"] = error
    if not error <= 1e-4:
        raise AssertionError(f"to_module() differs from the model by {error:.2e} of its largest output")
    keys = set(model.module.state_dict())
    if set(module.state_dict()) != keys:
        raise AssertionError(f"state_dict keys differ: {sorted(set(module.state_dict()) ^ keys)[:5]}")


def _lossless(record: Record, state: dict[str, Any]) -> None:
    import graphopt

    before = _run(state["graph"], state, precise=True)
    result = graphopt.optimize(state["graph"].clone(), passes=["lossless"])
    after = _run(result.graph, state, precise=True)
    record["nodes after"] = result.graph.node_count
    record["lossless error"] = relative_error(after, before)
    single = relative_error(_run(result.graph, state, precise=False), before)
    eager = relative_error(_run(state["graph"], state, precise=False), before)
    record["float32 error"], record["eager float32 error"] = single, eager
    broken = [r.name for r in result.pipeline.failures]
    record["broken passes"] = broken
    state["optimized"] = result.graph
    if broken:
        raise AssertionError(f"passes rolled back: {', '.join(broken)}")
    # Weights are rounded to float32 once folded, so float64 agreement is that of float32 weights.
    if not record["lossless error"] <= max(1e-5, 4 * eager):
        raise AssertionError(f"optimised graph differs by {record['lossless error']:.2e} in float64")


def _onnxruntime(record: Record, state: dict[str, Any]) -> None:
    import graphopt

    executable = graphopt.lower(state.get("optimized", state["graph"]), target="onnxruntime", threads=1)
    got = executable.run(_flat(state))
    error = relative_error(list(got), list(_run(state["graph"], state, precise=False)))
    record["onnxruntime error"] = error
    record["partitions"] = [str(line) for line in executable.report][:5]
    if not error <= 1e-3:
        raise AssertionError(f"ONNX Runtime differs by {error:.2e} of the largest output")


def _peer(record: Record, state: dict[str, Any]) -> None:
    import onnxruntime

    model = state["model"]
    program = torch.onnx.export(model.module, model.args, kwargs=model.kwargs, dynamo=True, verbose=False)
    assert program is not None
    onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
