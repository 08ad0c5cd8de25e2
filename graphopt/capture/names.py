"""Where a captured operation comes from: module path, file and line, and a readable name.

    nn_module_stack  ('layer1.0.conv1', 'torch.nn.modules.conv.Conv2d')   ->  module "layer1.0.conv1"
    stack_trace      File ".../site-packages/torchvision/models/resnet.py", line 92   ->  "torchvision/models/resnet.py", 92

Of the recorded stack only the innermost frame outside torch is kept. Files are shortened to the path
inside their package, so that texts are the same on every machine and tell nothing about it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx

from graphopt.ir.graph import Source

__all__ = ["Place", "is_torch_file", "place_of", "short_file", "user_frame"]

FRAME = re.compile(r'^\s*File "([^"\n]+)", line (\d+)', re.MULTILINE)
CALL_SUFFIX = re.compile(r"@\d+")
TORCH_FOLDER = str(Path(torch.__file__).parent) + os.sep


@dataclass(frozen=True, slots=True)
class Place:
    """Module path and class of one traced call, and its line in the user's code."""

    module: str
    class_name: str
    source: Source

    @property
    def is_torch_module(self) -> bool:
        """True when the innermost module is one of torch.nn's own."""
        return self.class_name.startswith("torch.nn.modules.")


def place_of(node: fx.Node, outer: str = "") -> Place:
    """The place of an fx node; `outer` is used where the node itself has no module path."""
    path, class_name = outer, ""
    stack: object = node.meta.get("nn_module_stack")
    if isinstance(stack, Mapping):
        for key, entry in reversed(list(stack.items())):
            if isinstance(entry, tuple) and len(entry) == 2 and not str(key).startswith("_empty_nn_module_stack"):
                path, class_name = CALL_SUFFIX.sub("", str(entry[0])), _class_text(entry[1])
                break
    trace: object = node.meta.get("stack_trace")
    file, line = user_frame(trace) if isinstance(trace, str) else ("", 0)
    return Place(path, class_name, Source(path, file, line))


def user_frame(trace: str) -> tuple[str, int]:
    """File (shortened) and line of the innermost frame outside torch, else of the innermost frame."""
    frames = [(match[1], int(match[2])) for match in FRAME.finditer(trace)]
    for file, line in reversed(frames):
        if not is_torch_file(file):
            return short_file(file), line
    return (short_file(frames[-1][0]), frames[-1][1]) if frames else ("", 0)


def short_file(file: str) -> str:
    """The path inside the package or import folder that the file belongs to."""
    normal = file.replace(os.sep, "/")
    for marker in ("/site-packages/", "/dist-packages/"):
        if marker in normal:
            return normal.rsplit(marker, 1)[1]
    folders = sorted((entry for entry in (*sys.path, str(Path.cwd())) if entry), key=len, reverse=True)
    for folder in folders:
        prefix = folder.replace(os.sep, "/").rstrip("/") + "/"
        if prefix != "/" and normal.startswith(prefix):
            return normal[len(prefix) :]
    return normal.rsplit("/", 1)[-1]


def is_torch_file(file: str) -> bool:
    """True for files of torch itself, and for code without a file."""
    return file.startswith((TORCH_FOLDER, "torch/")) or "<" in file


def _class_text(entry: object) -> str:
    return f"{entry.__module__}.{entry.__qualname__}" if isinstance(entry, type) else str(entry)
