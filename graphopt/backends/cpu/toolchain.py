"""Finding a C++ compiler and building a network's library with it."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from graphopt.backends.cpu.emit import Sources
from graphopt.errors import BackendError

__all__ = ["build"]

_MACHINE = {
    "avx512": ("-march=skylake-avx512", "-mprefer-vector-width=512"),
    "avx2": ("-march=x86-64-v3",),
    "generic": (),
}


def build(sources: Sources, isa: str = "avx512", sanitize: str = "") -> Path:
    """Compile and link; the path of the shared library."""
    folder = Path(tempfile.mkdtemp(prefix="graphopt-"))
    for name, text in sources.files.items():
        (folder / name).write_text(text)
    flags = ["-std=c++17", "-O2", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra", "-Wno-psabi", "-fPIC", "-pthread", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", f"-DGRAPHOPT_ISA={isa}", *_MACHINE[isa]]
    if sanitize:
        flags += [f"-fsanitize={sanitize}", "-g"]
    running = [
        (unit, subprocess.Popen(["g++", *flags, f"-DGRAPHOPT_UNIT={unit}", "-c", "network.cpp", "-o", f"{unit}.o"], cwd=folder, stderr=subprocess.PIPE, text=True))
        for unit in range(sources.units)
    ]
    for unit, process in running:
        _, error = process.communicate()
        if process.returncode:
            raise BackendError(f"unit {unit} does not compile:\n{error[:4000]}", where=str(folder))
    objects = [f"{unit}.o" for unit in range(sources.units)]
    subprocess.run(["g++", "-shared", "-pthread", *([f"-fsanitize={sanitize}"] if sanitize else []), *objects, "-o", "network.so"], cwd=folder, check=True)
    return folder / "network.so"
