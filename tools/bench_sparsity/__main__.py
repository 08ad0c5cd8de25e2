"""Quality against sparsity and measured latency: ours, torch.nn.utils.prune and NNCF; see docs/benchmarks-sparsity.md.

    python -m tools.bench_sparsity                                  all tasks, three seeds; writes the page
    python -m tools.bench_sparsity --tasks minilm,crepe --ratios 0.5,0.8 --arms obs,torch
    python -m tools.bench_sparsity --quick --tasks crepe            ratio 0.8, one seed, few rounds, no page
    python -m tools.bench_sparsity --no-timing                      quality alone
    python -m tools.bench_sparsity --timing-only                    latency of what was run, on a quiet machine
    python -m tools.bench_sparsity --page-only                      the page again, from the results there are

Everything is kept below --root, and what was run is not run again: delete a file of results to have it run anew. Checkpoints,
probes and data are shared with tools.bench_shrink (--assets); the first run of `resnet` or `mobilenet` trains the network.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from tools.bench_quality.packages import MissingDataError
from tools.bench_quality.pages import write_page
from tools.bench_quality.records import STAGES
from tools.bench_quality.tasks import TASKS
from tools.bench_sparsity.deploy import deploy_dense, run_int8
from tools.bench_sparsity.latency import contenders, measure
from tools.bench_sparsity.methods import ARMS
from tools.bench_sparsity.plot import draw
from tools.bench_sparsity.points import board, timing_name
from tools.bench_sparsity.runs import run_arm, run_dense
from tools.bench_sparsity.subject import Subject
from tools.bench_sparsity.table import page

__all__ = ["main"]

_REPOSITORY = Path(__file__).parents[2]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench_sparsity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"by commas (default {','.join(TASKS)})")
    parser.add_argument("--arms", default="", help="only methods whose name contains one of these, by commas (default all)")
    parser.add_argument(
        "--ratios", default="", help="zeros, or the time that shrunk networks keep, by commas (default those of each method)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default 3)")
    parser.add_argument("--stages", default=",".join(STAGES), help="plain, or plain,tuned (default)")
    parser.add_argument("--threads", type=int, default=1, help="threads for everything but timing (default 1)")
    parser.add_argument("--timing-threads", type=int, default=2, help="threads of the networks that are timed (default 2)")
    parser.add_argument("--rounds", type=int, default=11, help="rounds of timing (default 11, with --quick 3)")
    parser.add_argument("--quick", action="store_true", help="ratio 0.8, one seed, few rounds, no page")
    parser.add_argument("--no-timing", action="store_true", help="leave timing for later, when the machine is quiet")
    parser.add_argument("--timing-only", action="store_true", help="only time what was run")
    parser.add_argument("--page-only", action="store_true", help="run nothing, write the page from the results there are")
    parser.add_argument("--root", type=Path, default=_REPOSITORY / "build" / "bench_sparsity", help="where results are kept")
    parser.add_argument(
        "--assets", type=Path, default=_REPOSITORY / "build" / "bench_shrink", help="folder with checkpoints, probes and data"
    )
    parser.add_argument("--page", type=Path, help="write this file (default docs/benchmarks-sparsity.md, with --quick none)")
    return parser


def _parts(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _names(text: str, known: Sequence[str], what: str) -> list[str]:
    found = _parts(text)
    for name in found:
        if name not in known:
            raise ValueError(f"'{name}' is no {what}: use {', '.join(known)}")
    if not found:
        raise ValueError(f"no {what} is given: use {', '.join(known)}")
    return found


def _arms(text: str) -> list[str]:
    parts = [part.lower() for part in _parts(text)]
    found = [name for name in ARMS if not parts or any(part in name.lower() for part in parts)]
    if not found:
        raise ValueError(f"no method's name contains '{text}': there are {', '.join(ARMS)}")
    return found


def _ratios(text: str) -> tuple[float, ...]:
    known = {f"{ratio:g}": ratio for ratio in sorted({ratio for arm in ARMS.values() for ratio in arm.ratios})}
    return tuple(known[name] for name in _names(text, tuple(known), "ratio")) if text else tuple(known.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, time it, write the page; 2 for arguments that make no sense or data that is not there."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    try:
        tasks = _names(options.tasks, tuple(TASKS), "task")
        stages = tuple(stage for stage in STAGES if stage in {"plain", *_names(options.stages, STAGES, "stage")})
        arms, ratios = _arms(options.arms), (0.8,) if options.quick and not options.ratios else _ratios(options.ratios)
        if options.timing_only and options.no_timing:
            raise ValueError("--timing-only and --no-timing leave nothing to do: give one of them")
        for name in [] if options.page_only else tasks:
            subject = Subject(TASKS[name](options.assets))
            if not options.timing_only:
                _run(subject, arms, ratios, stages, options, console)
            if not options.no_timing:
                _time(subject, options)
    except (ValueError, MissingDataError) as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False)
        return 2
    target = options.page or (None if options.quick else _REPOSITORY / "docs" / "benchmarks-sparsity.md")
    if target is not None:
        _write_page(options.root, target)
        console.print(f"wrote {target}", highlight=False)
    return 0


def _run(
    subject: Subject,
    arms: Sequence[str],
    ratios: Sequence[float],
    stages: Sequence[str],
    options: argparse.Namespace,
    console: Console,
) -> None:
    """Seed by seed, so that a run that is stopped has whole comparisons; a method that is not installed is left out."""
    began, task, missing = time.perf_counter(), subject.task, set[str]()
    run_dense(subject, options.root)
    for seed in range(1 if options.quick else options.seeds):
        for ratio in ratios:
            for name in (name for name in arms if ratio in ARMS[name].ratios and name not in missing):
                try:
                    run = run_arm(subject, ARMS[name], ratio, seed, options.root, stages)
                except MissingDataError as error:
                    missing.add(name)
                    console.print(f"{task.name}, {name}: left out, {error}", highlight=False, markup=False)
                    continue
                outcome = run.failure or ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in run.seconds.items())
                print(f"[{time.perf_counter() - began:.0f} s] {run.key}: {outcome}", flush=True)
    run = run_int8(task, options.root)
    print(f"[{time.perf_counter() - began:.0f} s] {run.key}: {run.failure or run.settings}", flush=True)
    deploy_dense(task, options.root)


def _time(subject: Subject, options: argparse.Namespace) -> None:
    task, root = subject.task, options.root
    sparse = [timing_name(arm.name, ratio) for arm in ARMS.values() if arm.timed for ratio in arm.ratios]
    rounds, seconds = (3, 0.03) if options.quick else (options.rounds, 0.1)
    deploy_dense(task, root)
    who = contenders(root, task.name, sparse)
    measure(root, task.name, task.batch, options.timing_threads, who, rounds, seconds, lambda text: print(text, flush=True))


def _write_page(root: Path, target: Path) -> None:
    write_page([found for task in TASKS.values() if (found := board(root, task)) is not None], target, draw, page)


if __name__ == "__main__":
    raise SystemExit(main())
