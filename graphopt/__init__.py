"""graphopt: a compiler-style graph optimizer for PyTorch.

    result = graphopt.optimize(model, ["lossless"], example_inputs=(x,))
    print(result.report)
    fast = graphopt.lower(result.graph, target="onnxruntime")

Importing this package does not load torch; the first call that needs it does.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt import errors as errors
    from graphopt import train as train
    from graphopt.api import load, parse
    from graphopt.backends.base import lower
    from graphopt.capture import capture
    from graphopt.ir.diff import diff
    from graphopt.ir.graph import Graph
    from graphopt.ir.printer import show
    from graphopt.optimize import optimize
    from graphopt.pipeline.budget import Budget
    from graphopt.pipeline.passes import Pass

    __version__: str

__all__ = ["Budget", "Graph", "Pass", "capture", "diff", "load", "lower", "optimize", "parse", "show"]

_HOMES = {
    "Budget": "graphopt.pipeline.budget",
    "Graph": "graphopt.ir.graph",
    "Pass": "graphopt.pipeline.passes",
    "capture": "graphopt.capture",
    "diff": "graphopt.ir.diff",
    "load": "graphopt.api",
    "lower": "graphopt.backends.base",
    "optimize": "graphopt.optimize",
    "parse": "graphopt.api",
    "show": "graphopt.ir.printer",
}
"""Where each public name lives; the module is imported when the name is first used."""


class _Package(ModuleType):
    """This package, in which `capture` and `optimize` are the functions, also after a module of that name was imported.

    Python sets an imported submodule as an attribute of its package, which would hide them.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name in ("errors", "train"):
        return importlib.import_module(f"graphopt.{name}")
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("graphopt")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'graphopt' has no attribute '{name}'")
    found = getattr(importlib.import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
