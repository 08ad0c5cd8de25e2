"""What a process needs so that it can load a library built with sanitizers."""

from __future__ import annotations

import subprocess

from graphopt.backends.cpu.toolchain import find_compiler
from graphopt.errors import BackendError

__all__ = ["environment"]

_RUNTIMES = {"address": "asan", "undefined": "ubsan", "thread": "tsan", "leak": "lsan"}


def environment(sanitize: str) -> dict[str, str]:
    """Variables for a process that loads libraries built with `-fsanitize=<sanitize>`: the runtimes come first.

    Python and torch leak and mix allocators by design; only what the library does is looked for.

    Raises:
        BackendError: the compiler's runtimes are not installed.
    """
    if not sanitize:
        return {}
    compiler = find_compiler()
    paths: list[str] = []
    for name in sanitize.split(","):
        file = f"lib{_RUNTIMES.get(name, name)}.so"
        done = subprocess.run([*compiler.command, f"-print-file-name={file}"], capture_output=True, text=True, check=False)
        path = done.stdout.strip()
        if not path.startswith("/"):
            raise BackendError(
                f"{compiler.text} has no {file}", fix="install the sanitizer runtimes (they come with g++), or use another CXX"
            )
        paths.append(path)
    return {
        "LD_PRELOAD": " ".join(paths),
        "ASAN_OPTIONS": "detect_leaks=0:alloc_dealloc_mismatch=0:halt_on_error=1:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONMALLOC": "malloc",
    }
