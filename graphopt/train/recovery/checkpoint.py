"""Checkpoints that a kill can't spoil: written beside the old one, flushed, and put in its place in one step.

The file is safetensors, with everything that is no tensor as JSON in its header, so reading one runs no code. A
fingerprint of the run (the numbers that it starts from, the options) stands in it: going on with something else is an
error and not a strange result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from graphopt.errors import ArtifactError, UsageError

__all__ = ["Checkpoint", "discard_unfinished", "fingerprint", "read"]

_FORMAT = 1


def fingerprint(tensors: Iterable[tuple[str, torch.Tensor]], options: Mapping[str, object] | None = None) -> str:
    """The SHA-256 of named tensors (dtypes, shapes and all numbers, bit by bit), and of the options that a run depends on."""
    digest = hashlib.sha256()
    for name, value in sorted((options or {}).items()):
        digest.update(f"{name}={value!r}\n".encode())
    for name, tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(memoryview(cast("Any", plain.reshape(-1).view(torch.uint8).numpy())))
    return digest.hexdigest()


def discard_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what runs left that were killed while they wrote the file `name`, or any. It looks at all files of the folder."""
    for part in folder.glob(f"{name}.*.part"):
        part.unlink(missing_ok=True)


class Checkpoint:
    """One file, of one run: `run` is its fingerprint, and `options` what an error names where another one's differ.

    Raises:
        UsageError: the folder of the file does not exist.
    """

    def __init__(self, path: str | os.PathLike[str], run: str, options: Mapping[str, object] | None = None) -> None:
        self.path = Path(path)
        self._run = run
        self._options = {name: repr(value) for name, value in (options or {}).items()}
        if not self.path.parent.is_dir() or self.path.is_dir():
            raise UsageError(
                f"checkpoint {self.path} can't be written", fix="give a file in a folder that exists: checkpoint='recover.safetensors'"
            )

    def save(self, content: Mapping[str, Any]) -> None:
        """Write it; the file is either the old one or this one, whatever happens."""
        made = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            tensors: dict[str, torch.Tensor] = {}
            text = json.dumps(_encoded(dict(content), tensors, set()))
            save_file(tensors, made, metadata={**self._header(), "content": text})
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.replace(self.path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                made.unlink()

    def load(self) -> dict[str, Any] | None:
        """What was saved last, on the CPU; None where there is no file.

        Raises:
            ArtifactError: the file is damaged.
            UsageError: it is that of another run.
        """
        if not self.path.exists():
            return None
        try:
            format_, run, content = read(self.path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArtifactError(f"checkpoint {self.path} can't be read: {error}", fix="delete it to start from the beginning") from error
        if (format_, run) != (str(_FORMAT), self._run):
            raise UsageError(
                f"checkpoint {self.path} is that of another run: {self._differences()}",
                fix="give the same arguments as then, another file, or delete it",
            )
        return content

    def _header(self) -> dict[str, str]:
        return {"format": str(_FORMAT), "run": self._run, "options": json.dumps(self._options)}

    def _differences(self) -> str:
        """What the file's run was that this one is not."""
        with safe_open(self.path, framework="pt") as file:
            text = (file.metadata() or {}).get("options", "{}")
        found = cast("dict[str, str]", json.loads(text))
        names = sorted({*found, *self._options}) if found and self._options else ()
        changed = [(name, found.get(name), self._options.get(name)) for name in names if found.get(name) != self._options.get(name)]
        if changed:
            return "; ".join(f"{name} was {then or 'left out'}, is {now or 'left out'}" for name, then, now in changed)
        return "the numbers of the model or the teacher differ" if names else "the model, the teacher or an option differs"


def read(path: Path) -> tuple[str, str, dict[str, Any]]:
    """Format, fingerprint of the run, and content of a checkpoint.

    Raises:
        SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError: it is damaged.
    """
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        content = _decoded(json.loads(header["content"]), file)
    if not isinstance(content, dict):
        raise ValueError("it holds no run")
    return header["format"], header["run"], content


def _encoded(value: Any, tensors: dict[str, torch.Tensor], taken: set[int]) -> list[Any]:
    """Nested data as JSON: [kind, content]; tensors by name, each with memory of its own, whose addresses are `taken`."""
    match value:
        case torch.Tensor():
            name = str(len(tensors))
            plain = value.detach().cpu().contiguous()
            tensors[name] = plain.clone() if plain.data_ptr() in taken else plain
            taken.add(tensors[name].data_ptr())
            return ["tensor", name]
        case None | bool() | int() | float() | str():
            return ["value", value]
        case dict():
            return ["dict", [[_encoded(key, tensors, taken), _encoded(item, tensors, taken)] for key, item in value.items()]]
        case list() | tuple():
            return ["list" if isinstance(value, list) else "tuple", [_encoded(item, tensors, taken) for item in value]]
        case _:
            raise UsageError(f"a checkpoint can't hold a {type(value).__name__}", fix="give numbers, texts, tensors, lists and dicts")


def _decoded(text: Any, file: Any) -> Any:
    """The other way round."""
    kind, content = text
    match kind:
        case "tensor":
            return file.get_tensor(content)
        case "value":
            return content
        case "dict":
            return {_decoded(key, file): _decoded(item, file) for key, item in content}
        case "list":
            return [_decoded(item, file) for item in content]
        case "tuple":
            return tuple(_decoded(item, file) for item in content)
        case _:
            raise ValueError(f"unknown kind {kind!r}")
