"""Passes as the tools take them: pipeline text, or `file.py:Name` for a pass that is not installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from graphopt.errors import UsageError
from graphopt.pipeline.passes import Pass
from graphopt.pipeline.registry import Step, plan

__all__ = ["load_passes"]


def load_passes(texts: Sequence[str]) -> tuple[Step, ...]:
    """Steps for the pass manager.

    `file.py:Name` is a pass class, a pass object or a tuple of pipeline texts and passes in that file, which is run.

    Raises:
        PassError: a text does not fit.
        UsageError: the file has no such pass.
    """
    steps: list[Step] = []
    for text in texts:
        path, colon, name = text.rpartition(":")
        steps += _from_file(Path(path), name) if colon and path.endswith(".py") else plan(text)
    return tuple(steps)


def _from_file(path: Path, name: str) -> tuple[Step, ...]:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or specification is None or specification.loader is None:
        raise UsageError(f"there is no Python file {path}")
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    found = getattr(module, name, None)
    if isinstance(found, type) and issubclass(found, Pass):
        return (found(),)
    if isinstance(found, Pass | tuple | list):
        return plan(found)
    raise UsageError(f"{path} has no pass '{name}'", fix=f"it has {', '.join(n for n in vars(module) if not n.startswith('_'))}")
