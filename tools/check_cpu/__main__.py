"""Is the CPU backend right? And where does its time go?

    python -m tools.check_cpu                          300 random networks against float64, same bits for 1, 2 and 4 threads
    python -m tools.check_cpu --kind convnet --seed 17 --count 1       one network again
    python -m tools.check_cpu --sanitize --count 40    the same under AddressSanitizer and UndefinedBehaviorSanitizer
    python -m tools.check_cpu --isa avx2               another instruction set
    python -m tools.check_cpu --per-layer resnet50     time and fraction of peak of each step of a lowered model

Kernels are drawn from all candidates of the planner (--draw), not only those that are fast; --measure lowers as users do.
A network that fails is printed and written below --folder. Networks are compiled in batches: 300 take about ten minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from graphopt.errors import GraphoptError
from tools.check_cpu.networks import KINDS, make, schedule
from tools.check_cpu.pool import run_all
from tools.check_cpu.summary import summarise, text, write
from tools.check_cpu.trial import Outcome, Settings, Trial

__all__ = ["main"]

_REPOSITORY = Path(__file__).parents[2]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.check_cpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300, help="number of networks (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first network, counting up (default 0)")
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="only this kind; may be given several times")
    parser.add_argument("--threads", default="1,2,4", help="numbers of threads that must give the same bits (default 1,2,4)")
    parser.add_argument("--isa", default="native", help="native, avx512, avx2 or generic (default native)")
    parser.add_argument("--draw", type=int, default=0, help="seed by which kernels are drawn from the candidates (default 0)")
    parser.add_argument("--measure", action="store_true", help="choose kernels by measuring, as users do, instead of drawing them")
    sanitize_help = "build with these sanitizers (default address,undefined)"
    parser.add_argument("--sanitize", nargs="?", const="address,undefined", default="", metavar="LIST", help=sanitize_help)
    parser.add_argument("--batch", type=int, default=20, help="networks that are compiled together (default 20)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default one for each core)")
    parser.add_argument("--seconds", type=float, default=120.0, help="time limit of one network (default 120)")
    parser.add_argument(
        "--folder", type=Path, default=_REPOSITORY / "build" / "check_cpu", help="where failing networks and counts are written"
    )
    layers = parser.add_argument_group("time of each step")
    layers.add_argument(
        "--per-layer", metavar="MODEL", help="a model of the benchmark, such as resnet50 or bert-sparse80, or a saved graph"
    )
    layers.add_argument("--layer-threads", type=int, default=1, help="threads for --per-layer (default 1)")
    layers.add_argument("--runs", type=int, default=20, help="runs for --per-layer, of which the fastest counts for each step (default 20)")
    layers.add_argument("--json", type=Path, help="also write the figures of --per-layer to this file")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """0 when all is well, 1 when a network failed, 2 when the arguments make no sense."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        if options.per_layer:
            from tools.check_cpu.per_layer import show

            return show(options.per_layer, threads=options.layer_threads, runs=options.runs, isa=options.isa, json_file=options.json)
        return _check(options, console)
    except (GraphoptError, ValueError, FileNotFoundError) as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False)
        return 2


def _check(options: argparse.Namespace, console: Console) -> int:
    threads = tuple(int(part) for part in options.threads.split(","))
    if min(threads) < 1 or options.count < 1 or options.batch < 1 or options.jobs < 1:
        raise ValueError("--threads, --count, --batch and --jobs need positive numbers")
    settings = Settings(threads, options.isa, options.sanitize, options.measure, options.draw)
    trials = schedule(options.count, options.seed, tuple(options.kind or ()))
    found: dict[Trial, Outcome] = {}
    started = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("networks", total=len(trials))

        def report(trial: Trial, outcome: Outcome) -> None:
            found[trial] = outcome
            progress.advance(task)
            if outcome.failure:
                progress.update(task, description=f"networks, {sum(bool(entry.failure) for entry in found.values())} failed")
                _print_failure(trial, outcome, options)

        run_all(trials, settings, batch=options.batch, jobs=options.jobs, seconds=options.seconds, report=report)
    summary = summarise(found, settings, time.perf_counter() - started)
    write(summary, options.folder)
    print(text(summary, [trial for trial, outcome in found.items() if outcome.failure]), flush=True)
    return int(summary.failed > 0)


def _print_failure(trial: Trial, outcome: Outcome, options: argparse.Namespace) -> None:
    """The network, why it failed, and how to run it again."""
    kind, seed = trial
    network = str(make(kind, seed))
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / f"{kind}-{seed}.gir"
    file.write_text(network)
    again = f"python -m tools.check_cpu --kind {kind} --seed {seed} --count 1 --threads {options.threads} --isa {options.isa}"
    again += " --measure" if options.measure else f" --draw {options.draw}"
    again += f" --sanitize {options.sanitize}" if options.sanitize else ""
    print(
        f"\n{kind} {seed}: {outcome.failure}\n  kernels: {', '.join(outcome.algorithms)}\n  again: {again}\n  written to {file}\n{network}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
