"""Latency of our CPU backend beside ONNX Runtime, OpenVINO, torch.compile and eager PyTorch; see docs/benchmarks-cpu.md.

    python -m tools.bench_cpu                                      all models, batch 1, 2 threads; writes the page
    python -m tools.bench_cpu --models resnet50,bert --batch 1,8 --threads 1,2
    python -m tools.bench_cpu --arms ours,low --models resnet50    int8 and bf16 of the peers beside ours
    python -m tools.bench_cpu --quick                              three models, few rounds, no page
    python -m tools.bench_cpu --page-only                          the page again, from the results there are

Files that the arms read (weights, ONNX, graphs) and results are kept below --root: what was prepared once is not
prepared again, and --resume leaves out cases that were measured. Preparing takes about half a minute per model.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from tools.bench_cpu import models
from tools.bench_cpu.arms import ARMS, INFORMATIVE, LEAST, OURS, PEERS
from tools.bench_cpu.machine import describe
from tools.bench_cpu.pool import WorkerError
from tools.bench_cpu.records import Case, append, newest
from tools.bench_cpu.rounds import CANARY, Settings, measure
from tools.bench_cpu.table import cases, page, summary

__all__ = ["main"]

_REPOSITORY = Path(__file__).parents[2]
_GROUPS = {"dense": models.DENSE, "sparse": models.SPARSE, "all": (*models.DENSE, *models.SPARSE)}
_ARM_GROUPS = {"peers": PEERS, "low": INFORMATIVE, "all": ARMS}
_QUICK = ("resnet18", "mobilenet_v2", "bert")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench_cpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", help="names or groups (dense, sparse, all), by commas; any torchvision classifier works; default all")
    parser.add_argument("--batch", default="1", help="batch sizes, by commas (default 1)")
    parser.add_argument("--threads", default="2", help="thread counts, by commas (default 2)")
    parser.add_argument("--arms", default="ours,peers", help=f"of {', '.join(ARMS)}, or peers, low, all (default ours,peers)")
    parser.add_argument("--rounds", type=int, help="rounds per case (default 9, with --quick 4)")
    parser.add_argument("--seconds", type=float, help="length of a turn (default 0.12, with --quick 0.05)")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(_QUICK)} unless --models, few rounds, no page")
    parser.add_argument("--resume", action="store_true", help="leave out cases whose results have these arms and versions")
    parser.add_argument("--cores", help="cores to run on, by commas (default the first ones that this process may use)")
    parser.add_argument("--lock", type=Path, help="hold a lock on this file during each round, on a machine where others measure too")
    parser.add_argument("--root", type=Path, default=_REPOSITORY / "build" / "bench_cpu", help="where files and results are kept")
    parser.add_argument("--page", type=Path, help="write this file (default docs/benchmarks-cpu.md when all models are measured)")
    parser.add_argument("--page-only", action="store_true", help="measure nothing, write the page from the results")
    parser.add_argument("--prepare-only", action="store_true", help="write the files that the arms read, measure nothing")
    return parser


def _names(text: str, groups: Mapping[str, tuple[str, ...]], known: tuple[str, ...] | None, what: str) -> list[str]:
    """Names by commas, groups resolved, in order, each once.

    Raises:
        ValueError: an empty or unknown name.
    """
    found: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if known is not None and part not in groups and part not in known:
            raise ValueError(f"'{part}' is no {what}: use {', '.join((*known, *groups))}")
        if not part:
            raise ValueError(f"an empty {what} in '{text}'")
        found += groups.get(part, (part,))
    return list(dict.fromkeys(found))


def _numbers(text: str, what: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"{what} is '{text}', needs positive numbers by commas")
    return list(dict.fromkeys(int(part) for part in parts))


def _check_models(names: list[str]) -> None:
    import torchvision

    known = {*torchvision.models.list_models(torchvision.models), "bert"}
    for name in names:
        if models.spec(name).architecture not in known:
            raise ValueError(f"'{name}' is no model: use {', '.join(_GROUPS['all'])}, or another torchvision classifier")


def _prepare(root: Path, name: str, batch: int, *, int8: bool) -> None:
    """In a process of its own: exporters keep memory, and threads, for themselves.

    Raises:
        WorkerError: the model could not be built.
    """
    command = [sys.executable, "-m", "tools.bench_cpu.prepare", str(root.resolve()), name, str(batch), *(["--int8"] if int8 else [])]
    done = subprocess.run(command, cwd=_REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkerError(f"preparing {name} failed: {' / '.join(done.stderr.strip().splitlines()[-2:])[-400:]}")


def _is_done(results: Path, case: Case, arms: list[str]) -> bool:
    session = newest(results, case, arms)
    return session is not None and dict(session.environment) == describe() and not session.is_noisy


def main(arguments: list[str] | None = None) -> int:
    """Prepare, measure, print, write."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    allowed = sorted(os.sched_getaffinity(0))
    try:
        names = _names(options.models or (",".join(_QUICK) if options.quick else "all"), _GROUPS, None, "model")
        _check_models(names)
        arms = _names(options.arms, _ARM_GROUPS, ARMS, "arm")
        threads = _numbers(options.threads, "--threads")
        batches = _numbers(options.batch, "--batch")
        cores = [int(core) for core in options.cores.split(",")] if options.cores else allowed
        if not set(cores) <= set(allowed):
            raise ValueError(f"--cores {options.cores}: this process may use {', '.join(map(str, allowed))}")
        if max(threads) > len(cores):
            raise ValueError(f"{max(threads)} threads need as many cores, there are {len(cores)}")
    except ValueError as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False)
        return 2
    results = options.root / "results"
    if not options.page_only:
        settings = Settings(
            rounds=options.rounds or (4 if options.quick else 9),
            seconds=options.seconds or (0.05 if options.quick else 0.12),
            lock=options.lock,
        )
        failed = _run(console, options, names, arms, batches, threads, cores, settings, results)
        if options.prepare_only:
            return failed
    whole = not options.models and not options.quick
    target = options.page or (_REPOSITORY / "docs" / "benchmarks-cpu.md" if whole or options.page_only else None)
    if target is not None and cases(results):
        _write_page(results, target)
        console.print(f"wrote {target}", highlight=False)
    return 0


def _run(
    console: Console,
    options: argparse.Namespace,
    names: list[str],
    arms: list[str],
    batches: list[int],
    threads: list[int],
    cores: list[int],
    settings: Settings,
    results: Path,
) -> int:
    """Prepare and measure all cases; 1 when one could not be prepared or measured."""
    failed = 0
    started = time.perf_counter()
    with console.status("preparing the canary") as status:
        _prepare(options.root, CANARY, 1, int8=False)
        for batch in batches:
            for count in threads:
                for name in names:
                    case = Case(name, batch, count)
                    if options.resume and _is_done(results, case, arms):
                        console.print(f"{case}: measured before", highlight=False)
                        continue
                    try:
                        status.update(f"{case}: preparing")
                        _prepare(options.root, name, batch, int8=bool(set(arms) & set(INFORMATIVE)))
                        if options.prepare_only:
                            continue

                        def say(what: str, case: Case = case) -> None:
                            status.update(f"{case}: {what} ({time.perf_counter() - started:.0f} s)")

                        session = measure(case, arms, options.root, cores[:count] if count > 1 else cores[-1:], settings, say)
                    except WorkerError as error:
                        failed = 1
                        console.print(f"error: {case}: {error}", style="red", highlight=False, markup=False)
                        continue
                    append(results, session)
                    print(summary(session), flush=True)
    return failed


def _write_page(results: Path, target: Path) -> None:
    from tools.bench_cpu.plot import draw

    drawn = [session for case in cases(results) if (session := newest(results, case, (OURS, *LEAST))) is not None]
    picture = target.with_suffix(".svg")
    shown = draw([session for session in drawn if (session.case.batch, session.case.threads) == (1, 2)], picture)
    target.write_text(page(results, picture.name if shown else None, results.parents[1] / "check_cpu"))


if __name__ == "__main__":
    raise SystemExit(main())
