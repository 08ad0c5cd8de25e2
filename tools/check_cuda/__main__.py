"""Are the kernels of the CUDA backend right, and do they compile? No GPU is needed.

    python -m tools.check_cuda                     every case in Triton's interpreter; typical kernels compiled for sm_80 and sm_90
    python -m tools.check_cuda --only rows         one group of cases
    python -m tools.check_cuda --compile-cases     compile the kernels of all cases too
    python -m tools.check_cuda --networks 200      random networks through the interpreter, compared with float64; goes on where it stopped
    python -m tools.check_cuda --kind convnet --seed 17 --networks 1       one network again
    python -m tools.check_cuda --gpu               every case compiled and run on the GPU of this machine
    python -m tools.check_cuda --compute-sanitizer memcheck                the same under NVIDIA's compute-sanitizer

--write puts the tables into docs/check-cuda.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.check_cuda.networks import Outcome
    from tools.check_cuda.page import Verdict

__all__ = ["main"]

_REPOSITORY = Path(__file__).parents[2]
_PAGE = _REPOSITORY / "docs" / "check-cuda.md"
_SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.check_cuda", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    groups = ("elementwise", "rows", "images", "indexed", "products")
    parser.add_argument("--only", choices=groups, action="append", help="only this group of cases; may be given several times")
    parser.add_argument("--compile-cases", action="store_true", help="compile the kernels of all cases, too")
    parser.add_argument("--no-compile", action="store_true", help="run the cases alone")
    parser.add_argument("--gpu", action="store_true", help="run the cases on the GPU instead of the interpreter")
    parser.add_argument("--compute-sanitizer", choices=_SANITIZERS, metavar="TOOL", help=f"--gpu under it: {', '.join(_SANITIZERS)}")
    parser.add_argument("--networks", type=int, default=0, metavar="N", help="run this many random networks instead of the cases")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first network, counting up (default 0)")
    parser.add_argument("--kind", action="append", help="only networks of this kind; may be given several times")
    parser.add_argument("--folder", type=Path, default=_REPOSITORY / "build" / "check_cuda", help="where verdicts on networks are kept")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/check-cuda.md")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """0 when all is well, 1 when something failed, 2 when the arguments make no sense."""
    options = _parser().parse_args(arguments)
    # Triton decides when it is imported; nothing above imports it
    os.environ["TRITON_INTERPRET"] = "0" if options.gpu else "1"
    if options.compute_sanitizer:
        return _sanitize(options.compute_sanitizer)

    import torch

    torch.set_num_threads(1)
    if options.gpu and not torch.cuda.is_available():
        print("error: there is no GPU that torch can use; without --gpu the cases are interpreted", file=sys.stderr)
        return 2
    return _networks(options) if options.networks else _cases(options)


def _sanitize(tool: str) -> int:
    """This command with --gpu, under compute-sanitizer."""
    found = shutil.which("compute-sanitizer")
    if found is None:
        print("error: compute-sanitizer is not on the PATH; it comes with the CUDA toolkit", file=sys.stderr)
        return 2
    # torch keeps freed memory, which would hide what lies beyond a tensor
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [found, "--tool", tool, "--error-exitcode", "1", sys.executable, "-m", "tools.check_cuda", "--gpu", "--no-compile"]
    return subprocess.run(command, env=environment, check=False).returncode


def _cases(options: argparse.Namespace) -> int:
    from tools.check_cuda.cases import GROUPS
    from tools.check_cuda.compiling import Compiled, compile_elsewhere
    from tools.check_cuda.interpret import judge
    from tools.check_cuda.page import matrix, resources, write_section

    verdicts: list[Verdict] = []
    for group in options.only or GROUPS:
        for case in GROUPS[group]():
            error, failure = judge(case, "cuda" if options.gpu else "cpu")
            verdicts.append((case.family, case.name, str(case.want.dtype).removeprefix("torch."), error, failure))
            if failure:
                print(f"{case.family} {case.name}: {failure}", flush=True)
    typical: list[Compiled] = []
    small: list[Compiled] = []
    if not options.no_compile:
        typical = list(compile_elsewhere("typical"))
        small = list(compile_elsewhere("cases")) if options.compile_cases else []
        for entry in (*typical, *small):
            if entry.failure:
                print(f"{entry.family} {entry.name} sm_{entry.architecture}: {entry.failure}", flush=True)
    tables = {"matrix": matrix(verdicts, small or typical), "resources": resources(typical)}
    for name, table in tables.items():
        if name == "matrix" or typical:
            print(f"\n{table}")
        if options.write and (name == "matrix" or typical):
            write_section(_PAGE, name, table)
    return int(any(verdict[4] for verdict in verdicts) or any(entry.failure for entry in (*typical, *small)))


def _networks(options: argparse.Namespace) -> int:
    from tools.check_cpu.networks import schedule
    from tools.check_cuda.networks import run_networks
    from tools.check_cuda.page import networks, write_section

    def report(outcome: Outcome) -> None:
        if outcome.failure:
            print(f"{outcome.kind} {outcome.seed}: {outcome.failure}", flush=True)

    trials = schedule(options.networks, options.seed, tuple(options.kind or ()))
    outcomes = run_networks(trials, options.folder / "networks.jsonl", report)
    failed = sum(bool(outcome.failure) for outcome in outcomes)
    table = networks(outcomes)
    print(f"{len(outcomes)} networks, {failed} mismatches\n\n{table}")
    if options.write:
        write_section(_PAGE, "networks", table)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
