"""A folder of files that is written as a whole and read with distrust.

    model.gir/
      manifest.json        {"files": {"graph.gir": {"bytes": 812, "sha256": "..."}, ...}, "format": "graphopt", "version": 1, ...}
      graph.gir
      weights.safetensors

Writing goes to a new folder beside the target, which takes the target's place when all of it is on disk.
Reading opens plain files only, never follows a link, and compares every size and hash with the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

from graphopt.errors import ArtifactError

__all__ = ["FORMAT_VERSION", "MANIFEST", "ArtifactReader", "ArtifactWriter", "graphopt_version", "strict_json", "write_artifact"]

FORMAT_VERSION = 1
"""Version of the folder's layout; a reader refuses newer ones."""

MANIFEST = "manifest.json"
"""Name of the file that lists the others."""

_MOST_MANIFEST_BYTES = 1 << 20
_CHUNK = 1 << 22
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\Z")
_DIGITS = frozenset("0123456789abcdef")


class ArtifactWriter:
    """Writes files into the new folder; get one from `write_artifact`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, dict[str, int | str]] = {}

    def write(self, name: str, produce: Callable[[Callable[[bytes | memoryview], object]], None]) -> None:
        """Write one file: `produce` calls its argument with each piece in order, which is hashed as it passes."""
        digest = hashlib.sha256()
        size = 0
        with (self._folder / name).open("xb") as file:

            def emit(piece: bytes | memoryview) -> None:
                nonlocal size
                digest.update(piece)
                size += len(piece)
                file.write(piece)

            produce(emit)
            file.flush()
            os.fsync(file.fileno())
        self._files[name] = {"bytes": size, "sha256": digest.hexdigest()}

    def finish(self) -> None:
        """Write the manifest."""
        manifest = {"files": self._files, "format": "graphopt", "graphopt": graphopt_version(), "version": FORMAT_VERSION}
        text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
        self.write(MANIFEST, lambda emit: void(emit(text.encode())))
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def void(_: object) -> None:
    """Nothing: lets a lambda call something for its effect."""


def graphopt_version() -> str:
    """The version of this package, `unknown` where it runs without being installed."""
    try:
        return metadata.version("graphopt")
    except metadata.PackageNotFoundError:
        return "unknown"


@contextmanager
def write_artifact(target: Path, names: Collection[str]) -> Generator[ArtifactWriter]:
    """Write a folder of the files `names` and a manifest; it appears at `target` when the block ends well.

    A folder that stands there is replaced if it is empty or an artifact of these files and nothing else.

    Raises:
        ArtifactError: something else stands at `target`, or the folder can't be written.
    """
    target = Path(os.path.abspath(target))
    _check_replaceable(target, names)
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        writer = ArtifactWriter(fresh)
        yield writer
        writer.finish()
        _exchange(fresh, target, names)
    except OSError as error:
        raise ArtifactError(f"can't write the artifact: {error.strerror or error}", where=str(error.filename or target)) from error
    finally:
        _remove(fresh, names)


def _check_replaceable(target: Path, names: Collection[str]) -> None:
    try:
        status = target.lstat()
    except OSError:
        return  # nothing there, or a parent that creating it will complain about
    except ValueError as error:
        raise ArtifactError(f"{str(target)!r} is no path: {error}") from None
    fix = "choose another path, or remove what is there"
    if not stat.S_ISDIR(status.st_mode):
        raise ArtifactError("a file or link stands where the artifact's folder should go", where=str(target), fix=fix)
    present = set(os.listdir(target))
    foreign = sorted(present - {*names, MANIFEST})
    if present and (foreign or MANIFEST not in present):
        shown = f"it holds {', '.join(foreign[:3])}" if foreign else f"it has no {MANIFEST}"
        raise ArtifactError(f"refusing to replace a folder that is no graphopt artifact: {shown}", where=str(target), fix=fix)
    if present:
        ArtifactReader(target).manifest()


def _exchange(fresh: Path, target: Path, names: Collection[str]) -> None:
    """Put the new folder in the target's place. A folder can't replace a full one in one step: the old one moves aside first."""
    old = target.with_name(f".{target.name}.{secrets.token_hex(8)}.old")
    try:
        target.rename(old)
    except FileNotFoundError:
        fresh.rename(target)
        return
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise
    _remove(old, names)


def _remove(folder: Path, names: Collection[str]) -> None:
    """Remove our files and the folder; a file that is not ours stays, and so does the folder then."""
    for name in (*names, MANIFEST):
        with suppress(OSError):
            (folder / name).unlink()
    with suppress(OSError):
        folder.rmdir()


@dataclass(frozen=True, slots=True)
class _Entry:
    bytes: int
    sha256: str


class ArtifactReader:
    """Opens the files of a folder that may have been made by an enemy."""

    def __init__(self, folder: Path) -> None:
        try:
            self._folder = folder.resolve(strict=True)
            if not self._folder.is_dir():
                raise ArtifactError("an artifact is a folder, this is a file", where=str(folder))
        except (OSError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"there is no artifact here: {error}", where=str(folder), fix="check the path") from None
        self._entries: Mapping[str, _Entry] = {}

    @property
    def folder(self) -> Path:
        """The folder, as an absolute path without links."""
        return self._folder

    def path(self, name: str) -> Path:
        """Path of one file."""
        return self._folder / name

    def manifest(self) -> Mapping[str, object]:
        """Read and check the manifest, without the files that it lists."""
        with self.open(MANIFEST) as file:
            raw = file.read(_MOST_MANIFEST_BYTES + 1)
        if len(raw) > _MOST_MANIFEST_BYTES:
            raise self.error(MANIFEST, f"over {_MOST_MANIFEST_BYTES} bytes")
        try:
            content = strict_json(raw)
        except ValueError as error:
            raise self.error(MANIFEST, f"no proper JSON: {error}") from None
        if not isinstance(content, dict) or content.get("format") != "graphopt":
            raise self.error(MANIFEST, "not the manifest of a graphopt artifact: 'format' is not 'graphopt'")
        version = content.get("version")
        if type(version) is not int or version < 1:
            raise self.error(MANIFEST, f"'version' is {version!r}, needs a positive integer")
        if version > FORMAT_VERSION:
            raise self.error(MANIFEST, f"format version {version}, this graphopt reads up to {FORMAT_VERSION}", "update graphopt")
        self._entries = self._read_entries(content.get("files"))
        return content

    def check(self, names: Collection[str]) -> None:
        """Check that the folder holds the files `names` and no others, each as the manifest says: size and hash.

        Raises:
            ArtifactError: anything is missing, left over, a link, of another size or of other content.
        """
        self.manifest()
        if set(self._entries) != set(names):
            raise self.error(MANIFEST, f"lists {_shown(self._entries)}, needs {_shown(names)}")
        try:
            present = set(os.listdir(self._folder))
        except OSError as error:
            raise self.error(".", f"can't be listed: {error.strerror}") from None
        if present != {*names, MANIFEST}:
            raise ArtifactError(f"the folder holds {_shown(present)}, needs {_shown({*names, MANIFEST})}", where=str(self._folder))
        for name, entry in self._entries.items():
            with self.open(name) as file:
                size = os.fstat(file.fileno()).st_size
                if size != entry.bytes:
                    raise self.error(name, f"{size} bytes, the manifest says {entry.bytes}", "the file was damaged or cut off: save again")
                found = _hash(file)
            if found != entry.sha256:
                what = f"SHA-256 is {found}, the manifest says {entry.sha256}"
                raise self.error(name, what, "the file was changed or damaged: save again")

    def read(self, name: str, limit: int) -> bytes:
        """Content of a file of at most `limit` bytes, compared with the manifest once more."""
        with self.open(name) as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise self.error(name, f"over {limit} bytes")
        entry = self._entries.get(name)
        if entry is None or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise self.error(name, "changed while it was read")
        return content

    @contextmanager
    def open(self, name: str) -> Generator[BinaryIO]:
        """A plain file of the folder, for reading.

        Raises:
            ArtifactError: it is missing, a link, a device, or has a second name elsewhere (a hard link).
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self._folder / name, flags)
        except OSError as error:
            is_link = (self._folder / name).is_symlink()
            raise self.error(name, "a symbolic link, needs a plain file" if is_link else f"can't be opened: {error.strerror}") from None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            os.close(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise self.error(name, "not a plain file")
            what = f"a hard link, {status.st_nlink} names for one file"
            raise self.error(name, what, "copy the folder, which makes files of its own")
        with os.fdopen(descriptor, "rb") as file:
            try:
                yield file
            except OSError as error:
                raise self.error(name, f"can't be read: {error.strerror}") from None

    def error(self, name: str, what: str, fix: str | None = None) -> ArtifactError:
        """An error about one file."""
        return ArtifactError(f"{name}: {what}", where=str(self._folder), fix=fix)

    def _read_entries(self, files: object) -> Mapping[str, _Entry]:
        if not isinstance(files, dict):
            raise self.error(MANIFEST, "'files' is missing or no object")
        entries: dict[str, _Entry] = {}
        for name, entry in files.items():
            size = entry.get("bytes") if isinstance(entry, dict) else None
            digest = entry.get("sha256") if isinstance(entry, dict) else None
            if (
                not isinstance(name, str)
                or name != os.path.basename(name)
                or name in ("", ".", "..", MANIFEST)
                or "\\" in name
                or "\0" in name
            ):
                raise self.error(MANIFEST, f"lists the file {name!r}, which is no plain name")
            if type(size) is not int or size < 0 or not isinstance(digest, str) or len(digest) != 64 or not set(digest) <= _DIGITS:
                raise self.error(MANIFEST, f"'{name}' needs 'bytes' >= 0 and a 'sha256' of 64 hexadecimal digits")
            entries[name] = _Entry(size, digest)
        return entries


def strict_json(raw: bytes) -> object:
    """JSON in UTF-8 without duplicate keys, NaN or infinity.

    Raises:
        ValueError: with the reason.
    """
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {repeated[:80]!r} is given twice")
    return result


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not allowed")


def _hash(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _shown(names: Collection[str]) -> str:
    listed = sorted(name[:80] for name in names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "") if listed else "nothing"
