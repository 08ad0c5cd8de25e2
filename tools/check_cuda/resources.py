"""What compiled kernels need of a GPU, from the compiler's own report: registers, bytes of stack and shared memory."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import BackendError

__all__ = ["Resources", "resources_of"]

_USAGE = re.compile(r"Function [^:]+:\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True, slots=True)
class Resources:
    """Of one kernel on one architecture. `spills` are bytes of local memory and stack that each thread needs, 0 when all is in
    registers; `shared` are bytes of shared memory of one program."""

    registers: int
    spills: int
    shared: int


def resources_of(cubin: bytes, shared: int) -> Resources:
    """What `cuobjdump --dump-resource-usage` says of a cubin; Triton asks for its shared memory when it launches: `shared` bytes.

    Raises:
        BackendError: cuobjdump is missing or says something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        done = subprocess.run([_tool(), "--dump-resource-usage", str(file)], capture_output=True, text=True, check=False)
    found = _USAGE.search(done.stdout)
    if found is None:
        raise BackendError(f"cuobjdump tells no resources: {(done.stderr or done.stdout).strip()[-300:]}")
    registers, stack, static, local = (int(number) for number in found.groups())
    return Resources(registers, stack + local, max(shared, static))


def _tool() -> str:
    """cuobjdump as Triton brings it, or on the PATH."""
    import triton

    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    found = str(bundled) if bundled.exists() else shutil.which("cuobjdump")
    if found is None:
        raise BackendError("there is no cuobjdump, neither in Triton nor on the PATH", fix="install the CUDA toolkit")
    return found
