"""Timings of candidates, kept on disk under what decides them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from graphopt.backends.cache import private_folder

__all__ = ["TimingCache", "default_timings"]


class TimingCache:
    """Seconds by key in a JSON file of the cache folder; whatever can't be read counts as not there."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seconds: dict[str, float] = {}
        self._unkept: set[str] = set()
        if path is not None:
            try:
                found = json.loads(path.read_text())
            except (OSError, ValueError):
                found = {}
            if isinstance(found, dict):
                self._seconds = {str(key): float(value) for key, value in found.items() if isinstance(value, (int, float))}

    def get(self, key: str) -> float | None:
        """Seconds of a key, or None."""
        return self._seconds.get(key)

    def add(self, seconds: Mapping[str, float], disturbed: Mapping[str, float] | None = None) -> None:
        """Keep timings; another process may do the same at the same time, so the file is read once more and replaced whole.
        Those of a machine that was never quiet, `disturbed`, serve this plan and do not go into the file; what it had for them
        goes, as it is of another time than what was timed beside them."""
        self._seconds.update(seconds)
        self._seconds.update(disturbed or {})
        self._unkept = (self._unkept - set(seconds)) | set(disturbed or {})
        if self._path is None:
            return
        mine = {key: value for key, value in self._seconds.items() if key not in self._unkept}
        merged = {key: value for key, value in TimingCache(self._path)._seconds.items() if key not in self._unkept} | mine
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix="timings-")
        with os.fdopen(handle, "w") as file:
            json.dump(merged, file)
        os.replace(name, self._path)


def default_timings(name: str = "timings.json") -> TimingCache:
    """The user's timings in a file of that name; none are kept where the cache folder can't be used."""
    folder = private_folder()
    return TimingCache(None if folder is None else folder / name)
