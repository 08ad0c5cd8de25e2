"""Finding a C++ compiler, and building a network's library with it.

    library = build(sources, isa="native")        from the cache, or compiled now

The compiler is `$CXX` where that is set, else the first of g++, clang++, c++ that is new enough, else the one in
the package `ziglang` (`pip install 'graphopt[cpu]'`). It is run with a list of arguments, never through a shell,
in a private folder; one process for each unit of the network, as many at once as there are cores.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.backends.cache import LIBRARY, default_cache, temporary_cache
from graphopt.backends.cpu.isa import machine_flags, resolve
from graphopt.errors import BackendError
from graphopt.ir.artifact import graphopt_version

if TYPE_CHECKING:
    from graphopt.backends.cpu.emit import Sources

__all__ = ["FLAGS", "WARNINGS", "Build", "Compiler", "build", "build_library", "find_compiler"]

FLAGS = (
    "-std=c++17",
    "-O2",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-exceptions",
    "-fno-rtti",
    "-Wno-psabi",
)
"""How a network is compiled everywhere; instruction sets add their own. Numbers depend on these: no fast-math."""

WARNINGS = ("-Wall", "-Wextra", "-Werror")
"""Added by tests."""

_SHARED = ("-fPIC", "-fvisibility=hidden", "-pthread")
_OLDEST = {"gcc": 11, "clang": 13, "zig": 13}
_SANITIZERS = frozenset({"address", "undefined", "thread", "leak"})
_SECONDS = 600.0
"""Time limit of one build."""
_ENVIRONMENT = ("CPATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX")
"""Variables that change what a compiler makes: they are part of the key."""
_FIX = "install g++ 11 or newer (apt install g++), set CXX to a compiler, or pip install 'graphopt[cpu]'"
_SHOWN_LINES = 6


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler: how it is called, `kind` (gcc, clang or zig), major version, and its own words about itself."""

    command: tuple[str, ...]
    kind: str
    major: int
    identity: str

    @property
    def text(self) -> str:
        """For reports: `g++ (gcc 12.2.0)`."""
        return f"{' '.join(self.command)} ({self.kind} {self.identity})"


@dataclass(frozen=True, slots=True)
class Build:
    """A library to load; `found` in the cache, or compiled in `seconds`."""

    path: Path
    found: bool
    seconds: float


# Finding a compiler


def find_compiler() -> Compiler:
    """The compiler that networks are compiled with.

    Raises:
        BackendError: there is none that is new enough, or `$CXX` is none.
    """
    return _find(os.environ.get("CXX", ""), os.environ.get("PATH", ""))


@functools.lru_cache(maxsize=8)
def _find(chosen: str, _path: str) -> Compiler:
    if chosen.strip():
        try:
            return _probe(tuple(shlex.split(chosen)))
        except (ValueError, OSError) as error:
            raise BackendError(f"CXX is {chosen!r}: {error}", fix="set CXX to a C++ compiler, or unset it") from None
    reasons: list[str] = []
    for name in ("g++", "clang++", "c++"):
        if shutil.which(name) is None:
            continue
        try:
            return _probe((name,))
        except (ValueError, OSError) as error:
            reasons.append(f"{name}: {error}")
    if importlib.util.find_spec("ziglang") is not None:
        try:
            return _probe((sys.executable, "-m", "ziglang", "c++"))
        except (ValueError, OSError) as error:
            reasons.append(f"ziglang: {error}")
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise BackendError(f"the target cpu needs a C++ compiler, and g++, clang++, c++ and ziglang are not to be had{why}", fix=_FIX)


def _probe(command: tuple[str, ...]) -> Compiler:
    """Ask a compiler for its macros.

    Raises:
        ValueError: it is none, or too old.
        OSError: it can't be run.
    """
    arguments = [*command, "-dM", "-E", "-x", "c++", "-"]
    try:
        done = subprocess.run(arguments, input="", capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError("does not answer within 120 seconds") from None
    macros = dict(re.findall(r"^#define (\w+) (.*)$", done.stdout, re.MULTILINE))
    if done.returncode != 0 or "__VERSION__" not in macros:
        raise ValueError(f"is no C++ compiler: {_first_line(done.stderr) or 'it prints no macros'}")
    clang = "__clang__" in macros
    kind = "zig" if "ziglang" in command or Path(command[0]).name == "zig" else "clang" if clang else "gcc"
    major = int(macros.get("__clang_major__" if clang else "__GNUC__", "0"))
    identity = macros["__VERSION__"].strip('"')
    if major < _OLDEST[kind]:
        raise ValueError(f"{kind} {identity} is too old, {_OLDEST[kind]} is needed")
    target = " ".join(sorted(name for name in ("__x86_64__", "__aarch64__", "__linux__", "__APPLE__") if name in macros))
    return Compiler(command, kind, major, f"{identity} {target}".strip())


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0][:200]


# Building


def build(sources: Sources, isa: str = "native", sanitize: str = "", *, warnings: bool = False, keep: bool = True) -> Path:
    """The shared library of a network; see `build_library`."""
    return build_library(sources, isa, sanitize, warnings=warnings, keep=keep).path


def build_library(sources: Sources, isa: str = "native", sanitize: str = "", *, warnings: bool = False, keep: bool = True) -> Build:
    """The shared library of a network, from the cache where the same was compiled before.

    `sanitize` is a list for `-fsanitize`, such as `address,undefined`; such a library loads into a process that has the
    sanitizer's runtime. `warnings` makes warnings errors. With `keep` False the library lasts as long as the process.

    Raises:
        BackendError: there is no compiler, this machine lacks the instruction set, or the code does not compile; then
            the first errors are in the message, with the folder where the source is.
    """
    start = time.monotonic()
    compiler = find_compiler()
    isa = resolve(isa)
    flags = compile_flags(compiler, isa, sanitize, warnings=warnings)
    link = _link_flags(compiler, sanitize)
    key = _key(sources.files, sources.units, compiler, flags, link)

    def make(folder: Path) -> None:
        for name, text in sources.files.items():
            (folder / name).write_text(text, encoding="ascii")
        _compile(folder, sources.units, compiler, flags, link)

    cache = default_cache() if keep else temporary_cache()
    entry = cache.fetch(key, make, patience=_SECONDS + 60.0)
    return Build(entry.path, entry.found, time.monotonic() - start)


def compile_flags(compiler: Compiler, isa: str, sanitize: str = "", *, warnings: bool = False) -> list[str]:
    """Flags of one unit, without `-DGRAPHOPT_UNIT`."""
    flags = [*FLAGS, *_SHARED, *machine_flags(isa, zig=compiler.kind == "zig"), f"-DGRAPHOPT_ISA={isa}", *_sanitize_flags(sanitize)]
    if compiler.kind == "zig":
        flags.append("-fno-sanitize=undefined")  # which Zig turns on by itself
    return [*flags, *(WARNINGS if warnings else ("-w",))]


def _link_flags(compiler: Compiler, sanitize: str) -> list[str]:
    flags = [*_SHARED, "-shared", *_sanitize_flags(sanitize)]
    if sys.platform == "linux" and not sanitize:
        flags.append("-Wl,-z,defs")  # what is missing shows here, not when it is loaded
    if compiler.kind == "zig":
        flags.append("-nostdlib++")  # nothing of it is used, and Zig would compile it first, for a minute
    return flags


def _sanitize_flags(sanitize: str) -> list[str]:
    if not sanitize:
        return []
    unknown = set(sanitize.split(",")) - _SANITIZERS
    if unknown:
        raise BackendError(f"sanitize is {sanitize!r}, needs some of {', '.join(sorted(_SANITIZERS))}")
    return [
        f"-fsanitize={sanitize}",
        "-fno-omit-frame-pointer",
        "-g",
        *(["-fno-sanitize-recover=undefined"] if "undefined" in sanitize else []),
    ]


def _key(files: Mapping[str, str], units: int, compiler: Compiler, flags: Sequence[str], link: Sequence[str]) -> str:
    """SHA-256 of everything that decides what the library is."""
    resolved = shutil.which(compiler.command[0]) or compiler.command[0]
    content = {
        "graphopt": graphopt_version(),
        "compiler": [resolved, *compiler.command[1:], compiler.kind, compiler.identity],
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()},
        "flags": list(flags),
        "link": list(link),
        "units": units,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(slots=True)
class _Jobs:
    """The compilers that run now, and the first thing that went wrong."""

    folder: Path
    end: float
    environment: dict[str, str]
    running: set[subprocess.Popen[str]] = field(default_factory=set["subprocess.Popen[str]"])
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: bool = False

    def run(self, command: Sequence[str], what: str) -> None:
        """Run one compiler to its end.

        Raises:
            BackendError: it fails, or the time is over.
            OSError: the disk is full, or it can't be started.
        """
        with self.lock:
            if self.stopped:
                return
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # so that the compiler proper, a child of g++, can be ended with it
            )
            self.running.add(process)
        try:
            _, errors = process.communicate(timeout=max(0.1, self.end - time.monotonic()))
        except subprocess.TimeoutExpired:
            _end(process)
            process.communicate()
            raise BackendError(
                f"the compiler took more than {_SECONDS:.0f} seconds for {what}: {shlex.join(command)}", fix="set CXX to another compiler"
            ) from None
        finally:
            with self.lock:
                self.running.discard(process)
        if process.returncode != 0 and not self.stopped:
            raise _failure(command, what, process.returncode, errors)

    def stop(self) -> None:
        """End all that run; nothing more is started."""
        with self.lock:
            self.stopped = True
            for process in self.running:
                _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _failure(command: Sequence[str], what: str, code: int, errors: str) -> Exception:
    if "No space left on device" in errors:
        return OSError(errno.ENOSPC, "no space left on device")
    lines = [
        line for line in errors.splitlines() if re.search(r"\b(error|Error|undefined reference|not found)\b", line)
    ] or errors.splitlines()
    shown = "\n".join(f"    {line[:300]}" for line in lines[:_SHOWN_LINES])
    ended = f"was ended by signal {-code}" if code < 0 else f"refuses {what}"
    killed = "signal" in errors and "terminated program" in errors
    return BackendError(
        f"the compiler {ended}:\n{shown}\n  command: {shlex.join(command)}",
        fix="there may be too little memory: set threads or use another machine"
        if killed
        else "report this with the source, which is kept",
    )


def _compile(folder: Path, units: int, compiler: Compiler, flags: Sequence[str], link: Sequence[str]) -> None:
    """Compile all units of `network.cpp`, side by side, and link `LIBRARY`."""
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(folder)}
    jobs = _Jobs(folder, time.monotonic() + _SECONDS, environment)
    objects = [f"unit_{unit}.o" for unit in range(units)]
    commands = [
        [*compiler.command, *flags, f"-DGRAPHOPT_UNIT={unit}", "-c", "network.cpp", "-o", objects[unit]]
        for unit in reversed(range(units))  # the last has the longest headers
    ]
    workers = max(1, min(units, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
    with ThreadPoolExecutor(workers, thread_name_prefix="graphopt-compile") as pool:
        try:
            futures = [pool.submit(jobs.run, command, "the network") for command in commands]
            for future in futures:
                future.result()
        except BaseException:  # an interrupt too: no compiler outlives the call
            jobs.stop()
            pool.shutdown(cancel_futures=True)
            raise
    jobs.run([*compiler.command, *link, *objects, "-o", LIBRARY], "the objects")
    for name in objects:
        (folder / name).unlink()
