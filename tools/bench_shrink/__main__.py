"""Quality against measured latency for ours, Torch-Pruning and plain magnitude; see docs/benchmarks-shrink.md.

    python -m tools.bench_shrink                             all tasks, three seeds; writes the page
    python -m tools.bench_shrink --tasks crepe,resnet        some
    python -m tools.bench_shrink --quick --tasks crepe       one level, one seed, no fine-tuning, no page
    python -m tools.bench_shrink --tasks minilm --stages plain
    python -m tools.bench_shrink --tasks resnet --arms latency,taylor --stages longer    fine-tuning of five times the steps
    python -m tools.bench_shrink --targets onnxruntime,cpu   latency in our CPU backend too
    python -m tools.bench_shrink --screen --tasks resnet     importance and ranking in all combinations, on validation data
    python -m tools.bench_shrink --page-only                 the page again, from the results there are

Everything is kept below --root, and what was run is not run again: delete a file of results to have it run anew.
The first run of `resnet` or `mobilenet` trains the network (about 15 minutes each on one core).
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
from tools.bench_quality.records import LONGER, STAGES
from tools.bench_quality.tasks import TASKS
from tools.bench_quality.tasks.base import Task
from tools.bench_shrink.board import board
from tools.bench_shrink.latency import TARGETS, measure_missing
from tools.bench_shrink.methods import ARMS
from tools.bench_shrink.runs import run_arm, run_dense
from tools.bench_shrink.screen import screen
from tools.bench_shrink.table import page

__all__ = ["main"]

_REPOSITORY = Path(__file__).parents[2]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench_shrink", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"by commas (default {','.join(TASKS)})")
    parser.add_argument("--arms", default="", help="only methods whose name contains one of these, by commas (default all)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default 3)")
    parser.add_argument("--levels", type=int, default=0, help="only so many levels of each task, the first ones (default all)")
    parser.add_argument("--stages", default=",".join(STAGES), help="by commas: plain, tuned, longer (default plain,tuned)")
    parser.add_argument(
        "--targets", default="onnxruntime", help=f"where latency is measured, of {', '.join(TARGETS)} (default onnxruntime)"
    )
    parser.add_argument("--rounds", type=int, default=15, help="rounds of timing (default 15)")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads for shrinking, scoring and fine-tuning (default 1); timing uses one"
    )
    parser.add_argument("--quick", action="store_true", help="the second level, one seed, no fine-tuning, few rounds, no page")
    parser.add_argument("--screen", action="store_true", help="only compare importance and ranking of shrink-channels, on validation data")
    parser.add_argument("--no-timing", action="store_true", help="leave timing for later, when the machine is quiet")
    parser.add_argument("--page-only", action="store_true", help="run nothing, write the page from the results there are")
    parser.add_argument("--root", type=Path, default=_REPOSITORY / "build" / "bench_shrink", help="where everything is kept")
    parser.add_argument("--page", type=Path, help="write this file (default docs/benchmarks-shrink.md, with --quick none)")
    return parser


def _names(text: str, known: Sequence[str], what: str) -> list[str]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    for name in found:
        if name not in known:
            raise ValueError(f"'{name}' is no {what}: use {', '.join(known)}")
    if not found:
        raise ValueError(f"no {what} is given: use {', '.join(known)}")
    return list(dict.fromkeys(found))


def _chosen(text: str) -> list[str]:
    parts = [part.strip().lower() for part in text.split(",") if part.strip()]
    found = [name for name in ARMS if not parts or any(part in name.lower() for part in parts)]
    if not found:
        raise ValueError(f"no method's name contains '{text}': there are {', '.join(ARMS)}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, time it, write the page; 2 for arguments that make no sense or data that is not there."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    try:
        tasks = _names(options.tasks, tuple(TASKS), "task")
        stages = tuple(_names(options.stages, (*STAGES, LONGER), "stage"))
        targets = _names(options.targets, TARGETS, "target")
        arms = _chosen(options.arms)
        for name in [] if options.page_only else tasks:
            task = TASKS[name](options.root)
            if options.screen:
                screen(task, options.root, lambda text: print(text, flush=True))
            else:
                _run(task, arms, stages, targets, options)
    except (ValueError, MissingDataError) as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False)
        return 2
    target = options.page or (None if options.quick or options.screen else _REPOSITORY / "docs" / "benchmarks-shrink.md")
    if target is not None:
        _write_page(options.root, target)
        console.print(f"wrote {target}", highlight=False)
    return 0


def _run(task: Task, arms: Sequence[str], stages: tuple[str, ...], targets: Sequence[str], options: argparse.Namespace) -> None:
    began = time.perf_counter()
    dense = run_dense(task, options.root)
    stages = ("plain",) if options.quick else ("plain", *(stage for stage in stages if stage != "plain"))
    architectures: list[str] = []
    for seed in range(1 if options.quick else options.seeds):
        for name in arms:
            levels = ARMS[name].levels(task)
            wanted = tuple(stage for stage in stages if stage in ARMS[name].stages(task))
            for level in () if not wanted else levels[1:2] if options.quick else levels[: options.levels or None]:
                run = run_arm(task, ARMS[name], level, seed, options.root, wanted)
                outcome = run.failure or ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in run.seconds.items())
                print(f"[{time.perf_counter() - began:.0f} s] {run.key}: {outcome}", flush=True)
                if run.architecture:
                    architectures.append(run.architecture)
    if not options.no_timing:
        rounds, seconds = (5, 0.02) if options.quick else (options.rounds, 0.05)
        measure_missing(task, dense.architecture, architectures, targets, rounds, seconds, lambda text: print(text, flush=True))


def _write_page(root: Path, target: Path) -> None:
    from tools.bench_shrink.plot import draw

    write_page([found for task in TASKS.values() if (found := board(root, task)) is not None], target, draw, page)


if __name__ == "__main__":
    raise SystemExit(main())
