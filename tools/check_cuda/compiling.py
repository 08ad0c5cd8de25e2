"""Kernels to cubin, without a GPU, in a process that compiles: `python -m tools.check_cuda.compiling typical`.

Triton decides when it is imported whether it compiles or interprets, so this is no place for cases to be run. One line of JSON for each
launch of each kernel: family, name, architecture, seconds, resources or the error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graphopt.backends.cuda.kernel import Launch, Work
from graphopt.errors import BackendError
from tools.check_cuda.resources import Resources, resources_of

__all__ = ["ARCHITECTURES", "Compiled", "compile_all", "compile_elsewhere"]

ARCHITECTURES = (80, 90)
"""Compute capabilities: A100 and H100."""
_TYPES = {"f64": "fp64", "f32": "fp32", "f16": "fp16", "bf16": "bf16", "bool": "i1"}


@dataclass(frozen=True, slots=True)
class Compiled:
    """One launch of a kernel for one architecture; `failure` is empty when it compiled."""

    family: str
    name: str
    architecture: int
    resources: Resources | None
    failure: str = ""


def compile_all(kernels: Iterable[tuple[str, str, Work]], architectures: Sequence[int] = ARCHITECTURES) -> Iterator[Compiled]:
    """Compile kernels (family, name, kernel).

    Raises:
        BackendError: this process interprets.
    """
    from triton import knobs

    if knobs.runtime.interpret:
        raise BackendError("this process interprets Triton, it can't compile", fix="run it with TRITON_INTERPRET=0")
    for family, name, kernel in kernels:
        for architecture in architectures:
            try:
                for resources in _compile(kernel, architecture):
                    yield Compiled(family, name, architecture, resources)
            except Exception as error:  # noqa: BLE001  # whatever the compiler raises is a finding
                yield Compiled(family, name, architecture, None, f"{type(error).__name__}: {str(error)[:500]}")


def _compile(kernel: Work, architecture: int) -> Iterator[Resources]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from graphopt.backends.cuda.emit import kernels_of
    from graphopt.backends.cuda.module import load_module

    text, (code,) = kernels_of([kernel])
    module: Any = load_module(text)
    for launch in code.launches:
        assert isinstance(launch, Launch), "an emitted kernel calls no library"
        function = getattr(module, launch.function)
        pairs = list(zip(function.arg_names, launch.arguments, strict=True))
        signature = {name: "*" + _TYPES.get(storage.dtype.text, storage.dtype.text) for name, storage in pairs}
        # as at a launch: pointers that are multiples of 16 bytes are known to be
        aligned = {
            (place,): [["tt.divisibility", 16]]
            for place, (_, storage) in enumerate(pairs)
            if storage.offset * storage.dtype.bytes % 16 == 0
        }
        source = ASTSource(function, signature=signature, constexprs={}, attrs=aligned)
        options = {"num_warps": launch.warps, "num_stages": launch.stages}
        made: Any = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
        yield resources_of(made.asm["cubin"], made.metadata.shared)


def compile_elsewhere(which: str, architectures: Sequence[int] = ARCHITECTURES, names: Sequence[str] = ()) -> Iterator[Compiled]:
    """The same in a process that compiles, as it goes: `which` is "typical" or "cases"; of the given names alone, where any are given.

    Raises:
        BackendError: the process failed.
    """
    command = [sys.executable, "-m", "tools.check_cuda.compiling", which, "--architectures", *map(str, architectures), "--only", *names]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None, "it is a pipe"
        for line in process.stdout:
            found: dict[str, Any] = json.loads(line)
            resources = found.pop("resources")
            yield Compiled(**found, resources=Resources(**resources) if resources else None)
    if process.returncode:
        raise BackendError(f"{' '.join(command)} ended with {process.returncode}")


def main(arguments: list[str] | None = None) -> int:
    """Print a line of JSON for each launch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=("typical", "cases"))
    parser.add_argument("--architectures", type=int, nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    for compiled in compile_all(_chosen(options.which, options.only), options.architectures):
        print(json.dumps(asdict(compiled)), flush=True)
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    return 0


def _chosen(which: str, only: Sequence[str]) -> Iterator[tuple[str, str, Work]]:
    if which == "typical":
        from tools.check_cuda.typical import typical_kernels

        found = typical_kernels()
    else:
        from tools.check_cuda.cases import all_cases

        found = ((case.family, case.name, case.kernel) for case in all_cases())
    return (entry for entry in found if not only or entry[1] in only or entry[0] in only)


if __name__ == "__main__":
    raise SystemExit(main())
