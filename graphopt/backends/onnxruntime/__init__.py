"""ONNX Runtime: writes ONNX straight from the IR and runs it.

    executable = graphopt.lower(graph, target="onnxruntime", threads=2)
    export_onnx(graph, "model.onnx")

Names are imported when they are first used, so that loading a saved executable needs no more than it uses.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.backends.onnxruntime.artifact import load
    from graphopt.backends.onnxruntime.backend import OnnxRuntimeBackend
    from graphopt.backends.onnxruntime.executable import OnnxRuntimeExecutable
    from graphopt.backends.onnxruntime.export import export_onnx, to_onnx
    from graphopt.backends.onnxruntime.options import SessionOptions

__all__ = ["OnnxRuntimeBackend", "OnnxRuntimeExecutable", "SessionOptions", "export_onnx", "load", "to_onnx"]

_HOMES = {
    "OnnxRuntimeBackend": "backend",
    "OnnxRuntimeExecutable": "executable",
    "SessionOptions": "options",
    "export_onnx": "export",
    "load": "artifact",
    "to_onnx": "export",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
