"""Emitted Python as a module: Triton needs functions that have a file.

The text is written into the private compile cache, checked there as compiled libraries are, and imported from it.
Nothing of an artifact is ever imported.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from graphopt.backends.cache import default_cache
from graphopt.errors import BackendError

__all__ = ["CACHE", "PRODUCT", "load_module", "require_triton"]

CACHE = "cuda-1"
"""Folder of the compile cache; the number is that of the layout of entries."""
PRODUCT = "network.py"


def load_module(text: str) -> ModuleType:
    """The module of an emitted text; the same object for the same text.

    Raises:
        BackendError: Triton is not installed.
    """
    require_triton()
    digest = hashlib.sha256(text.encode()).hexdigest()
    name = f"graphopt_cuda_{digest[:24]}"
    known = sys.modules.get(name)
    if known is not None:
        return known

    def make(folder: Path) -> None:
        (folder / PRODUCT).write_text(text, encoding="utf-8")

    path = default_cache(CACHE, PRODUCT).fetch(digest, make).path
    loader = _TextLoader(name, path, text)
    specification = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert specification is not None, "a path with a loader has a specification"
    module = importlib.util.module_from_spec(specification)
    # inspect, which Triton asks for the lines of a function, looks its module up by name
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _TextLoader(SourceFileLoader):
    """Runs the text that was checked, not what a file beside it says: no bytecode is read or written."""

    def __init__(self, name: str, path: Path, text: str) -> None:
        super().__init__(name, str(path))
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        """The text as code."""
        return self.source_to_code(self._text.encode(), self.path)


@functools.cache
def require_triton() -> None:
    """Raises a `BackendError` where Triton is missing."""
    if importlib.util.find_spec("triton") is None:
        raise BackendError(
            "the backend cuda needs Triton, which is not installed", fix="pip install triton (Linux builds of torch bring it)"
        )
