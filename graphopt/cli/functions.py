"""Finds the user's own functions that a command line names: `FILE.py:FUNCTION` or `package.module:FUNCTION`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from graphopt.errors import GraphoptError, UsageError

__all__ = ["call_function", "import_file", "load_function"]

_IMPORTED: dict[tuple[Path, int], ModuleType] = {}
"""Files by path and time of change: model, data and metric often come from one file, which runs once."""


def import_file(path: Path) -> ModuleType:
    """Run a Python file as a module.

    Raises:
        UsageError: it does not exist, or fails.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}", fix="give an absolute path, or one from the current folder")
    key = path.resolve(), path.stat().st_mtime_ns
    if key in _IMPORTED:
        return _IMPORTED[key]
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise UsageError(f"{path} can't be imported as Python", fix="give a file that ends in .py")
    loaded = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = loaded
    try:
        specification.loader.exec_module(loaded)
    except Exception as error:
        raise UsageError(f"{path} fails when imported: {type(error).__name__}: {error}", fix="run it with python to see why") from error
    _IMPORTED[key] = loaded
    return loaded


def load_function(specification: str, option: str) -> Callable[..., Any]:
    """The function that `specification` names, for the command-line option `option`.

    Raises:
        UsageError: it has another form, or module or function do not exist.
    """
    home, colon, name = specification.rpartition(":")
    if not colon or not name.isidentifier() or not home:
        raise UsageError(
            f"{option} '{specification}' names no function", fix=f"write {option} FILE.py:FUNCTION or {option} module:FUNCTION"
        )
    if home.endswith(".py"):
        module = import_file(Path(home))
    else:
        try:
            module = importlib.import_module(home)
        except Exception as error:
            fix = f"for a file, write {option} {home}.py:{name}"
            raise UsageError(f"{option}: module '{home}' can't be imported: {type(error).__name__}: {error}", fix=fix) from error
    found = getattr(module, name, None)
    if not callable(found):
        near = difflib.get_close_matches(name, [known for known in vars(module) if not known.startswith("_")], n=4)
        raise UsageError(f"{option}: {home} has no function '{name}'", fix=f"near names: {', '.join(near)}" if near else None)
    return found


def call_function(specification: str, option: str) -> Any:
    """What the named function returns, called without arguments.

    Raises:
        UsageError: it does not exist, or raises.
    """
    function = load_function(specification, option)
    try:
        return function()
    except GraphoptError:
        raise
    except Exception as error:
        raise UsageError(
            f"{option}: {specification}() raised {type(error).__name__}: {error}", fix="it is called without arguments"
        ) from error
