"""The compile cache: private folders of code that this user's graphopt made, and of nothing else.

    ~/.cache/graphopt/cpu-1/
      3f9a.../              one entry, named by a SHA-256 of all that decides its content
        network.so          its product: a shared library; in ~/.cache/graphopt/cuda-1/ a Python module, network.py
        network.cpp ...     what it was compiled from, for people and debuggers
        entry.json          {"bytes": ..., "sha256": ...} of the product, written last
      locks/3f              held while somebody compiles an entry that begins with 3f
      failed/               sources of the last compilations that failed

An entry is made in a folder of its own, synced, and renamed: it is there as a whole or not at all, whoever is
killed when. Before a product is used its owner, permissions, size and hash are checked; any doubt is a miss,
and the entry is made again. Locks only keep two processes from compiling the same: nothing breaks without them.

What is in this folder is code that will run with this user's rights. So the folder must belong to the user, be
closed to others, and lie where nobody else can swap it; otherwise it is not used. `GRAPHOPT_CACHE` names another
folder in place of `$XDG_CACHE_HOME/graphopt` (`~/.cache/graphopt`).
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import BackendError, GraphoptWarning
from graphopt.ir.artifact import strict_json

__all__ = ["CPU", "LIBRARY", "Cache", "Entry", "default_cache", "private_folder"]

LIBRARY = "network.so"
"""The product of the CPU backend: the file that an entry is about."""

MOST_BYTES = 1 << 30
"""Size of a cache, unless `GRAPHOPT_CACHE_MEGABYTES` says otherwise; the entries that were not used longest go first."""

_ENTRY = "entry.json"
_ALIVE = "alive"
_KEY = re.compile(r"[0-9a-f]{64}\Z")
CPU = "cpu-1"
"""Name of the folder of shared libraries; the number is that of the layout of entries."""
_FAILED_KEPT = 8
_RECENT_SECONDS = 600.0
"""An entry that was used so recently is never removed: somebody may be about to load it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A product to load, and whether it was there already."""

    path: Path
    found: bool


class _DoubtError(Exception):
    """Something about an entry is not as it should be."""


# The folder


def private_folder(*, warn: bool = True) -> Path | None:
    """The folder of all caches of graphopt, made where it is missing; None, with one warning per process, where it can't
    be trusted or made."""
    folder = _base_folder()
    reason = _make_private(folder)
    if reason is None:
        return folder
    if warn:
        _warn_once(f"the cache {folder} is not used: {reason}")
    return None


def _base_folder() -> Path:
    chosen = os.environ.get("GRAPHOPT_CACHE")
    if chosen:
        return Path(os.path.abspath(chosen))
    base = os.environ.get("XDG_CACHE_HOME")
    if base and os.path.isabs(base):
        return Path(base) / "graphopt"
    return Path(os.path.expanduser("~")) / ".cache" / "graphopt"


def _make_private(folder: Path) -> str | None:
    """Make the folder; returns why it can't be used, or None."""
    if not folder.is_absolute():
        return "there is no home folder to put it in"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        return _distrust(folder)
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)


def _distrust(folder: Path) -> str | None:
    """Why someone else could have put something into a folder, or None."""
    status = folder.lstat()
    if stat.S_ISLNK(status.st_mode):
        return "it is a symbolic link"
    if not stat.S_ISDIR(status.st_mode):
        return "it is no folder"
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}, not to us ({os.geteuid()})"
    if status.st_mode & 0o022:
        return f"others may write to it (mode {stat.S_IMODE(status.st_mode):o})"
    for parent in folder.resolve().parents:
        above = parent.stat()
        if above.st_uid not in (0, os.geteuid()):
            return f"{parent} belongs to user {above.st_uid}, who could replace it"
        if above.st_mode & 0o002 and not above.st_mode & stat.S_ISVTX:
            return f"everybody may write to {parent}, and could replace it"
    return None


@functools.cache
def _warn_once(text: str) -> None:
    warnings.warn(text, GraphoptWarning, stacklevel=3)


# The cache


def default_cache(kind: str = CPU, product: str = LIBRARY) -> Cache:
    """The user's cache of one kind; where that can't be used, one in a temporary folder that goes when the process ends."""
    base = private_folder()
    if base is not None:
        folder = base / kind
        reason = _make_private(folder)
        if reason is None:
            return Cache(folder, _most_bytes(), product=product)
        _warn_once(f"the cache {folder} is not used: {reason}")
    return temporary_cache(product)


def temporary_cache(product: str = LIBRARY) -> Cache:
    """A cache of this process alone."""
    return Cache(_temporary_folder(os.getpid()), MOST_BYTES, lasting=False, product=product)


@functools.cache
def _temporary_folder(process: int) -> Path:
    """One for each process: a child of fork() must not remove its parent's."""
    folder = Path(tempfile.mkdtemp(prefix="graphopt-"))  # made with mode 0700
    atexit.register(_remove_own, folder, process)
    return folder


def _remove_own(folder: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _most_bytes() -> int:
    text = os.environ.get("GRAPHOPT_CACHE_MEGABYTES", "")
    if not text:
        return MOST_BYTES
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        _warn_once(f"GRAPHOPT_CACHE_MEGABYTES is {text[:40]!r}, needs a number; {MOST_BYTES >> 20} is used")
        return MOST_BYTES
    return int(text) << 20


class Cache:
    """A folder of entries; see the module's text. `lasting` ones sync what they write; `product` is the file that an entry is about."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES, *, lasting: bool = True, product: str = LIBRARY) -> None:
        self.folder = folder
        self.product = product
        self._most_bytes = most_bytes
        self._lasting = lasting

    def fetch(self, key: str, make: Callable[[Path], None], patience: float = 900.0) -> Entry:
        """The entry `key`, made by `make(folder)` when there is none that can be trusted. `make` leaves the product in an
        empty folder of mode 0700. Waits up to `patience` seconds for a process that makes the same entry.

        Where the cache can't be written, the entry is made in a temporary folder, with a warning.

        Raises:
            BackendError: `make` did; its sources stay in `failed/`.
        """
        assert _KEY.match(key), f"{key!r} is no SHA-256"
        found = self._find(key)
        if found is not None:
            return Entry(found, found=True)
        try:
            with self._lock(key, patience) as waited:
                found = self._find(key) if waited else None
                return Entry(found, found=True) if found is not None else Entry(self._make(key, make), found=False)
        except OSError as error:
            if not self._lasting:
                raise BackendError(
                    f"can't compile in {self.folder}: {error.strerror or error}", fix="set TMPDIR to a folder with room"
                ) from error
            _warn_once(f"the cache {self.folder} can't be written: {error.strerror or error}; compiled code is not kept")
            return temporary_cache(self.product).fetch(key, make, patience)

    # Reading

    def _find(self, key: str) -> Path | None:
        folder = self.folder / key
        try:
            path = _checked_product(folder, self.product)
        except FileNotFoundError:
            if not os.path.lexists(folder):
                return None
            self._drop(key, "a file is missing")
        except _DoubtError as doubt:
            self._drop(key, str(doubt))
        except OSError as error:
            self._drop(key, error.strerror or str(error))
        else:
            with suppress(OSError):
                os.utime(folder / _ENTRY)
            return path
        return None

    def _drop(self, key: str, reason: str) -> None:
        warnings.warn(f"an entry of the compile cache is made again: {reason} ({self.folder / key})", GraphoptWarning, stacklevel=4)
        with suppress(OSError):
            self._remove(self.folder / key)

    def _remove(self, folder: Path) -> None:
        """Rename, then remove: nobody ever sees half an entry, and two who remove it do not meet."""
        old = self.folder / f".{secrets.token_hex(8)}.old"
        folder.rename(old)
        if old.is_symlink() or not old.is_dir():
            old.unlink()
        else:
            shutil.rmtree(old, ignore_errors=True)

    # Writing

    def _make(self, key: str, make: Callable[[Path], None]) -> Path:
        with self._workplace() as fresh:
            try:
                make(fresh)
            except BackendError as error:
                error.where = self._keep_failed(key, fresh)
                raise
            product = fresh / self.product
            os.chmod(product, 0o700)
            content = product.read_bytes()
            entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            (fresh / _ENTRY).write_text(json.dumps(entry) + "\n")
            (fresh / _ENTRY).chmod(0o600)
            if self._lasting:
                for path in (product, fresh / _ENTRY, fresh):
                    _sync(path)
            target = self.folder / key
            try:
                fresh.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                # Someone who did not wait for the lock was faster; theirs is as good, and may be in use.
                self._replace(fresh, target)
            with suppress(OSError):
                (target / _ALIVE).unlink()
            if self._lasting:
                _sync(self.folder)
        self._tidy()
        return target / self.product

    def _replace(self, fresh: Path, target: Path) -> None:
        try:
            _checked_product(target, self.product)
        except (OSError, _DoubtError):
            with suppress(FileNotFoundError):
                self._remove(target)
            fresh.rename(target)

    @contextmanager
    def _workplace(self) -> Generator[Path]:
        """A new folder, locked while it is worked in so that nobody tidies it away; gone afterwards unless renamed."""
        fresh = self.folder / f".{secrets.token_hex(8)}.partial"
        fresh.mkdir(mode=0o700)
        alive = -1
        try:
            alive = os.open(fresh / _ALIVE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with suppress(OSError):
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield fresh
        finally:
            if alive >= 0:
                os.close(alive)
            shutil.rmtree(fresh, ignore_errors=True)

    def _keep_failed(self, key: str, fresh: Path) -> str:
        """Move what could not be compiled out of the way; where it is."""
        failed = self.folder / "failed"
        target = failed / key[:16]
        with suppress(OSError):  # it is kept for people; a compile error is reported all the same
            failed.mkdir(mode=0o700, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            fresh.rename(target)
            older = sorted((path for path in failed.iterdir() if path != target), key=lambda path: path.lstat().st_mtime)
            for path in older[: max(0, len(older) + 1 - _FAILED_KEPT)]:
                shutil.rmtree(path, ignore_errors=True)
        return str(target)

    @contextmanager
    def _lock(self, key: str, patience: float) -> Generator[bool]:
        """Hold the lock of a key's group; yields True when somebody else had it first. The system gives up the lock of a
        process that dies. Who waited in vain goes on without: then two compile the same, and one wins."""
        locks = self.folder / "locks"
        waited = False
        try:
            locks.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(locks / key[:2], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            yield False
            return
        try:
            end = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waited = True
                    if time.monotonic() > end:
                        break
                    time.sleep(0.01)
                except OSError:  # a file system without locks
                    break
            yield waited
        finally:
            os.close(handle)

    # Size

    def _tidy(self) -> None:
        """Remove what was left by the dead, and the entries that were not used longest."""
        entries: list[tuple[float, int, Path]] = []
        now = time.time()
        try:
            present = list(os.scandir(self.folder))
        except OSError:
            return
        for item in present:
            with suppress(OSError):
                path = Path(item.path)
                if item.name.endswith((".partial", ".old")) and item.name.startswith("."):
                    self._sweep(path, now)
                elif _KEY.match(item.name):
                    used = (path / _ENTRY).lstat().st_mtime
                    size = sum(file.stat(follow_symlinks=False).st_size for file in os.scandir(path))
                    entries.append((min(used, now), size, path))
        total = sum(size for _, size, _ in entries)
        for used, size, path in sorted(entries):
            if total <= self._most_bytes or now - used < _RECENT_SECONDS:
                break
            with suppress(OSError):
                self._remove(path)
            total -= size

    def _sweep(self, path: Path, now: float) -> None:
        if abs(now - path.lstat().st_mtime) < 60.0:
            return  # it may be so new that its lock is not yet taken
        try:
            alive = os.open(path / _ALIVE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            shutil.rmtree(path, ignore_errors=True)
            return
        try:
            with suppress(OSError):  # somebody works there
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(alive)


def _checked_product(folder: Path, product: str) -> Path:
    """The product of an entry, every byte of it as its maker left it.

    Raises:
        FileNotFoundError: a file is missing.
        _DoubtError: anything is not as it should be.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise _DoubtError("it is no folder")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise _DoubtError("it belongs to another user, or others may write to it")
    try:
        entry = strict_json(_content(folder / _ENTRY, 4096))
    except ValueError as error:
        raise _DoubtError(f"{_ENTRY} is no proper JSON: {error}") from None
    match entry:
        case {"bytes": int(size), "sha256": str(digest)} if type(size) is int and 0 < size < 1 << 32:
            pass
        case _:
            raise _DoubtError(f"{_ENTRY} lacks a size or a hash")
    content = _content(folder / product, size)
    if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
        raise _DoubtError(f"{product} is not what was written")
    return folder / product


def _content(path: Path, limit: int) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise _DoubtError(f"{path.name} is no plain file of its own")
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise _DoubtError(f"{path.name} belongs to another user, or others may write to it")
        if status.st_size > limit:
            raise _DoubtError(f"{path.name} has {status.st_size} bytes, {limit} are expected")
        return file.read(limit + 1)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
