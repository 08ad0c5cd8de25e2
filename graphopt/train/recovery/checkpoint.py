"""Checkpoints that a kill can't spoil: written beside the old one, flushed, and put in its place in one step.

The file is torch's format and read with `weights_only`, so reading one runs no code of it. A fingerprint of the run
(the student's states, the options) stands in it: going on with something else is an error and not a strange result.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from graphopt.errors import ArtifactError, UsageError

__all__ = ["Checkpoint", "fingerprint"]

_FORMAT = 1


def fingerprint(states: Mapping[str, torch.Tensor], options: Mapping[str, object]) -> str:
    """A digest of names, types and sizes of states, and of the options that a run depends on."""
    parts = [f"{name} {tensor.dtype} {tuple(tensor.shape)}" for name, tensor in states.items()]
    parts += [f"{name}={value!r}" for name, value in sorted(options.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Checkpoint:
    """One file, of one run.

    Raises:
        UsageError: the folder of the file does not exist.
    """

    def __init__(self, path: str | os.PathLike[str], run: str) -> None:
        self.path = Path(path)
        self._run = run
        if not self.path.parent.is_dir() or self.path.is_dir():
            raise UsageError(f"checkpoint {self.path} can't be written", fix="give a file in a folder that exists: checkpoint='recover.pt'")

    def save(self, content: Mapping[str, Any]) -> None:
        """Write it; the file is either the old one or this one, whatever happens."""
        made = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            with made.open("wb") as file:
                torch.save({"format": _FORMAT, "run": self._run, **content}, file)
                file.flush()
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
        for part in self.path.parent.glob(f"{self.path.name}.*.part"):
            part.unlink(missing_ok=True)  # of a run that was killed while it wrote
        if not self.path.exists():
            return None
        try:
            found: Any = torch.load(self.path, map_location="cpu", weights_only=True)
            format_, run = found["format"], found["run"]
        except Exception as error:  # whatever a damaged file makes torch raise
            raise ArtifactError(f"checkpoint {self.path} can't be read: {error}", fix="delete it to start from the beginning") from error
        if format_ != _FORMAT or run != self._run:
            raise UsageError(
                f"checkpoint {self.path} is that of another run: the student or an option differs",
                fix="give the same arguments as then, another file, or delete it",
            )
        return found
